"""The rows about calibration: solver, solutions against earlier nights, calibrators."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from absurd_contimg.config.night_report import NightReportConfig
from absurd_contimg.operations.night_report.facts import (
    AntennaGain,
    EarlierNight,
    NightFacts,
    Number,
    SolvedSet,
)
from absurd_contimg.operations.night_report.rows import (
    Chart,
    Row,
    above,
    below,
    middle,
    not_measured,
    over_time,
    scaled,
    shown,
    spread,
    tasks_of,
    worst,
)

_NAMES_SHOWN = 8


def calibration_rows(facts: NightFacts, gates: NightReportConfig) -> Iterator[Row]:
    """All rows of this module, in their order."""
    yield _solver_yield(facts, gates)
    yield _solutions(facts, gates)
    yield _calibrator(facts, gates)


def _own_tasks(facts: NightFacts, sets: Sequence[SolvedSet]) -> tuple[tuple[str, str], ...]:
    names = {solved.group_id for solved in sets}
    return tasks_of([group for group in facts.groups if group.group_id in names])


def _solver_yield(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "solver_yield", "Solver yield", "%"
    gate = f"warns below {gates.solver_yield_warn:.0%}, fails below {gates.solver_yield_fail:.0%}"
    shares = {
        solved.set_name: 1.0 - len(solved.unsolved_antennas) / solved.antennas_with_data
        for solved in facts.sets
        if solved.antennas_with_data
    }
    if not shares:
        reason = (
            "the sets of this night record no antennas" if facts.sets
            else "no calibrator was solved in this night"
        )  # fmt: skip
        return not_measured(key, title, unit, gate, reason, expected=bool(facts.sets))
    least = min(shares.values())
    status = below(least, gates.solver_yield_warn, gates.solver_yield_fail)
    dropped = sorted({name for solved in facts.sets for name in solved.unsolved_antennas})
    names = ", ".join(dropped[:_NAMES_SHOWN])
    more = f" and {len(dropped) - _NAMES_SHOWN} more" if len(dropped) > _NAMES_SHOWN else ""
    return Row(
        key, title, status,
        f"{shown(100 * least)} % of the antennas with data have solutions "
        f"(least of {len(shares)} set{'' if len(shares) == 1 else 's'})",
        100.0 * least, unit, gate,
        "" if status == "pass" else f"dropped, though they have data: {names}{more}",
        numbers={"sets": len(shares), "dropped_antennas": len(dropped)},
        details=(f"dropped, though they have data: {names}{more}",) if dropped else (),
        tasks=_own_tasks(facts, facts.sets),
        chart=Chart(
            "bars", "set", "antennas solved, %",
            bars=tuple((name[-12:], 100.0 * share) for name, share in shares.items()),
            limits=(100.0 * gates.solver_yield_warn,),
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class GainChanges:
    """Changes of the antennas' solutions against earlier nights."""

    amplitude_percent: Mapping[str, float]
    phase_deg: Mapping[str, float]
    """Without what all antennas share: the reference antenna may be another one."""
    delay_ns: Mapping[str, float]


def gain_changes(
    gains: Mapping[str, AntennaGain], earlier: Sequence[EarlierNight]
) -> GainChanges | None:
    """The changes against the medians of earlier nights; None without a common antenna.

    Phases and delays of each night are first taken against the median of their antennas, since
    each night has its own reference; phases are compared on the circle.
    """
    nights = [night.gains for night in earlier if night.gains]
    amplitudes: dict[str, float] = {}
    phases: dict[str, float] = {}
    delays: dict[str, float] = {}
    differences: dict[str, list[float]] = defaultdict(list)
    delay_changes: dict[str, list[float]] = defaultdict(list)
    before: dict[str, list[float]] = defaultdict(list)
    for night in nights:
        common = gains.keys() & night.keys()
        if not common:
            continue
        turned = {name: gains[name].phase_deg - night[name].phase_deg for name in common}
        shared = circular_middle(list(turned.values()))
        later = {name: gains[name].delay_ns - night[name].delay_ns for name in common}
        shared_delay = median(later.values())
        for name in common:
            differences[name].append(wrapped(turned[name] - shared))
            delay_changes[name].append(later[name] - shared_delay)
            before[name].append(night[name].amplitude)
    for name, turns in differences.items():
        usual = median(before[name])
        if usual > 0:
            amplitudes[name] = 100.0 * (gains[name].amplitude / usual - 1.0)
        phases[name] = circular_middle(turns)
        delays[name] = median(delay_changes[name])
    return GainChanges(amplitudes, phases, delays) if phases else None


def wrapped(degrees: float) -> float:
    """An angle in [-180, 180)."""
    return (degrees + 180.0) % 360.0 - 180.0


def circular_middle(degrees: Sequence[float]) -> float:
    """The median of angles around their mean direction."""
    x = sum(math.cos(math.radians(angle)) for angle in degrees)
    y = sum(math.sin(math.radians(angle)) for angle in degrees)
    mean = math.degrees(math.atan2(y, x))
    return wrapped(mean + median(wrapped(angle - mean) for angle in degrees))


