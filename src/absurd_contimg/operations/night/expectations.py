"""What a night must end with, from what the telescope wrote, and the comparison with that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.records import History
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.operations.report import Section
from absurd_contimg.operations.services import light_curves
from absurd_contimg.products.manifest import MANIFEST_NAME
from absurd_contimg.products.mosaic_outputs import MosaicOutputs
from absurd_contimg.products.outputs import SourceTable, ValidateOutputs, from_json
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.ingestion_records import IngestGroup
from absurd_contimg.registry.models import FileState, IngestState, ValidationRow
from absurd_contimg.registry.mosaics import Mosaic, list_mosaics
from absurd_contimg.registry.photometry import list_measurements, newest_measurements
from absurd_contimg.registry.publications import Publications, PublicationState
from absurd_contimg.registry.windows import Window, WindowState
from absurd_contimg.regular_files import read_json
from absurd_contimg.synthesis.night import TrueNight

FLUX_ERROR_MAX = 0.10
"""Of one source. The images are coarse: beams of 165 by 62 arcsec, 2.3 Jy in a field."""
FLUX_MEDIAN_MAX = 0.02
"""Of the median ratio of all sources."""
POSITION_ERROR_MAX_ARCSEC = 6.0
POSITION_MEDIAN_MAX_ARCSEC = 2.0


def expected_windows(night: TrueNight, config: PipelineConfig) -> list[tuple[str, ...]]:
    """The groups of each window: `window_size` of a strip, the next one `window_stride` later."""
    rules = config.streaming
    windows = []
    for _strip, groups in groupby(night.groups, key=lambda group: group.strip):
        names = [group.group_id for group in groups]
        if len(names) < rules.confirm_groups:
            continue
        shared = rules.window_size - rules.window_stride
        for begin in range(0, len(names), rules.window_stride):
            members = names[begin : begin + rules.window_size]
            is_new = begin == 0 or len(members) > shared
            if is_new and len(members) >= min(rules.window_min, rules.window_size):
                windows.append(tuple(members))
    return windows


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the night's table."""

    subject: str
    expected: str
    actual: str
    ok: bool


def compared(subject: str, expected: object, actual: object) -> Finding:
    """Both have to be equal."""
    return Finding(subject, str(expected), str(actual), expected == actual)


def task_findings(
    night: TrueNight, config: PipelineConfig, histories: Sequence[History]
) -> list[Finding]:
    """Every task has completed, once for each group and window, in spite of the kills."""
    completed = Counter(h.task.task_name for h in histories if h.task.state == "completed")
    expected = {
        "pipeline": len(night.groups),
        "photometry": len(night.groups),
        "mosaic": len(expected_windows(night, config)),
    }
    findings = [
        compared(f"{name} tasks completed", number, completed[name])
        for name, number in expected.items()
    ]
    others = len(histories) - sum(completed[name] for name in expected)
    starts = [start for history in histories for start in step_starts(history)]
    died = sum(start.outcome == "died" for start in starts)
    repeated = len(starts) - len(
        {(h.task.task_id, s.step) for h in histories for s in step_starts(h)}
    )
    return [
        *findings,
        compared("other tasks, and tasks that did not complete", 0, others),
        Finding("stages interrupted by the kills", "1 or more", str(died), died >= 1),
        Finding("stages that ran again", "as many", str(repeated), repeated <= died),
    ]


def registry_findings(
    night: TrueNight, config: PipelineConfig, registry: Registry
) -> list[Finding]:
    """Groups, files, windows, mosaics, publications, fluxes, positions, light curves."""
    tables = IngestionTables(registry.database)
    groups = {group.group_id: group for group in tables.groups()}
    windows = [window for window in tables.windows() if window.state is WindowState.CLOSED]
    mosaics = list_mosaics(registry.database)
    return [
        *_group_findings(night, groups),
        *_window_findings(night, config, tables.windows()),
        *_mosaic_findings(registry, windows, mosaics),
        *_flux_findings(night, registry, windows),
        *_position_findings(night, registry, mosaics),
        *_light_curve_findings(night, config, registry),
    ]


