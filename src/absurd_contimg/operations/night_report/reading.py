"""Reads a night: registry, queue and products become `NightFacts`, and those a `NightReport`."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path

from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.backend import Inspection
from absurd_contimg.core.records import History
from absurd_contimg.history.wait_explanation import WaitContext
from absurd_contimg.operations.night_report.facts import (
    DataFigures,
    EarlierNight,
    GroupFacts,
    ImageFigures,
    NightFacts,
    Number,
)
from absurd_contimg.operations.night_report.group_reading import GroupReader, Measurements
from absurd_contimg.operations.night_report.judge import judge
from absurd_contimg.operations.night_report.nights import Night, groups_of, known_nights
from absurd_contimg.operations.night_report.product_figures import measure_image
from absurd_contimg.operations.night_report.result_reading import (
    closed_windows,
    mosaic_facts,
    publications_of,
    unprocessed_items,
    variability_facts,
)
from absurd_contimg.operations.night_report.rows import EMPTY_NIGHT, verdict_of
from absurd_contimg.operations.night_report.stored import NightReport, StoredNight, read_stored
from absurd_contimg.operations.night_report.task_reading import (
    night_histories,
    operations_facts,
    primary_tasks,
    product_key_in,
)
from absurd_contimg.operations.overview import Site, SiteOverview, read_site_and_context
from absurd_contimg.products.outputs import ContinuumImage
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.ingestion_records import IngestGroup
from absurd_contimg.registry.newest_products import RegisteredProduct, newest_products
from absurd_contimg.registry.outages import list_outages
from absurd_contimg.registry.windows import Window, list_windows
from absurd_contimg.settings import Settings

DataReader = Callable[[Sequence[Path]], Mapping[Path, DataFigures]]
"""Reads the flags of Measurement Sets."""

REPORTS = "reports"
"""The folder of the reports, in the output folder."""
_NIGHTS_SEARCHED = 60
"""Earlier nights that are looked at for some of the same declination."""


class ReadingStoppedError(Exception):
    """The daemon stops; its next start writes the report."""


@dataclass(frozen=True, slots=True)
class NightSite:
    """Where a night is read from."""

    inspection: Inspection
    database: Database
    """With the output folder, so that the paths of products are those of now."""
    config: PipelineConfig
    queue_name: str
    settings: Settings | None = None
    """None: none of the site's folders is on this host."""

    @property
    def watched(self) -> Site:
        """The same for the overview."""
        return Site("night report", self.inspection, self.database, self.settings)

    @property
    def reports(self) -> Path:
        """The folder of the reports."""
        return self.config.paths.output_dir / REPORTS

    def stored(self, night: date) -> StoredNight | None:
        """The report of a night that was written before."""
        return read_stored(self.reports / f"{night}.json")


@dataclass(frozen=True, slots=True)
class _Known:
    """What the registry has of a night."""

    groups: tuple[IngestGroup, ...]
    windows: tuple[Window, ...]
    products: Mapping[tuple[str, str], RegisteredProduct]
    nights: tuple[date, ...]

    @property
    def names(self) -> set[str]:
        """Groups and windows."""
        return {g.group_id for g in self.groups} | {w.window_id for w in self.windows}


@dataclass(frozen=True, slots=True)
class _Tasks:
    """The tasks of a night, and what is known of the site at that moment."""

    histories: Sequence[History]
    context: WaitContext
    overview: SiteOverview | None = None

    @property
    def now(self) -> datetime:
        """The database's clock."""
        return self.context.now


