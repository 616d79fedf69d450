"""The facts of a night's windows, mosaics and publications, of its variables, and what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.records import History
from absurd_contimg.errors import UserError
from absurd_contimg.history.wait_explanation import WaitContext
from absurd_contimg.ingest.windows import is_enough, waits_for
from absurd_contimg.operations.night_report.facts import (
    GroupFacts,
    MosaicFacts,
    UnprocessedItem,
    VariabilityFacts,
    VariableSource,
)
from absurd_contimg.operations.night_report.task_reading import product_key_in, task_facts
from absurd_contimg.operations.services import light_curves
from absurd_contimg.products.mosaic_outputs import MosaicImage, MosaicOutputs
from absurd_contimg.products.outputs import from_json
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.newest_products import RegisteredProduct
from absurd_contimg.registry.photometry import newest_measurements
from absurd_contimg.registry.publications import Publication, Publications, PublicationState
from absurd_contimg.registry.windows import Window, WindowState
from absurd_contimg.stages.image import read_whole
from absurd_contimg.workflows.publication import publication_advice

_DEPTHS_MJY = (2.5, 5.0, 10.0, 20.0, 40.0)
_STRIP_DEG = 4.0
"""Sources so far from the declination are in an image, with the neighbours of their scale."""
_POINTS_MAX = 2000


def closed_windows(windows: Iterable[Window]) -> list[Window]:
    """Those that a mosaic is made of."""
    return [w for w in windows if w.state is WindowState.CLOSED and is_enough(w)]


def mosaic_facts(
    product: RegisteredProduct, publication: Publication | None, history: History | None
) -> MosaicFacts:
    """A mosaic with its publication; raises `ValueError` for outputs that cannot be read."""
    mosaic = from_json(MosaicOutputs, product.outputs).mosaic
    published = None if publication is None else publication.published_at
    return MosaicFacts(
        window_id=mosaic.window_id,
        verdict=mosaic.verdict,
        failed_gates=mosaic.failed_gates,
        n_tiles=mosaic.n_tiles,
        n_refused=mosaic.n_refused,
        covered_deg2=mosaic.covered_deg2,
        covered_once=mosaic.covered_once_fraction,
        noise_jy=mosaic.noise_jy,
        tile_excess=_tile_excess(mosaic),
        deg2_by_noise_mjy=area_by_depth(mosaic),
        published_at=None if published is None else datetime.fromisoformat(published),
        mid_mjd=mosaic.mid_mjd,
        task_id="" if history is None else str(history.task.task_id),
    )


def _tile_excess(mosaic: MosaicImage) -> float | None:
    """The figure of the mosaic's own gate; of earlier versions, which kept no error, all of it."""
    if mosaic.tile_excess_worst is None and mosaic.tile_ratio_worst is not None:
        return abs(mosaic.tile_ratio_worst - 1.0)
    return mosaic.tile_excess_worst


def area_by_depth(mosaic: MosaicImage) -> Mapping[float, float]:
    """Square degrees with at most each of some noises; empty where the weights are gone."""
    try:
        _, weights = read_whole(Path(mosaic.weight_path))
    except (OSError, ImportError, UserError):
        return {}
    pixel_deg2 = (mosaic.cell_arcsec / 3600.0) ** 2
    return {
        mjy: float(np.count_nonzero(weights >= (1e-3 * mjy) ** -2.0)) * pixel_deg2
        for mjy in _DEPTHS_MJY
    }


def variability_facts(
    database: Database, config: PipelineConfig, groups: Sequence[GroupFacts]
) -> VariabilityFacts:
    """The light curves over all nights of the sources that were measured in these groups."""
    declinations = {
        round(group.declination_deg) for group in groups
        if group.has_image and group.declination_deg is not None
    }  # fmt: skip
    names = {group.group_id for group in groups}
    curves = {}
    for declination in sorted(declinations):
        strip = declination - _STRIP_DEG, declination + _STRIP_DEG
        measured = newest_measurements(database, "image", strip)
        ours = {m.source for m in measured if m.group_id in names}
        for curve in light_curves(measured, config.variability):
            if not ours.isdisjoint(curve.names):
                curves[curve.source] = curve
    repeated = [curve for curve in curves.values() if curve.variability.n_epochs > 1]
    variables = [curve for curve in repeated if curve.variability.variable]
    return VariabilityFacts(
        n_sources=len(curves),
        n_with_epochs=len(repeated),
        variables=tuple(
            VariableSource(
                curve.source, curve.variability.n_epochs, curve.variability.modulation,
                curve.variability.eta,
                None if curve.variability.pair is None else curve.variability.pair.vs,
                None if curve.variability.pair is None else curve.variability.pair.m,
            )
            for curve in variables
        ),
        points=tuple(
            (curve.variability.modulation, curve.variability.eta)
            for curve in repeated[:_POINTS_MAX]
            if curve.variability.modulation is not None and curve.variability.eta is not None
        ),
    )  # fmt: skip


