"""The report of a campaign: figures from the histories, as a table, as JSON and as HTML."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table

from absurd_contimg.core.records import History, Json
from absurd_contimg.history.metrics import measure, percentile
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.simulation.campaign.campaign import Run
from absurd_contimg.simulation.model.world import EPOCH

_BACKLOG_POINTS = 200
_GROUPS_DRAWN = 400
_CALM_GROUPS = 2


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one run; times in seconds."""

    label: str
    seed: int
    groups: int
    rejected: int
    completed: int
    failed: int
    unfinished: int
    throughput_per_hour: float
    latency_p50: float
    latency_p95: float
    latency_max: float
    backlog_max: int
    backlog_end: int
    backlog_gone_after: float | None
    """See `backlog_gone_after`."""
    utilisation: float
    """Share of all workers' time in which a stage ran."""
    lost_share: float
    """Share of stage time that ended without a product and was spent again or for nothing."""
    recoveries: int
    """Starts of stages that ended with their worker."""
    failures: Mapping[str, int]
    """Failed runs by kind."""
    injected: Mapping[str, int]
    effective: Mapping[str, int]
    violations: tuple[str, ...]
    digest: str

    def to_json(self) -> dict[str, Json]:
        """All fields."""
        return {name: _plain(getattr(self, name)) for name in self.__slots__}


def summarise(run: Run, label: str) -> Summary:
    """The figures of a run."""
    histories = run.histories
    figures = measure(histories)
    latencies, states = figures.latency_seconds, figures.tasks_by_state
    points = backlog(run)
    seconds = run.scenario.days * 86_400.0
    completed = [one for one in histories if one.task.state == "completed"]
    finished = [at for at in map(_ended_at, completed) if at is not None and at <= seconds]
    worker_seconds = run.scenario.workers.count * run.ended_at_seconds
    return Summary(
        label=label,
        seed=run.seed,
        groups=len(histories),
        rejected=run.groups_rejected,
        completed=states.get("completed", 0),
        failed=states.get("failed", 0),
        unfinished=len(histories) - states.get("completed", 0) - states.get("failed", 0),
        throughput_per_hour=len(finished) / seconds * 3600.0,
        latency_p50=percentile(latencies, 0.50),
        latency_p95=percentile(latencies, 0.95),
        latency_max=percentile(latencies, 1.0),
        backlog_max=max((count for _, count in points), default=0),
        backlog_end=points[-1][1] if points else 0,
        backlog_gone_after=backlog_gone_after(run),
        utilisation=run.stage_seconds / worker_seconds,
        lost_share=run.stage_seconds_lost / run.stage_seconds if run.stage_seconds else 0.0,
        recoveries=figures.lost_starts,
        failures=dict(sorted(figures.failures_by_kind.items())),
        injected=dict(run.fault_counts.injected),
        effective=dict(run.fault_counts.effective),
        violations=tuple(map(str, run.violations)),
        digest=run.digest,
    )


def backlog(run: Run) -> list[tuple[float, int]]:
    """How many groups had come and not ended, at evenly spaced times of the observing."""
    came = sorted(_seconds(history.task.enqueue_at) for history in run.histories)
    ended = sorted(at for at in map(_ended_at, run.histories) if at is not None)
    end = run.scenario.days * 86_400.0
    found, here, gone = [], 0, 0
    for number in range(_BACKLOG_POINTS + 1):
        time = end * number / _BACKLOG_POINTS
        while here < len(came) and came[here] <= time:
            here += 1
        while gone < len(ended) and ended[gone] <= time:
            gone += 1
        found.append((time, here - gone))
    return found


def backlog_gone_after(run: Run) -> float | None:
    """Seconds from the end of the last planned outage or stop until at most two groups are there.

    None without such an outage, and when the observing ends before.
    """
    faults = run.scenario.faults
    planned = [at + lasted for at, lasted in (*faults.outages, *faults.processing_stops)]
    if not planned:
        return None
    came = [(_seconds(history.task.enqueue_at), 1) for history in run.histories]
    gone = [(at, -1) for at in map(_ended_at, run.histories) if at is not None]
    here, over = 0, max(planned)
    for at, change in sorted(came + gone):
        here += change
        if over <= at <= run.scenario.days * 86_400.0 and here <= _CALM_GROUPS:
            return at - over
    return None