def _solutions(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "solutions", "Bandpass, gains, delay", "deg"
    gate = (
        f"phase scatter against the median of {gates.trend_nights} nights: warns above "
        f"{gates.phase_scatter_deg_warn:g} deg, fails above {gates.phase_scatter_deg_fail:g} deg"
    )
    solved = [each for each in facts.sets if each.gains]
    if not solved:
        reason = next((each.problem for each in facts.sets if each.problem), "")
        reason = reason or "no calibrator was solved in this night"
        return not_measured(key, title, unit, gate, reason, expected=bool(facts.sets))
    newest = solved[-1]
    earlier = [night for night in facts.earlier if night.gains][: gates.trend_nights]
    tasks = _own_tasks(facts, [newest])
    amplitude = middle(gain.amplitude for gain in newest.gains.values())
    delay = spread(gain.delay_ns for gain in newest.gains.values())
    basic: dict[str, Number] = {"amplitude_median": amplitude, "delay_spread_ns": delay}
    changes = (
        gain_changes(newest.gains, earlier) if len(earlier) >= gates.trend_nights_min else None
    )
    text = f"{len(newest.gains)} antennas of {newest.set_name}, reference {newest.refant}"
    if changes is None:
        return Row(
            key, title, "no gate",
            f"{text}; delays within {shown(delay, 2)} ns", None, unit, gate,
            f"{len(earlier)} earlier nights with solutions of this declination: nothing to "
            "compare with",
            numbers=basic, tasks=tasks,
            chart=_gain_chart("phase, deg", {n: g.phase_deg for n, g in newest.gains.items()}),
        )  # fmt: skip
    scatter = spread(changes.phase_deg.values())
    status = above(scatter, gates.phase_scatter_deg_warn, gates.phase_scatter_deg_fail)
    largest = max(changes.phase_deg, key=lambda name: abs(changes.phase_deg[name]))
    return Row(
        key, title, status,
        f"phases differ by {shown(scatter)} deg (scatter), amplitudes by "
        f"{shown(middle(changes.amplitude_percent.values()))} %, delays by "
        f"{shown(spread(changes.delay_ns.values()), 2)} ns",
        scatter, unit, gate,
        "" if status == "pass" else
        f"phases scatter by {shown(scatter)} deg against {len(earlier)} nights, most in {largest}",
        numbers=basic | {
            "amplitude_change_percent": middle(changes.amplitude_percent.values()),
            "delay_change_ns": spread(changes.delay_ns.values()),
            "earlier_nights": len(earlier),
        },
        details=(text,), tasks=tasks,
        chart=_gain_chart(
            "change of phase, deg", changes.phase_deg, gates.phase_scatter_deg_warn
        ),
    )  # fmt: skip


def _gain_chart(label: str, values: Mapping[str, float], limit: float | None = None) -> Chart:
    limits = () if limit is None else (limit, -limit)
    bars = tuple((name, values[name]) for name in sorted(values))
    return Chart("bars", "antenna", label, bars=bars, limits=limits)


def _calibrator(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "calibrator", "Calibrator", ""
    gate = (
        f"set at most {gates.calibration_age_hours_warn:g} h away (fails above "
        f"{gates.calibration_age_hours_fail:g} h); corrected over model 1 ± "
        f"{gates.calibrator_error_warn:g} (fails beyond {gates.calibrator_error_fail:g})"
    )
    used = [group for group in facts.groups if group.calibration is not None]
    ratios = [each for each in facts.sets if each.flux_ratio is not None]
    if not used and not facts.sets:
        reason = "no group of this night was calibrated, or its task is not in the history"
        expected = any(group.flagged_calibrated is not None for group in facts.groups)
        return not_measured(key, title, unit, gate, reason, expected=expected)
    hours = [group.calibration.hours_away for group in used if group.calibration is not None]
    oldest = max(hours, default=None)
    errors = [abs((each.flux_ratio or 0.0) - 1.0) for each in ratios]
    error = max(errors, default=None)
    ratio = ratios[errors.index(max(errors))].flux_ratio if ratios else None
    missing = bool(facts.sets) and not ratios
    status = worst(
        above(oldest, gates.calibration_age_hours_warn, gates.calibration_age_hours_fail)
        if oldest is not None else "no gate",
        above(error, gates.calibrator_error_warn, gates.calibrator_error_fail)
        if error is not None else "not measured" if missing else "no gate",
    )  # fmt: skip
    reasons = [
        f"the oldest set in use is {shown(oldest)} h away"
        if oldest is not None and oldest > gates.calibration_age_hours_warn else "",
        f"corrected over model is {shown(ratio, 3)}"
        if error is not None and error > gates.calibrator_error_warn else "",
        "corrected over model: no validated image shows the calibrator" if missing else "",
        "" if facts.sets or used else "no calibrator was solved in this night",
    ]  # fmt: skip
    sets = [
        f"{each.calibrator} in {each.group_id}: beam response {shown(each.beam_response, 2)}, "
        f"transit {shown(each.transit_offset_seconds, 0)} s from mid-observation, corrected over "
        f"model {shown(each.flux_ratio, 3)}"
        for each in facts.sets
    ]
    sources = sorted({
        f"{group.calibration.set_name} ({group.calibration.calibrator})"
        for group in used if group.calibration is not None
    })  # fmt: skip
    own = sum(group.calibration.own for group in used if group.calibration is not None)
    chosen = (
        f"{own} groups with their own solutions, {len(used) - own} with the best valid set: "
        f"{', '.join(sources[:3])}"
    )
    return Row(
        key, title, status,
        f"corrected over model {shown(ratio, 3)}; sets up to {shown(oldest)} h away",
        ratio, unit, gate, "; ".join(filter(None, reasons)),
        numbers={
            "oldest_set_hours": oldest, "median_set_hours": middle(hours),
            "beam_response": middle(each.beam_response for each in facts.sets),
            "transit_offset_seconds": scaled(
                middle(each.transit_offset_seconds for each in facts.sets), 1.0
            ),
        },
        details=(*sets[:6], *((chosen,) if used else ())),
        tasks=_own_tasks(facts, facts.sets) or tasks_of(used),
        chart=over_time(
            used, hours, "age of the set, h", (gates.calibration_age_hours_warn,)
        ) if used else None,
    )  # fmt: skip