def unprocessed_items(
    groups: Sequence[GroupFacts],
    windows: Sequence[Window],
    mosaics: Iterable[str],
    publications: Sequence[Publication],
    tasks: Mapping[str, History],
    context: WaitContext,
) -> tuple[UnprocessedItem, ...]:
    """Groups, windows and publications that have not ended well, each with why and what to do."""
    made = set(mosaics)
    items = [_of_group(group) for group in groups if not group.processed]
    items += [
        _of_window(window, tasks.get(window.window_id), context)
        for window in windows
        if window.state is not WindowState.SUPERSEDED and window.window_id not in made
    ]
    by_key = {
        key: history for history in tasks.values()
        if (key := product_key_in(history.task.params)) is not None
    }  # fmt: skip
    items += [
        _of_publication(publication, by_key.get(publication.product_key))
        for publication in publications
        if publication.state is not PublicationState.PUBLISHED
    ]
    return tuple(items)


def _of_group(group: GroupFacts) -> UnprocessedItem:
    if group.ingest_state == "rejected":
        advice = "If its files have come meanwhile: contimg reopen " + group.group_id
        return UnprocessedItem("group", group.group_id, "rejected", group.reason, advice)
    if group.collecting:
        why = group.reason or "it is collecting sub-bands"
        return UnprocessedItem("group", group.group_id, "collecting", why, "Wait for the daemon.")
    task = group.task
    if task is None:
        why = group.reason or "no task of it is in the queue's history"
        advice = f"contimg groups {group.group_id} shows its files; contimg spawn makes a task."
        return UnprocessedItem("group", group.group_id, group.status, why, advice)
    why = task.explanation or group.reason or f"its task is {task.state}"
    advice = task.advice or f"contimg history {task.task_id}"
    state = task.state if task.state == "cancelled" else group.status
    return UnprocessedItem("group", group.group_id, state, why, advice, task.task_id)


def _of_window(window: Window, history: History | None, context: WaitContext) -> UnprocessedItem:
    state = window.state.value
    if history is not None:
        task = task_facts(history, context)
        why = task.explanation or f"its task is {task.state}"
        advice = task.advice or f"contimg history {task.task_id}"
        return UnprocessedItem("window", window.window_id, state, why, advice, task.task_id)
    if window.state is WindowState.OPEN:
        why = f"it waits for {waits_for(window) or 'the daemon'}"
        return UnprocessedItem("window", window.window_id, state, why, "Wait for its groups.")
    if not is_enough(window):
        used = sum(member.used for member in window.members)
        why = f"only {used} of {len(window.members)} groups can be used"
        advice = f"contimg windows {window.window_id} says why; retry those groups."
        return UnprocessedItem("window", window.window_id, state, why, advice)
    why = "no task of it is in the queue's history"
    advice = f"contimg mosaic make {window.window_id}"
    return UnprocessedItem("window", window.window_id, state, why, advice)


def _of_publication(publication: Publication, history: History | None) -> UnprocessedItem:
    task_id = "" if history is None else str(history.task.task_id)
    advice = publication_advice(publication.product_key, publication.reason or "")
    if publication.state is not PublicationState.FAILED:
        advice = "A worker goes on with it; contimg publish list shows the state."
    why = publication.reason or "its copy has not ended"
    name = str(publication.destination)
    return UnprocessedItem("publication", name, publication.state.value, why, advice, task_id)


def publications_of(database: Database, keys: Iterable[str]) -> dict[str, Publication]:
    """The publications of these products, by their keys."""
    known = {}
    publications = Publications(database)
    for key in keys:
        publication = publications.find(key)
        if publication is not None:
            known[key] = publication
    return known