def _group_findings(night: TrueNight, groups: Mapping[str, IngestGroup]) -> Iterator[Finding]:
    truth = {group.group_id: group for group in night.groups}
    same = sum(name in groups for name in truth)
    yield compared("groups that the telescope wrote", len(truth), same)
    yield compared("other groups", 0, len(groups.keys() - truth.keys()))
    closed = sum(group.ingest_state is IngestState.CLOSED for group in groups.values())
    yield compared("groups closed", len(truth), closed)
    yield compared(
        "sub-bands accepted",
        sum(group.n_subbands for group in night.groups),
        sum(group.n_subbands or 0 for group in groups.values()),
    )
    for subject, state, expected in (
        ("late", FileState.LATE, {g.group_id: g.late for g in night.groups if g.late}),
        ("refused", FileState.REFUSED, {g.group_id: g.refused for g in night.groups if g.refused}),
    ):
        counts = {
            name: sum(file.state is state for file in group.files) for name, group in groups.items()
        }
        actual = {name: count for name, count in counts.items() if count}
        right = actual == expected
        number = str(sum(actual.values()))
        text = number if right else f"{number} in {', '.join(sorted(actual)) or 'no group'}"
        yield Finding(f"{subject} files", str(sum(expected.values())), text, right)
    wrong = [
        name for name, group in truth.items()
        if name in groups and groups[name].n_subbands != group.n_subbands
    ]  # fmt: skip
    yield compared("groups with another number of sub-bands", "none", ", ".join(wrong) or "none")
    ended = sum(g.status in (GroupStatus.DONE, GroupStatus.DEGRADED) for g in groups.values())
    yield compared("groups processed", len(truth), ended)


def _window_findings(
    night: TrueNight, config: PipelineConfig, windows: Sequence[Window]
) -> Iterator[Finding]:
    expected = expected_windows(night, config)
    actual = [tuple(m.group_id for m in w.members) for w in windows]
    yield compared("windows", len(expected), len(actual))
    right = sum(members in actual for members in expected)
    yield compared("windows with exactly the expected groups", len(expected), right)
    closed = sum(window.state is WindowState.CLOSED for window in windows)
    yield compared("windows closed", len(expected), closed)
    left_out = [m.group_id for w in windows for m in w.members if not m.used]
    yield compared("members left out of a mosaic", 0, len(left_out))


def _mosaic_findings(
    registry: Registry, windows: Sequence[Window], mosaics: Sequence[Mosaic]
) -> Iterator[Finding]:
    made = Counter(mosaic.window_id for mosaic in mosaics)
    yield compared("mosaics", len(windows), len(mosaics))
    single = sum(made[window.window_id] == 1 for window in windows)
    yield compared("windows with one mosaic", len(windows), single)
    tiles = sum(from_json(MosaicOutputs, m.details).mosaic.n_tiles for m in mosaics)
    yield compared("tiles in them", sum(len(window.members) for window in windows), tiles)
    keys = {mosaic.product_key for mosaic in mosaics}
    published = [
        p.destination
        for p in Publications(registry.database).all(PublicationState.PUBLISHED)
        if p.product_key in keys
    ]
    whole = sum((destination / MANIFEST_NAME).is_file() for destination in published)
    yield compared("mosaics published", len(windows), whole)
    folders = {destination.parent for destination in published}
    copies = [path for folder in folders for path in folder.iterdir() if path.is_dir()]
    yield compared("folders of published mosaics", len(windows), len(copies))


def _flux_findings(
    night: TrueNight, registry: Registry, windows: Sequence[Window]
) -> Iterator[Finding]:
    """Fluxes of the sources of each group, in its image and in the mosaics that have it."""
    truth = {group.group_id: group.sources for group in night.groups}
    members = {window.window_id: [m.group_id for m in window.members] for window in windows}
    for where, groups_of in (
        ("images", {name: [name] for name in truth}),
        ("mosaics", members),
    ):
        ratios: list[float] = []
        missing = 0
        for name, groups in groups_of.items():
            actual = {m.source: m for m in list_measurements(registry.database, group_id=name)}
            for source in (source for group in groups for source in truth.get(group, ())):
                measured = actual.get(source.name)
                missing += measured is None
                if measured is not None:
                    ratios.append(measured.flux_jy / source.flux_jy)
        yield compared(f"sources not measured in {where}", 0, missing)
        yield from _limited(
            f"fluxes in {where}", [ratio - 1.0 for ratio in ratios], FLUX_MEDIAN_MAX, FLUX_ERROR_MAX
        )


