"""The figures of a campaign's runs, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from absurd_contimg.simulation.campaign.lost_time import LOSS_MEANINGS, sum_of_losses
from absurd_contimg.simulation.campaign.summary import RunSummary
from absurd_contimg.terminal_tables import KeyedTable


def table_of(summaries: Sequence[RunSummary]) -> KeyedTable:
    """For a terminal: one line a run."""
    caption = (
        "viol: violations of invariants. per h: completed an hour. p50, p95: minutes from spawn "
        "to end. queue: groups there at most, and at the end. lost: stage time without a product. "
        "faults: those that hit work under way, of all."
    )
    table = KeyedTable(title="Simulated campaign", caption=caption, padding=(0, 1, 0, 0))
    table.add_column("run", min_width=10)
    names = ("seed", "viol", "done", "fail", "left", "per h", "p50", "p95", "queue")
    for name in (*names, "busy", "lost", "faults"):
        table.add_column(name, justify="right")
    for summary in summaries:
        table.add_row(
            summary.label,
            str(summary.seed),
            str(len(summary.violations)),
            str(summary.completed),
            str(summary.failed),
            str(summary.unfinished),
            f"{summary.throughput_per_hour:.1f}",
            _minutes(summary.latency_p50),
            _minutes(summary.latency_p95),
            f"{summary.backlog_max}/{summary.backlog_end}",
            f"{summary.utilisation:.0%}",
            f"{summary.lost_share:.1%}",
            f"{sum(summary.effective.values())}/{sum(summary.injected.values())}",
        )
    return table


def variants_table(summaries: Sequence[RunSummary]) -> KeyedTable:
    """For a terminal: one line a variant of a sweep, over all its seeds, narrow enough to compare.

    Of times and queues the largest of a seed, of rates the mean.
    """
    caption = "Of all seeds: per h and busy on average, p95 and queue at the end at most."
    table = KeyedTable(title="Variants", caption=caption, padding=(0, 1, 0, 0))
    table.add_column("variant", min_width=10)
    table.add_column("verdict")
    for name in ("per h", "p95", "queue", "busy", "lost"):
        table.add_column(name, justify="right")
    for label in dict.fromkeys(summary.label for summary in summaries):
        runs = [summary for summary in summaries if summary.label == label]
        latencies = [run.latency_p95 for run in runs if run.latency_p95 is not None]
        used = sum(run.stage_seconds for run in runs)
        table.add_row(
            label,
            _verdict(runs),
            f"{sum(run.throughput_per_hour for run in runs) / len(runs):.1f}",
            _minutes(max(latencies, default=None)),
            str(max(run.backlog_end for run in runs)),
            f"{sum(run.utilisation for run in runs) / len(runs):.0%}",
            f"{sum(run.lost_share * run.stage_seconds for run in runs) / used if used else 0:.1%}",
        )
    return table


def _verdict(runs: Sequence[RunSummary]) -> str:
    """The worst of it first: violations, failed groups, groups that are left."""
    counts = {
        "violated": sum(len(run.violations) for run in runs),
        "failed": sum(run.failed for run in runs),
        "left": sum(run.unfinished for run in runs),
    }
    bad = [f"{count} {name}" for name, count in counts.items() if count]
    return ", ".join(bad) or "all done"


def lost_time_lines(summaries: Sequence[RunSummary]) -> list[str]:
    """Of the runs of each label: the stage time without a product, and its parts by cause."""
    lines = []
    for label in dict.fromkeys(summary.label for summary in summaries):
        runs = [summary for summary in summaries if summary.label == label]
        used = sum(run.stage_seconds for run in runs)
        losses = sum_of_losses([run.losses for run in runs])
        lost = sum(loss.seconds for loss in losses.values())
        if not losses:
            continue
        lines.append(
            f"{label}: {lost:,.0f} s of {used:,.0f} s of stages ended without a product "
            f"({lost / used if used else 0.0:.1%}):"
        )
        for cause, loss in losses.items():
            starts = "1 start" if loss.starts == 1 else f"{loss.starts:,} starts"
            lines.append(
                f"  {loss.seconds:>9,.0f} s in {starts}: {LOSS_MEANINGS.get(cause, cause)}"
            )
    return lines


def failed_lines(summaries: Sequence[RunSummary]) -> list[str]:
    """Of each run with failed groups: by the step and the rule that ended them."""
    return [
        f"{summary.label}, seed {summary.seed}: failed groups: {summary.failed}, of them "
        + ", ".join(f"{count} {reason}" for reason, count in summary.failed_by_rule.items())
        for summary in summaries
        if summary.failed
    ]


def json_of(summaries: Sequence[RunSummary]) -> str:
    """For programs; null where nothing has completed that could be measured."""
    return json.dumps([asdict(summary) for summary in summaries], indent=1, allow_nan=False)


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f}"
