"""The rows about the data of a night: what came, when, and how much of it is flagged."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from statistics import median

from absurd_contimg.config.night_report import NightReportConfig
from absurd_contimg.operations.night_report.facts import GroupFacts, NightFacts, Number
from absurd_contimg.operations.night_report.rows import (
    Chart,
    Row,
    Status,
    above,
    below,
    known,
    middle,
    not_measured,
    over_time,
    percent,
    scaled,
    shown,
    tasks_of,
    worst,
)

GROUP_SECONDS = 309.0
"""The time in which a group is observed."""
_EPOCH_OF_MJD = datetime(1858, 11, 17, tzinfo=UTC)
_GAPS_SHOWN = 5
_ANTENNAS_SHOWN = 8
_PAIRS_MAX = 300
"""Groups between which the pace is taken."""


def data_rows(facts: NightFacts, gates: NightReportConfig) -> Iterator[Row]:
    """All rows of this module, in their order."""
    yield _processed(facts, gates)
    yield _coverage(facts, gates)
    yield _subbands(facts, gates)
    yield _latency(facts, gates)
    yield _data_age(facts, gates)
    yield _flagged(facts, gates)
    yield _uv_coverage(facts, gates)


def _processed(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "processed", "Processed groups", "%"
    gate = f"warns below {gates.processed_warn:.0%}, fails below {gates.processed_fail:.0%}"
    accepted = [group for group in facts.groups if group.accepted]
    if not accepted:
        reason = "no group of this night was closed with enough sub-bands"
        return not_measured(key, title, unit, gate, reason, expected=bool(facts.groups))
    left = [group for group in accepted if not group.processed]
    share = 1.0 - len(left) / len(accepted)
    degraded = sum(group.status == "degraded" for group in accepted)
    status = below(share, gates.processed_warn, gates.processed_fail)
    states = Counter(group.status for group in left)
    ended = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    return Row(
        key, title, status,
        f"{len(accepted) - len(left)} of {len(accepted)} groups, {degraded} of them degraded",
        100.0 * share, unit, gate,
        "" if status == "pass" else f"{len(left)} of {len(accepted)} groups not processed: {ended}",
        numbers={
            "accepted": len(accepted), "processed": len(accepted) - len(left),
            "degraded": degraded,
        },
        tasks=tasks_of(left),
        chart=Chart(
            "bars", "state of the group", "groups",
            bars=tuple((state, float(n)) for state, n in facts.groups_by_state.items()),
        ),
    )  # fmt: skip


def _coverage(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "coverage", "Coverage", "%"
    gate = (
        f"warns {gates.trend_change:.0%} below the median of {gates.trend_nights} nights; "
        f"gaps over {gates.gap_minutes:g} min are listed"
    )
    groups = sorted(facts.groups, key=lambda group: group.mid_mjd)
    if not groups:
        return not_measured(key, title, unit, gate, "there is no group of this night")
    integrated = sum(group.seconds for group in groups)
    first, last = groups[0], groups[-1]
    span = (last.mid_mjd - first.mid_mjd) * 86400.0 + (first.seconds + last.seconds) / 2.0
    expected = span if gates.expected_hours is None else gates.expected_hours * 3600.0
    share = min(integrated / expected, 1.0) if expected > 0 else 1.0
    gaps = [
        ((late.mid_mjd - early.mid_mjd) * 1440.0, early, late)
        for early, late in pairwise(groups)
        if (late.mid_mjd - early.mid_mjd) * 1440.0 > gates.gap_minutes
    ]
    status, before, reason = trend_status(facts, gates, key, 100.0 * share)
    listed = [
        f"gap of {minutes:.0f} min between {early.group_id} and {late.group_id}"
        for minutes, early, late in sorted(gaps, key=lambda gap: -gap[0])[:_GAPS_SHOWN]
    ]
    return Row(
        key, title, status,
        f"{shown(100 * share)} %: {integrated / 3600:.2f} h of {expected / 3600:.2f} h, "
        f"{len(gaps)} gap{'' if len(gaps) == 1 else 's'}",
        100.0 * share, unit, gate, reason,
        numbers={
            "integrated_hours": integrated / 3600.0, "expected_hours": expected / 3600.0,
            "gaps": len(gaps), "longest_gap_minutes": max((gap[0] for gap in gaps), default=0.0),
            "earlier_median_percent": before,
        },
        details=tuple(listed),
        chart=over_time(groups, [group.seconds for group in groups], "integrated, s"),
    )  # fmt: skip


def trend_status(
    facts: NightFacts, gates: NightReportConfig, key: str, value: Number, *, both: bool = False
) -> tuple[Status, Number, str]:
    """The result against the median of earlier nights, that median, and why it does not pass.

    Too low is worse; with `both` a deviation to either side.
    """
    earlier = facts.earlier_numbers(key)[: gates.trend_nights]
    if len(earlier) < gates.trend_nights_min:
        number = f"{len(earlier)} earlier night{'' if len(earlier) == 1 else 's'}"
        return "no gate", None, f"{number} of this declination: nothing to compare with"
    before = median(earlier)
    if value is None or before == 0:
        return "no gate", before, "nothing to compare with"
    change = value / before - 1.0
    status = above(abs(change) if both else -change, gates.trend_change)
    reason = "" if status == "pass" else f"{change:+.0%} against the median {before:.3g}"
    return status, before, reason


def _subbands(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "subbands", "Sub-bands", "%"
    expected = facts.expected_subbands
    gate = (
        f"warns if over {gates.incomplete_warn:.0%} of the groups lack one, fails if over "
        f"{gates.rejected_fail:.0%} have too few"
    )
    ended = [group for group in facts.groups if not group.collecting]
    if not ended:
        reason = "no group of this night is closed yet"
        return not_measured(key, title, unit, gate, reason, expected=bool(facts.groups))
    lacking = [group for group in ended if group.n_subbands < expected]
    rejected = [group for group in ended if not group.accepted]
    incomplete, refused = len(lacking) / len(ended), len(rejected) / len(ended)
    status = worst(
        above(incomplete, gates.incomplete_warn),
        "fail" if refused > gates.rejected_fail else "pass",
    )
    missing = Counter(n for group in lacking for n in group.missing_subbands)
    full, partial = len(ended) - len(lacking), len(lacking) - len(rejected)
    text = f"{full} groups with {expected}, {partial} with fewer, {len(rejected)} with too few"
    often = ", ".join(f"sb{n:02d} in {count}" for n, count in missing.most_common(4))
    return Row(
        key, title, status, text, 100.0 * (1.0 - incomplete), unit, gate,
        "" if status == "pass" else f"{len(lacking)} of {len(ended)} groups are incomplete"
        + (f"; missing: {often}" if often else ""),
        numbers={"complete": full, "partial": partial, "rejected": len(rejected)},
        tasks=tasks_of(sorted(lacking, key=lambda group: group.n_subbands)),
        chart=Chart(
            "bars", "sub-band", "groups without it",
            bars=tuple((f"{n:02d}", float(missing[n])) for n in range(expected)),
        ),
    )  # fmt: skip


def _latency(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "latency", "Latency", "min"
    gate = (
        f"a further group takes at most {GROUP_SECONDS:.0f} s: warns above "
        f"{gates.group_seconds_warn:.0f} s, fails above {gates.group_seconds_fail:.0f} s"
    )
    ended = [
        (group, group.task.ended_at)
        for group in sorted(facts.groups, key=lambda group: group.mid_mjd)
        if group.processed and group.task is not None and group.task.ended_at is not None
    ]
    if not ended:
        reason = "no task of a processed group is in the queue's history"
        expected = any(group.processed for group in facts.groups)
        return not_measured(key, title, unit, gate, reason, expected=expected)
    minutes = [(end - mjd_time(group.mid_mjd)).total_seconds() / 60.0 for group, end in ended]
    pace = _seconds_a_group([(group.mid_mjd, end.timestamp()) for group, end in ended])
    status: Status = (
        "no gate" if pace is None
        else above(pace, gates.group_seconds_warn, gates.group_seconds_fail)
    )  # fmt: skip
    published = [
        (mosaic.published_at - mjd_time(mosaic.mid_mjd)).total_seconds() / 60.0
        for mosaic in facts.mosaics
        if mosaic.published_at is not None and mosaic.mid_mjd is not None
    ]
    slowest = sorted(zip(minutes, ended, strict=True), key=lambda item: -item[0])
    reason = {
        "pass": "",
        "no gate": "one group ended: no pace to judge",
    }.get(status, f"each further group takes {shown(pace, 0)} s: the backlog grows")
    return Row(
        key, title, status,
        f"median {shown(middle(minutes))} min from mid-observation to the group's end; "
        f"{shown(pace, 0)} s a group",
        middle(minutes), unit, gate, reason,
        numbers={
            "group_seconds": pace, "largest_minutes": max(minutes),
            "published_minutes_median": middle(published),
        },
        details=(
            f"{len(published)} mosaics published, median {shown(middle(published))} min after "
            "the middle of their observation",
        ) if published else (),
        tasks=tasks_of([item[1][0] for item in slowest]),
        chart=over_time([group for group, _ in ended], minutes, "latency, min"),
    )  # fmt: skip


def _seconds_a_group(points: Sequence[tuple[float, float]]) -> float | None:
    """Median over pairs of groups: time between their ends over that between their middles.

    In units of a group's observation; None for fewer than two. When the pipeline keeps up it is
    309 s however large the latency, and less while a backlog is worked off.
    """
    used = points[:: max(1, len(points) // _PAIRS_MAX)]
    slopes = [
        (late_end - early_end) / ((late - early) * 86400.0)
        for number, (early, early_end) in enumerate(used)
        for late, late_end in used[number + 1 :]
        if late > early
    ]
    return median(slopes) * GROUP_SECONDS if slopes else None


def mjd_time(mjd: float) -> datetime:
    """The time of a modified Julian date."""
    return _EPOCH_OF_MJD + timedelta(days=mjd)


def _data_age(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "data_age", "Age of the newest data", "h"
    gate = (
        f"warns above {gates.data_age_hours_warn:g} h, fails above {gates.data_age_hours_fail:g} h"
    )
    if not facts.is_newest:
        reason = "a later night has data"
        return not_measured(key, title, unit, gate, reason, expected=False)
    age = facts.data_age_hours
    if age is None:
        reason = "no file of the incoming folder has a known time of arrival"
        return not_measured(key, title, unit, gate, reason, expected=False)
    status = above(age, gates.data_age_hours_warn, gates.data_age_hours_fail)
    text = f"{shown(age)} h at {facts.read_at:%Y-%m-%d %H:%M} UTC"
    reason = "" if status == "pass" else f"no new file for {shown(age)} h"
    return Row(key, title, status, text, age, unit, gate, reason)


def _flagged(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "flagged", "Flagged data", "%"
    gate = (
        f"an antenna over {gates.antenna_flagged_warn:.0%} warns, over "
        f"{gates.antennas_flagged_fail:.0%} of the antennas fail; exactly 0 % fails"
    )
    groups = [group for group in facts.groups if group.flagged_after is not None]
    if not groups:
        reason = "no group was flagged yet"
        return not_measured(key, title, unit, gate, reason, expected=bool(facts.images))
    after = middle(group.flagged_after for group in groups)
    nothing = [group for group in groups if group.flagged_after == 0.0]
    by_antenna = flags_by_antenna(groups)
    bad = {name: share for name, share in by_antenna.items() if share > gates.antenna_flagged_warn}
    n_antennas = max((group.n_antennas or 0 for group in groups), default=0) or len(by_antenna)
    bad_share = len(bad) / n_antennas if n_antennas else 0.0
    # Without the flags of each antenna, only those are known that are flagged entirely.
    unread = all(group.data is None or not group.data.flagged_by_antenna for group in groups)
    status: Status = worst(
        "fail" if nothing or bad_share > gates.antennas_flagged_fail else "pass",
        "warn" if bad else "pass",
        "not measured" if unread else "pass",
    )
    names = ", ".join(
        f"{name} {share:.0%}"
        for name, share in sorted(bad.items(), key=lambda item: (-item[1], item[0]))[
            :_ANTENNAS_SHOWN
        ]
    )
    more = f" and {len(bad) - _ANTENNAS_SHOWN} more" if len(bad) > _ANTENNAS_SHOWN else ""
    reasons = [
        f"nothing is flagged in {len(nothing)} of {len(groups)} groups" if nothing else "",
        f"{len(bad)} of {n_antennas} antennas over {gates.antenna_flagged_warn:.0%}: {names}{more}"
        if bad else "",
        f"flags of single antennas: {_data_problem(groups)}" if unread else "",
    ]  # fmt: skip
    by_subband = _flags_by_subband(groups)
    return Row(
        key, title, status,
        f"median {percent(middle(g.flagged_before for g in groups))} % before, "
        f"{percent(after)} % after flagging, "
        f"{percent(middle(g.flagged_calibrated for g in groups))} % after calibration",
        scaled(after, 100.0), unit, gate, "; ".join(filter(None, reasons)),
        numbers={
            "before_percent": scaled(middle(g.flagged_before for g in groups), 100.0),
            "calibrated_percent": scaled(middle(g.flagged_calibrated for g in groups), 100.0),
            "antennas_beyond": len(bad), "groups_without_flags": len(nothing),
        },
        details=(
            "by sixteenth of the band, %: "
            + ", ".join(f"{100 * share:.0f}" for share in by_subband),
        ) if by_subband else (),
        tasks=tasks_of(nothing or sorted(groups, key=lambda g: -(g.flagged_after or 0.0))),
        chart=Chart(
            "bars", "antenna", "flagged, %",
            bars=tuple((name, 100.0 * by_antenna[name]) for name in sorted(by_antenna)),
            limits=(100.0 * gates.antenna_flagged_warn,),
        ) if by_antenna else over_time(
            groups, [scaled(g.flagged_after, 100.0) for g in groups], "flagged, %"
        ),
    )  # fmt: skip


def _data_problem(groups: Sequence[GroupFacts]) -> str:
    problems = [group.data.problem for group in groups if group.data is not None]
    return next(filter(None, problems), "no Measurement Set was read")


def flags_by_antenna(groups: Sequence[GroupFacts]) -> dict[str, float]:
    """The median flagged fraction of each antenna over the groups; 1 where it has no data."""
    shares: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        read = dict(group.data.flagged_by_antenna) if group.data is not None else {}
        for name, share in (read | dict.fromkeys(group.dead_antennas, 1.0)).items():
            shares[name].append(share)
    return {name: median(values) for name, values in shares.items()}


def _flags_by_subband(groups: Sequence[GroupFacts]) -> list[float]:
    read = [group.data.flagged_by_subband for group in groups if group.data is not None]
    return [median(parts) for parts in zip(*filter(None, read), strict=False)]


def _uv_coverage(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "uv_coverage", "uv coverage", "%"
    gate = f"warns below {gates.baselines_warn:.0%} of the baselines, fails below "
    gate += f"{gates.baselines_fail:.0%}"
    read = [
        group for group in facts.groups
        if group.data is not None and group.data.baselines and not group.data.problem
    ]  # fmt: skip
    if not read:
        reason = _data_problem(facts.groups) if facts.groups else "there is no group"
        calibrated = any(group.flagged_calibrated is not None for group in facts.groups)
        return not_measured(key, title, unit, gate, reason, expected=calibrated)
    shares = [
        (group.data.unflagged_baselines or 0) / (group.data.baselines or 1)
        for group in read if group.data is not None
    ]  # fmt: skip
    share = median(shares)
    worst_group = read[shares.index(min(shares))]
    data = [group.data for group in read if group.data is not None]
    gap = max(known(figures.gap_wavelengths for figures in data), default=None)
    longest = middle(figures.longest_wavelengths for figures in data)
    status = below(share, gates.baselines_warn, gates.baselines_fail)
    sample = worst_group.data.uv_wavelengths if worst_group.data is not None else ()
    mirrored = [(u, v) for point in sample for u, v in (point, (-point[0], -point[1]))]
    return Row(
        key, title, status,
        f"{shown(100 * share)} % of the baselines have unflagged data; largest gap "
        f"{shown(gap, 0)} of {shown(longest, 0)} wavelengths",
        100.0 * share, unit, gate,
        "" if status == "pass" else f"only {shown(100 * share)} % of the baselines are left",
        numbers={
            "unflagged_baselines": middle(figures.unflagged_baselines for figures in data),
            "largest_gap_wavelengths": gap, "longest_wavelengths": longest,
        },
        tasks=tasks_of([worst_group]),
        chart=Chart(
            "points", f"u, kilolambda ({worst_group.group_id})", "v, kilolambda",
            tuple((u / 1e3, v / 1e3, "") for u, v in mirrored), zero=False,
        ) if mirrored else None,
    )  # fmt: skip