async def read_report(
    site: NightSite,
    night: Night,
    read_data: DataReader | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> NightReport:
    """Read a night and judge it. Blocking work is done in threads.

    Raises what registry and queue raise when they are away; what else cannot be read is a problem
    in the report. `read_data` reads the flags of Measurement Sets. Once `is_stopped`, it raises
    `ReadingStoppedError` after what is being read.
    """
    known = await asyncio.to_thread(_read_registry, site.database, night)
    keys = {product.key for product in known.products.values()}
    histories = await night_histories(site.inspection, site.queue_name, known.names, keys)
    overview, context = await read_site_and_context(site.watched)
    tasks = _Tasks(histories, context, overview)
    return await asyncio.to_thread(_make_report, site, night, known, tasks, read_data, is_stopped)


async def read_fingerprint(site: NightSite, night: Night) -> str:
    """A digest of all states that the report of a night depends on, without pixels and time."""
    known = await asyncio.to_thread(_read_registry, site.database, night)
    keys = {product.key for product in known.products.values()}
    histories = await night_histories(site.inspection, site.queue_name, known.names, keys)
    return await asyncio.to_thread(_fingerprint, site, known, histories)


def _read_registry(database: Database, night: Night) -> _Known:
    groups = tuple(groups_of(database, night))
    windows = tuple(
        window
        for window in list_windows(
            database, start_mjd=night.start_mjd, end_mjd=night.start_mjd + 1.0
        )
        if night.holds(window.start_mjd)
    )
    names = {g.group_id for g in groups} | {w.window_id for w in windows}
    products = newest_products(database, names)
    return _Known(groups, windows, products, tuple(known_nights(database)))


async def read_states(site: NightSite, night: Night) -> tuple[list[str], list[str]]:
    """The states of the night's tasks and of its windows."""
    known = await asyncio.to_thread(_read_registry, site.database, night)
    keys = {product.key for product in known.products.values()}
    histories = await night_histories(site.inspection, site.queue_name, known.names, keys)
    return [h.task.state for h in histories], [w.state.value for w in known.windows]


def _calibrated_sets(known: _Known) -> dict[str, Path]:
    """The calibrated Measurement Sets, by the keys of their products."""
    return {
        product.key: Path(str(outputs["path"]))
        for product in known.products.values()
        if isinstance(outputs := product.outputs.get("calibrated_ms"), Mapping)
        and "path" in outputs
    }


def _fingerprint(site: NightSite, known: _Known, histories: Sequence[History]) -> str:
    keys = sorted(product.key for product in known.products.values())
    published = publications_of(site.database, keys)
    state = {
        "groups": [
            (g.group_id, g.ingest_state, g.status, g.reason, g.files_version, g.n_subbands)
            for g in known.groups
        ],
        "windows": [(w.window_id, w.state, w.superseded_by) for w in known.windows],
        "products": keys,
        "publications": [(key, published[key].state) for key in sorted(published)],
        "tasks": sorted((str(h.task.task_id), h.task.state) for h in histories),
        "gates": site.config.night_report.model_dump(mode="json"),
    }
    text = json.dumps(state, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _make_report(
    site: NightSite,
    night: Night,
    known: _Known,
    tasks: _Tasks,
    read_data: DataReader | None,
    is_stopped: Callable[[], bool],
) -> NightReport:
    def measure(image: ContinuumImage) -> ImageFigures:
        if is_stopped():
            raise ReadingStoppedError
        return measure_image(image)

    stored = site.stored(night.day)
    measurements = Measurements(
        measure,
        {} if stored is None else dict(stored.image_figures),
        {} if stored is None else dict(stored.data_figures),
    )
    measurements.read_data(_calibrated_sets(known), read_data)
    if is_stopped():
        raise ReadingStoppedError
    facts = _read_facts(site, night, known, tasks, measurements)
    facts = replace(facts, earlier=_earlier_nights(site, facts, known, tasks.now))
    rows = judge(facts, site.config)
    verdict, reasons = verdict_of(rows) if facts.groups else ("EMPTY", (EMPTY_NIGHT,))
    used = {product.key for product in known.products.values()}
    return NightReport(
        facts,
        rows,
        verdict,
        reasons,
        _fingerprint(site, known, tasks.histories),
        {key: figures for key, figures in measurements.images.items() if key in used},
        {key: figures for key, figures in measurements.data.items() if key in used},
    )


def _read_facts(
    site: NightSite,
    night: Night,
    known: _Known,
    tasks: _Tasks,
    measurements: Measurements,
) -> NightFacts:
    primary = primary_tasks(tasks.histories)
    reader = GroupReader(site.config, known.products, primary, tasks.context, measurements)
    groups = tuple(reader.read(group) for group in known.groups)
    sets = tuple(solved for group in groups if (solved := reader.solved_set(group)) is not None)
    publications = publications_of(
        site.database, [product.key for product in known.products.values()]
    )
    mosaics = []
    for product in known.products.values():
        if "mosaic" not in product.outputs:
            continue
        try:
            mosaics.append(
                mosaic_facts(product, publications.get(product.key), primary.get(product.group_id))
            )
        except ValueError as error:
            reader.problems.append(f"Product {product.key} of {product.group_id}: {error}.")
    windows = [window for window in known.windows if window.state != "superseded"]
    published = {
        key: history for history in tasks.histories
        if (key := product_key_in(history.task.params)) is not None
    }  # fmt: skip
    overview = tasks.overview
    return NightFacts(
        night=night.day,
        read_at=tasks.now,
        is_newest=not known.nights or night.day >= known.nights[0],
        data_age_hours=_data_age_hours(site.database, overview),
        declination_deg=main_declination(groups),
        expected_subbands=site.config.conversion.expected_subbands,
        longitude_deg=site.config.site.longitude_deg,
        groups=groups,
        sets=sets,
        mosaics=tuple(sorted(mosaics, key=lambda m: (m.mid_mjd or 0.0, m.window_id))),
        windows_closed=len(closed_windows(windows)),
        unprocessed=unprocessed_items(
            groups, windows, [mosaic.window_id for mosaic in mosaics],
            list(publications.values()), {**published, **primary}, tasks.context,
        ),
        variability=variability_facts(site.database, site.config, groups),
        operations=operations_facts(
            tasks.histories, () if overview is None else overview.disks,
            list_outages(site.database, night.begins_at, night.begins_at + timedelta(days=1)),
        ),
        problems=tuple(dict.fromkeys(reader.problems)),
    )  # fmt: skip


def main_declination(groups: Sequence[GroupFacts]) -> Number:
    """The declination of the strip with the most groups, to a tenth of a degree."""
    strips = Counter(
        round(group.declination_deg, 1) for group in groups if group.declination_deg is not None
    )
    return max(strips, key=lambda strip: (strips[strip], strip), default=None)


def _data_age_hours(database: Database, overview: SiteOverview | None) -> Number:
    """As the overview has it; None where nobody has seen a file arrive."""
    if overview is None or overview.data is None:
        return None
    seconds = overview.data.newest_file_seconds_ago
    is_seen = IngestionTables(database).newest_sighting() is not None
    return seconds / 3600.0 if is_seen and seconds is not None else None


def _earlier_nights(
    site: NightSite, facts: NightFacts, known: _Known, now: datetime
) -> tuple[EarlierNight, ...]:
    """The nights before this one of the same declination, the newest first.

    From their reports; of a night without one from the registry, without pixels and tasks.
    """
    if facts.declination_deg is None:
        return ()
    gates = site.config.night_report
    before = [night for night in known.nights if night < facts.night][:_NIGHTS_SEARCHED]
    earlier: list[EarlierNight] = []
    for night in before:
        if len(earlier) == gates.trend_nights:
            break
        stored = site.stored(night)
        if stored is None:
            declination, point = _from_registry(site, night, now)
        else:
            declination, point = stored.declination_deg, stored.as_earlier()
        if declination is None:
            continue
        if abs(declination - facts.declination_deg) <= gates.declination_tolerance_deg:
            earlier.append(point)
    return tuple(earlier)


def _from_registry(site: NightSite, day: date, now: datetime) -> tuple[Number, EarlierNight]:
    known = _read_registry(site.database, Night(day))
    tasks = _Tasks((), WaitContext(now))
    facts = _read_facts(site, Night(day), known, tasks, Measurements(_unread_image))
    solved = next((each for each in reversed(facts.sets) if each.gains), None)
    numbers = {
        row.key: row.number for row in judge(facts, site.config)
        if row.status != "not measured" and row.key not in _OF_TASKS
    }  # fmt: skip
    gains = {} if solved is None else solved.gains
    refant = "" if solved is None else solved.refant
    return facts.declination_deg, EarlierNight(day, numbers, gains, refant)


_OF_TASKS = frozenset({"latency", "data_age", "operations"})
"""Rows that say nothing without the tasks of the night."""


def _unread_image(_image: object) -> ImageFigures:
    return ImageFigures(problem="not read")