def table_of(summaries: Sequence[Summary]) -> Table:
    """For a terminal: one line a run."""
    caption = (
        "wrong: broken invariants. per h: completed an hour. p50, p95: minutes from spawn to end. "
        "queue: groups there at most, and at the end. lost: stage time without a product. died: "
        "stages that ended with their worker. hits: faults that met work under way, of all."
    )
    table = Table(title="Simulated campaign", caption=caption, box=None, padding=(0, 1, 0, 0))
    table.add_column("run", min_width=10)
    names = ("seed", "wrong", "done", "fail", "left", "per h", "p50", "p95", "queue")
    for name in (*names, "busy", "lost", "died", "hits"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in summaries:
        table.add_row(
            one.label,
            str(one.seed),
            str(len(one.violations)),
            str(one.completed),
            str(one.failed),
            str(one.unfinished),
            f"{one.throughput_per_hour:.1f}",
            _minutes(one.latency_p50),
            _minutes(one.latency_p95),
            f"{one.backlog_max}/{one.backlog_end}",
            f"{one.utilisation:.0%}",
            f"{one.lost_share:.1%}",
            str(one.recoveries),
            f"{sum(one.effective.values())}/{sum(one.injected.values())}",
        )
    return table


def html_of(summaries: Sequence[Summary], runs: Sequence[Run], folder: Path) -> str:
    """One self-contained page: the table, the figures of the last runs, the violations.

    What matplotlib writes beside it lies in `folder` meanwhile.
    """
    cells = [
        "".join(f"<td>{html.escape(_shown(one))}</td>" for one in summary.to_json().values())
        for summary in summaries
    ]
    rows = "".join(f"<tr>{row}</tr>" for row in cells)
    heads = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in Summary.__slots__)
    with _matplotlib_kept_in(folder):
        figures = "".join(
            f"<h2>{html.escape(summary.label)}, seed {summary.seed}</h2>{_figure(run)}"
            for summary, run in list(zip(summaries, runs, strict=True))[-8:]
        )
    return (
        "<!doctype html><meta charset='utf-8'><title>Simulated campaign</title>"
        "<style>body{font:14px sans-serif;margin:2em}td,th{border:1px solid #ccc;padding:3px 6px;"
        "font-size:12px;text-align:left;vertical-align:top}table{border-collapse:collapse}"
        "img{max-width:100%}</style><h1>Simulated campaign</h1>"
        f"<table><tr>{heads}</tr>{rows}</table>{figures}"
    )


@contextmanager
def _matplotlib_kept_in(folder: Path) -> Iterator[None]:
    """Import it with its list of fonts in a folder that is removed again, not at home."""
    before = os.environ.get("MPLCONFIGDIR")
    with TemporaryDirectory(dir=folder.absolute(), prefix=".plots-") as private:
        os.environ["MPLCONFIGDIR"] = private
        try:
            import_module("matplotlib.font_manager")  # where the list is written
            yield
        finally:
            if before is None:
                del os.environ["MPLCONFIGDIR"]
            else:
                os.environ["MPLCONFIGDIR"] = before


def _figure(run: Run) -> str:
    """Workers' timeline with faults, backlog, latencies; as an embedded image."""
    import matplotlib  # noqa: PLC0415 - the plots extra

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(11, 9), layout="constrained")
    for history in run.histories[:_GROUPS_DRAWN]:
        for one in step_starts(history):
            begin = _seconds(one.started_at) / 3600
            long = (one.seconds or 0.0) / 3600
            colour = {"done": "tab:blue", "died": "tab:red"}.get(one.outcome, "tab:orange")
            top.barh(one.worker, max(long, 0.003), left=begin, color=colour, height=0.6)
    for fault in run.faults:
        top.axvline(fault.at_seconds / 3600, color="black", lw=0.5, alpha=0.4)
    top.set(title="stages by worker (blue done, red died, orange failed; lines: faults)")
    points = backlog(run)
    middle.plot([time / 3600 for time, _ in points], [count for _, count in points])
    middle.set(title="backlog (groups that have come and not ended)", xlabel="hours")
    bottom.hist([seconds / 60 for seconds in measure(run.histories).latency_seconds], bins=40)
    bottom.set(title="from spawn to end", xlabel="minutes", ylabel="groups")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return f"<img src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def json_of(summaries: Sequence[Summary]) -> str:
    """For machines; null where nothing has completed that could be measured."""
    return json.dumps([one.to_json() for one in summaries], indent=1, allow_nan=False)


def _ended_at(history: History) -> float | None:
    if history.task.state not in ("completed", "failed") or not history.runs:
        return None
    last = history.runs[-1]
    moment = last.completed_at or last.failed_at
    return None if moment is None else _seconds(moment)


def _seconds(moment: datetime) -> float:
    return (moment - EPOCH).total_seconds()


def _minutes(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds / 60:.1f}"


def _plain(value: Any) -> Any:
    """As JSON has it, which knows no NaN."""
    if isinstance(value, float) and math.isnan(value):
        return None
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