def _limited(
    subject: str, errors: Sequence[float], median_max: float, largest_max: float, unit: str = ""
) -> Iterator[Finding]:
    """The median of errors and the largest one, against limits."""

    def text(value: float) -> str:
        return f"{value:.1f} {unit}" if unit else f"{value:.1%}"

    figures = (
        ("median error", abs(median(errors)) if errors else None, median_max),
        ("largest", max(map(abs, errors)) if errors else None, largest_max),
    )
    for name, value, limit in figures:
        actual = "none" if value is None else f"{text(value)} of {len(errors)}"
        ok = value is not None and value <= limit
        yield Finding(f"{subject}: {name}", f"at most {text(limit)}", actual, ok)


def _position_findings(
    night: TrueNight, registry: Registry, mosaics: Sequence[Mosaic]
) -> Iterator[Finding]:
    own = {source.name for group in night.groups for source in group.sources}
    tables: dict[str, list[Path | None]] = {
        "images": [_own_report(registry, group.group_id) for group in night.groups],
        "mosaics": [from_json(MosaicOutputs, m.details).mosaic.checks_path for m in mosaics],
    }
    for where, paths in tables.items():
        errors = [
            row.position_error_arcsec
            for path in paths
            if path is not None
            for row in from_json(SourceTable, read_json(path)).sources
            if row.name in own and row.position_error_arcsec is not None and row.beam_response > 0.6
        ]
        yield from _limited(
            f"positions in {where}",
            errors,
            POSITION_MEDIAN_MAX_ARCSEC,
            POSITION_ERROR_MAX_ARCSEC,
            "arcsec",
        )


def _own_report(registry: Registry, group_id: str) -> Path | None:
    rows = registry.rows(ValidationRow, group_id)
    return from_json(ValidateOutputs, rows[-1]["details"]).validation.report if rows else None


def _light_curve_findings(
    night: TrueNight, config: PipelineConfig, registry: Registry
) -> Iterator[Finding]:
    curves = light_curves(newest_measurements(registry.database, "image"), config.variability)
    own = {source.name for group in night.groups for source in group.sources}
    chosen = [curve for curve in curves if curve.source in own]
    yield compared("light curves, one of each source", len(own), len(chosen))
    variable = [curve.source for curve in chosen if curve.variability.variable]
    yield compared("constant sources that seem to vary", 0, len(variable))


TURNED_ROWS = {"subbands": "warn"}
"""Rows of the report of the night that its faults turn: sub-bands that are late, missing or
refused. The kills and the full disk turn none: all is done in the end."""


def report_findings(
    night: TrueNight, config: PipelineConfig, report: Mapping[str, Any]
) -> list[Finding]:
    """The report of the night has the faults of the telescope, and no other."""
    rows = {row["key"]: row for row in report["rows"]}
    turned = {
        key: row["status"]
        for key, row in rows.items()
        if row["status"] in ("warn", "fail")
        or (row["status"] == "not measured" and row["expected"])
    }
    expected_rows, verdict = dict(TURNED_ROWS), "DEGRADED"
    if any(group["flagged_after"] == 0.0 for group in report["groups"]):
        # Rare interference: it misses some of these small groups, and nothing flagged fails.
        expected_rows["flagged"], verdict = "fail", "FAILED"
    expected_subbands = config.conversion.expected_subbands
    incomplete = sum(group.n_subbands < expected_subbands for group in night.groups)
    lists = {
        "groups in it": (len(night.groups), len(report["groups"])),
        "groups processed in it": (len(night.groups), rows["processed"]["numbers"]["processed"]),
        "not processed in it": (0, len(report["unprocessed"])),
        "incomplete groups in it": (incomplete, rows["subbands"]["numbers"]["partial"]),
        "mosaics in it": (len(expected_windows(night, config)), len(report["mosaics"])),
        "verdict in it": (verdict, report["verdict"]),
    }
    return [
        *(compared(f"night report: {name}", *pair) for name, pair in lists.items()),
        compared("night report: rows that do not pass", _texts(expected_rows), _texts(turned)),
        Finding(
            "night report: starts wasted by the kills",
            "1 or more",
            str(rows["operations"]["numbers"]["wasted_starts"]),
            rows["operations"]["numbers"]["wasted_starts"] >= 1,
        ),
    ]


def _texts(statuses: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {status}" for key, status in sorted(statuses.items())) or "none"


def findings_section(title: str, findings: Sequence[Finding]) -> Section:
    """The findings as a table for terminal and report."""
    rows = [[f.subject, f.expected, f.actual, "ok" if f.ok else "WRONG"] for f in findings]
    ok = all(finding.ok for finding in findings)
    return Section(title, columns=["", "expected", "found", ""], rows=rows, ok=ok)
