"""The report of a campaign: the figures of its runs as a table, as JSON and as HTML."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from absurd_contimg.history.metrics import measure
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.plotting import plain_text, plotting_libraries
from absurd_contimg.simulation.campaign.campaign import Run
from absurd_contimg.simulation.campaign.summary import RunSummary, backlog
from absurd_contimg.simulation.model.world import EPOCH
from absurd_contimg.terminal_tables import KeyedTable

_GROUPS_DRAWN = 400
_RUNS_DRAWN = 8
_COLOURS = {"done": "tab:blue", "died": "tab:red"}


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


def html_of(summaries: Sequence[RunSummary], runs: Sequence[Run], folder: Path) -> str:
    """One self-contained page: the table, the figures of the last runs, the violations.

    Temporary files of matplotlib are in `folder` meanwhile.
    """
    rows = ""
    for summary in summaries:
        cells = (html.escape(_shown(value)) for value in asdict(summary).values())
        rows += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    heads = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in RunSummary.__slots__)
    figures = ""
    with plotting_libraries(folder):
        for summary, run in list(zip(summaries, runs, strict=True))[-_RUNS_DRAWN:]:
            figures += f"<h2>{html.escape(summary.label)}, seed {summary.seed}</h2>{_figure(run)}"
    return (
        "<!doctype html><meta charset='utf-8'><title>Simulated campaign</title>"
        "<style>body{font:14px sans-serif;margin:2em}td,th{border:1px solid #ccc;padding:3px 6px;"
        "font-size:12px;text-align:left;vertical-align:top}table{border-collapse:collapse}"
        "img{max-width:100%}</style><h1>Simulated campaign</h1>"
        f"<table><tr>{heads}</tr>{rows}</table>{figures}"
    )


def json_of(summaries: Sequence[RunSummary]) -> str:
    """For programs; null where nothing has completed that could be measured."""
    return json.dumps([asdict(summary) for summary in summaries], indent=1, allow_nan=False)


def _figure(run: Run) -> str:
    """Workers' timeline with faults, backlog, latencies; as an embedded image."""
    import matplotlib  # noqa: PLC0415 - the plots extra

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(11, 9), layout="constrained")
    for history in run.histories[:_GROUPS_DRAWN]:
        for start in step_starts(history):
            begin = (start.started_at - EPOCH).total_seconds() / 3600
            hours = max((start.seconds or 0.0) / 3600, 0.003)
            colour = _COLOURS.get(start.outcome, "tab:orange")
            top.barh(plain_text(start.worker), hours, left=begin, color=colour, height=0.6)
    for fault in run.faults:
        top.axvline(fault.at_seconds / 3600, color="black", lw=0.5, alpha=0.4)
    top.set(title="stages by worker (blue done, red died, orange failed; lines: faults)")
    points = backlog(run)
    middle.plot([time / 3600 for time, _ in points], [count for _, count in points])
    middle.set(title="backlog (groups that are spawned and not ended)", xlabel="hours")
    bottom.hist([seconds / 60 for seconds in measure(run.histories).latency_seconds], bins=40)
    bottom.set(title="from spawn to end", xlabel="minutes", ylabel="groups")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return f"<img src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f}"


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
