"""The figures of a campaign's runs, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from absurd_contimg.simulation.campaign.summary import RunSummary
from absurd_contimg.terminal_tables import KeyedTable


def table_of(summaries: Sequence[RunSummary]) -> KeyedTable:
    """For a terminal: one line a run."""
    caption = (
        "viol: violations of invariants. per h: completed an hour. p50, p95: minutes from spawn "
        "to end. queue: groups there at most, and at the end. lost: stage time without a product. "
        "died: stages that ended with their worker. faults: those that hit work under way, of all."
    )
    table = KeyedTable(title="Simulated campaign", caption=caption, padding=(0, 1, 0, 0))
    table.add_column("run", min_width=10)
    names = ("seed", "viol", "done", "fail", "left", "per h", "p50", "p95", "queue")
    for name in (*names, "busy", "lost", "died", "faults"):
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
            str(summary.recoveries),
            f"{sum(summary.effective.values())}/{sum(summary.injected.values())}",
        )
    return table


def json_of(summaries: Sequence[RunSummary]) -> str:
    """For programs; null where nothing has completed that could be measured."""
    return json.dumps([asdict(summary) for summary in summaries], indent=1, allow_nan=False)


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f}"
