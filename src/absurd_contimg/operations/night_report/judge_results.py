"""The rows about what a night led to: mosaics, variable sources, and how its tasks went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from absurd_contimg.config.night_report import NightReportConfig
from absurd_contimg.config.photometry import VariabilityConfig
from absurd_contimg.history.metrics import percentile
from absurd_contimg.operations.console import counted
from absurd_contimg.operations.night_report.facts import NightFacts
from absurd_contimg.operations.night_report.rows import (
    Chart,
    Row,
    Status,
    above,
    known,
    middle,
    not_measured,
    shown,
    worst,
)
from absurd_contimg.products.verdicts import GOOD

_VARIABLES_SHOWN = 8


def result_rows(
    facts: NightFacts, gates: NightReportConfig, variability: VariabilityConfig
) -> Iterator[Row]:
    """All rows of this module, in their order."""
    yield _mosaics(facts, gates)
    yield _variability(facts, gates, variability)
    yield _operations(facts, gates)


def _mosaics(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "mosaics", "Mosaics", "%"
    gate = (
        "flux ratio of overlapping tiles, beyond twice its error: warns beyond "
        f"{gates.overlap_error_warn:.0%}, fails beyond {gates.overlap_error_fail:.0%}; a closed "
        "window without a mosaic warns"
    )
    mosaics = facts.mosaics
    if not mosaics:
        reason = f"no mosaic of {facts.windows_closed} closed windows"
        return not_measured(key, title, unit, gate, reason, expected=facts.windows_closed > 0)
    errors = {
        mosaic.window_id: mosaic.tile_excess for mosaic in mosaics if mosaic.tile_excess is not None
    }
    largest = max(known(errors.values()), default=None)
    made = {mosaic.window_id for mosaic in mosaics}
    lacking = max(0, facts.windows_closed - len(made))
    degraded = [mosaic for mosaic in mosaics if mosaic.verdict not in GOOD]
    status = worst(
        above(largest, gates.overlap_error_warn, gates.overlap_error_fail)
        if largest is not None else "no gate",
        "warn" if lacking or degraded else "pass",
    )  # fmt: skip
    gates_failed = sorted({gate_name for mosaic in degraded for gate_name in mosaic.failed_gates})
    reasons = [
        f"fluxes of overlapping tiles differ by {shown(100 * largest)} % beyond twice the error"
        if largest is not None and largest > gates.overlap_error_warn else "",
        f"{len(degraded)} of {len(mosaics)} mosaics are degraded: {', '.join(gates_failed)}"
        if degraded else "",
        f"{lacking} closed windows have no mosaic" if lacking else "",
    ]  # fmt: skip
    tiles, refused = sum(m.n_tiles for m in mosaics), sum(m.n_refused for m in mosaics)
    area = sum(known(m.covered_deg2 for m in mosaics))
    once = middle(m.covered_once for m in mosaics)
    depths = sorted({mjy for mosaic in mosaics for mjy in mosaic.deg2_by_noise_mjy})
    by_depth = {mjy: sum(m.deg2_by_noise_mjy.get(mjy, 0.0) for m in mosaics) for mjy in depths}
    ordered = sorted(mosaics, key=lambda m: -errors.get(m.window_id, 0.0))
    return Row(
        key, title, status,
        f"{len(mosaics)} mosaics, {shown(area)} deg², {shown(None if once is None else 100 * once)}"
        f" % covered once; overlaps differ by at most "
        f"{shown(None if largest is None else 100 * largest)} % beyond twice the error; {tiles} "
        f"tiles used, {refused} refused",
        None if largest is None else 100.0 * largest, unit, gate, "; ".join(filter(None, reasons)),
        numbers={
            "mosaics": len(mosaics), "area_deg2": area, "covered_once": once, "tiles": tiles,
            "refused": refused, "noise_mjy": middle(
                None if m.noise_jy is None else 1e3 * m.noise_jy for m in mosaics
            ),
        },
        tasks=tuple((m.window_id, m.task_id) for m in ordered if m.task_id)[:3],
        chart=Chart(
            "bars", "noise at most, mJy/beam", "area, deg²",
            bars=tuple((f"{mjy:g}", area) for mjy, area in by_depth.items()),
        ) if by_depth else None,
    )  # fmt: skip


def _variability(facts: NightFacts, gates: NightReportConfig, limits: VariabilityConfig) -> Row:
    key, title, unit = "variability", "Variable sources", ""
    gate = (
        f"|Vs| at least {limits.vs_min:g} and |m| above {limits.m_min:g}; warns if over "
        f"{gates.variable_share_warn:.0%} of the sources vary: then the scale is wrong"
    )
    curves = facts.variability
    if not curves.n_with_epochs:
        reason = (
            f"{curves.n_sources} sources, none measured twice" if curves.n_sources
            else "no source was measured in this night"
        )  # fmt: skip
        return not_measured(key, title, unit, gate, reason, expected=False)
    share = len(curves.variables) / curves.n_with_epochs
    # Of a few sources, one that varies is no sign of a wrong scale.
    status: Status = (
        "pass" if len(curves.variables) < 2 else above(share, gates.variable_share_warn)
    )
    details = tuple(
        f"{source.name}: V {shown(source.modulation, 2)}, eta {shown(source.eta, 1)}, "
        f"Vs {shown(source.vs)}, m {shown(source.m, 2)}, {source.n_epochs} epochs"
        for source in curves.variables[:_VARIABLES_SHOWN]
    )
    uncatalogued = sum(image.n_uncatalogued or 0 for image in facts.images)
    count = len(curves.variables)
    return Row(
        key, title, status,
        f"{count} of {curves.n_with_epochs} sources with two epochs or more; "
        f"{uncatalogued} detections outside the catalogue",
        float(count), unit, gate,
        "" if status == "pass" else f"{shown(100 * share)} % of the sources vary",
        numbers={
            "sources": curves.n_sources, "with_epochs": curves.n_with_epochs,
            "uncatalogued": uncatalogued,
        },
        details=details,
        chart=Chart(
            "points", "modulation index V", "eta",
            tuple((v, eta, "") for v, eta in curves.points),
        ) if curves.points else None,
    )  # fmt: skip


_INTERRUPTIONS_MAX = 20
_DISK_STATUS: Mapping[str, Status] = {"ok": "pass", "warning": "warn", "failure": "fail"}


def _operations(facts: NightFacts, _gates: NightReportConfig) -> Row:
    key, title, unit = "operations", "Operations", "s"
    gate = (
        "a failed task without a later one of its group warns; a disk warns or fails as in "
        "contimg monitor"
    )
    went = facts.operations
    if not went.tasks_by_state:
        reason = "no task of this night is in the queue's history"
        return not_measured(key, title, unit, gate, reason, expected=bool(facts.groups))
    failed = went.tasks_by_state.get("failed", 0) - went.superseded_failures
    status = worst(
        "warn" if failed else "pass",
        _DISK_STATUS[went.disk_health],
    )  # fmt: skip
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(went.failures_by_kind.items()))
    stages = {
        stage: (percentile(seconds, 0.5), percentile(seconds, 0.95))
        for stage, seconds in went.stage_seconds.items()
        if seconds
    }
    disk = (
        f"disk {went.fullest_disk} full in {shown(went.hours_to_full, 0)} h"
        if went.hours_to_full is not None
        else f"no disk of {went.n_disks} fills" if went.n_disks else "no disk can be looked at"
    )  # fmt: skip
    states = ", ".join(f"{n} {state}" for state, n in sorted(went.tasks_by_state.items()))
    if went.superseded_failures:
        states += f" ({went.superseded_failures} of the failed have a later task of their group)"
    reasons = [
        f"{failed} task{'' if failed == 1 else 's'} failed" if failed else "",
        went.disk_problem,
    ]  # fmt: skip
    further = len(went.interruptions) - _INTERRUPTIONS_MAX
    more = [f"and {counted(further, 'interruption')} more"] if further > 0 else []
    return Row(
        key, title, status,
        f"tasks: {states}; failed attempts: {kinds or 'none'}; {shown(went.wasted_seconds, 0)} s "
        f"wasted in {went.wasted_starts} of {went.starts} starts; {disk}",
        went.wasted_seconds, unit, gate, "; ".join(filter(None, reasons)),
        numbers={
            "failed_tasks": failed, "superseded_failures": went.superseded_failures,
            "starts": went.starts, "wasted_starts": went.wasted_starts,
            "hours_to_full": went.hours_to_full,
            **{f"{stage}_p50_seconds": p50 for stage, (p50, _) in stages.items()},
            **{f"{stage}_p95_seconds": p95 for stage, (_, p95) in stages.items()},
        },
        details=(*went.interruptions[:_INTERRUPTIONS_MAX], *more, *(
            f"{stage}: p50 {shown(p50)} s, p95 {shown(p95)} s" for stage, (p50, p95)
            in stages.items()
        )),
        tasks=tuple(
            (item.name, item.task_id) for item in facts.unprocessed if item.task_id
        )[:3],
        chart=Chart(
            "bars", "stage", "p95, s", bars=tuple((s, p95) for s, (_, p95) in stages.items())
        ) if stages else None,
    )  # fmt: skip
