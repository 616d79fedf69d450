"""The report of a campaign as one page: no script, nothing loaded, as the pipeline's report."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from absurd_contimg.history.metrics import measure
from absurd_contimg.history.timeline import step_starts
from absurd_contimg.plotting import plain_text, plotting_libraries
from absurd_contimg.simulation.campaign.campaign import Run
from absurd_contimg.simulation.campaign.lost_time import LOSS_MEANINGS
from absurd_contimg.simulation.campaign.summary import RunSummary, backlog
from absurd_contimg.simulation.model.world import EPOCH
from absurd_contimg.workflows.failure_rules import RULES_BY_ID

_GROUPS_DRAWN = 400
_WORKERS_NAMED = 40
_RUNS_DRAWN = 8
_LINES_SHOWN = 10
_COLOURS = {"done": "#1b6ca8", "died": "#c1121f", "other": "#d4a72c"}
_MEANINGS = {"done": "done", "other": "ended without a result"}
_DIED = "begun, and ended with its worker"
_STYLE = """
:root { --paper: #fff; --ink: #1c2128; --soft: #5b6470; --line: #d9dde2; --panel: #f5f6f8;
  --good: #1a7f37; --bad: #c1121f; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e4e7eb; --soft: #9aa4b0;
  --line: #333b45; --panel: #1d232a; --good: #4ac26b; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 70rem; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
.figures { display: flex; flex-wrap: wrap; gap: .6rem; padding: 0; margin: 0; list-style: none; }
.figures li { background: var(--panel); border: 1px solid var(--line); border-radius: 6px;
  padding: .45rem .8rem; min-width: 6.5rem; }
.figures b { display: block; font-size: 1.25rem; }
.figures span, .note { color: var(--soft); font-size: .82rem; }
.good { color: var(--good); } .bad { color: var(--bad); }
.badge { font-size: .78rem; font-weight: 600; border: 1px solid currentColor;
  border-radius: 999px; padding: .08rem .6rem; margin-left: .5rem; vertical-align: .15em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; } table.wide { width: 100%; }
th { text-align: left; color: var(--soft); font-weight: 600; vertical-align: bottom; }
th, td { padding: .26rem .7rem .26rem 0; border-bottom: 1px solid var(--line); }
table.wide { font-size: .82rem; } .wide td { white-space: nowrap; }
.wide .n { padding-right: .5rem; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
li { overflow-wrap: anywhere; }
img { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px;
  background: #fff; }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; }
  img, tr { break-inside: avoid; } }
"""


def html_of(
    summaries: Sequence[RunSummary], runs: Sequence[Run], folder: Path, n_earlier: int = 0
) -> str:
    """One self-contained page about these runs; `n_earlier` more are in the JSON alone.

    Temporary files of matplotlib are in `folder` meanwhile.
    """
    name = runs[-1].scenario.name if runs else ""
    about = runs[-1].scenario.about if runs else ""
    parts = [_header(name, about, summaries, n_earlier), _table(summaries)]
    drawn = list(zip(summaries, runs, strict=True))[-_RUNS_DRAWN:]
    with plotting_libraries(folder):
        parts += [_section(summary, run) for summary, run in drawn]
    return (
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'>"
        f"<title>Simulated campaign {html.escape(name)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


_LEAD = """<p>Production's workers, failure handling and database procedures ran these nights in
virtual time, with simulated stages and the faults below. What counts is the first sentence: an
invariant is what has to hold of every task and product whatever fails, such as that no committed
product changes. Groups may fail without a violation: of bad data, or when their retries are spent.
</p>"""


def _verdict(summaries: Sequence[RunSummary]) -> str:
    violated = [summary for summary in summaries if summary.violations]
    if not violated:
        return "<p><b class='good'>No invariant is violated.</b></p>"
    runs = ", ".join(f"{html.escape(each.label)}, seed {each.seed}" for each in violated[:5])
    more = f" and {len(violated) - 5} more" if violated[5:] else ""
    return (
        f"<p><b class='bad'>Invariants are violated in {len(violated)} of {len(summaries)} runs:"
        f"</b> {runs}{more}. The output of <code>contimg simulate</code> has for each the fewest "
        "faults that do it, with the command that replays it.</p>"
    )


def _header(name: str, about: str, summaries: Sequence[RunSummary], n_earlier: int) -> str:
    violations = sum(len(summary.violations) for summary in summaries)
    effective = sum(sum(summary.effective.values()) for summary in summaries)
    injected = sum(sum(summary.injected.values()) for summary in summaries)
    figures = [
        (f"{len(summaries)}", "run on this page" if len(summaries) == 1 else "runs on this page"),
        (f"{violations}", "violations of invariants"),
        (f"{sum(summary.completed for summary in summaries):,}", "groups completed"),
        (f"{sum(summary.failed for summary in summaries):,}", "groups failed"),
        (f"{effective} of {injected}", "faults hit work under way"),
    ]
    items = "".join(f"<li><b>{figure}</b><span>{text}</span></li>" for figure, text in figures)
    note = ""
    if n_earlier:
        note = f"<p class='note'>{n_earlier} earlier runs are in report.json alone.</p>"
    title = f"Simulated campaign: {html.escape(name)}"
    lead = (f"<p>{html.escape(about)}</p>" if about else "") + _verdict(summaries)
    return f"<header><h1>{title}</h1>{lead}<ul class='figures'>{items}</ul>{note}{_LEAD}</header>"


_COLUMNS = (
    *("viola-<br>tions", "groups", "com-<br>pleted", "failed", "not<br>ended"),
    *("completed<br>per hour", "median<br>min", "95&nbsp;%<br>min", "longest<br>min"),
    *(
        "backlog,<br>at end",
        "workers<br>busy",
        "time<br>lost",
        "workers<br>died",
        "leases<br>lost",
        "faults",
    ),
)


def _table(summaries: Sequence[RunSummary]) -> str:
    heads = "<th>run</th>" + "".join(f"<th class='n'>{name}</th>" for name in ("seed", *_COLUMNS))
    rows = "".join(_row(summary) for summary in summaries)
    return (
        f"<section><h2>Runs</h2><div class='scroll'><table class='wide'><tr>{heads}</tr>{rows}"
        "</table></div><p class='note'>Minutes are from spawn to completion. The backlog is of "
        "groups that are spawned and not ended, at most and at the end. Stage time is lost where "
        "it ends without a product; workers died, or lost the lease and lived, in so many starts. "
        "Faults: those that hit work under way, of all that were injected.</p></section>"
    )


def _row(summary: RunSummary) -> str:
    effective, injected = sum(summary.effective.values()), sum(summary.injected.values())
    cells = (
        *(summary.seed, len(summary.violations), summary.groups, summary.completed),
        *(summary.failed, summary.unfinished, f"{summary.throughput_per_hour:.1f}"),
        *map(_minutes, (summary.latency_p50, summary.latency_p95, summary.latency_max)),
        *(f"{summary.backlog_max}, {summary.backlog_end}", f"{summary.utilisation:.0%}"),
        *(f"{summary.lost_share:.1%}", *map(summary.lost_starts, ("died", "lost"))),
        f"{effective} of {injected}",
    )
    numbers = "".join(f"<td class='n'>{cell}</td>" for cell in cells)
    return f"<tr><td>{html.escape(summary.label)}</td>{numbers}</tr>"


def _minutes(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds / 60:.1f}"


def _section(summary: RunSummary, run: Run) -> str:
    count = len(summary.violations)
    badge = f"<span class='badge {'bad' if count else 'good'}'>{count or 'no'} violations</span>"
    gone = ""
    if summary.backlog_gone_after is not None:
        hours = summary.backlog_gone_after / 3600
        gone = f"<p>The backlog was gone {hours:.1f} h after the last planned outage.</p>"
    parts = (
        f"<h2>{html.escape(summary.label)}, seed {summary.seed}{badge}</h2>",
        _list("Violations", summary.violations),
        f"<p>{_figure(run)}</p>",
        gone,
        _list("Waiting at the end", summary.waiting),
        *_counts(summary),
        f"<p class='note'>Digest of all that happened: <code>{summary.digest}</code>. The same "
        "scenario, seed and version give the same one.</p>",
    )
    return f"<section>{''.join(parts)}</section>"


def _list(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines[:_LINES_SHOWN])
    more = f"<li>and {len(lines) - _LINES_SHOWN} more</li>" if lines[_LINES_SHOWN:] else ""
    return f"<h3>{title}</h3><ul>{items}{more}</ul>"


def _counts(summary: RunSummary) -> Iterator[str]:
    faults: Mapping[str, str] = {
        kind: f"{summary.effective.get(kind, 0)} of {number}"
        for kind, number in summary.injected.items()
    }
    losses = {
        cause: f"{loss.starts:,} starts, {loss.seconds:,.0f} s"
        for cause, loss in summary.losses.items()
    }
    lost = sum(loss.seconds for loss in summary.losses.values())
    tables: tuple[tuple[str, Mapping[str, object], Mapping[str, str]], ...] = (
        ("Faults that hit work under way, of those injected", faults, FAULT_MEANINGS),
        (
            f"Stages without a product, by cause: {lost:,.0f} s of {summary.stage_seconds:,.0f} s",
            *(losses, LOSS_MEANINGS),
        ),
        (
            "Failed groups, by the step and the rule that ended them",
            summary.failed_by_rule,
            {name: _advice().get(name.rpartition(": ")[2], "") for name in summary.failed_by_rule},
        ),
        ("Failed attempts of tasks, by kind", summary.failures, _KIND_MEANINGS),
        ("Stages that waited for a resource, by rule", summary.resource_waits, _advice()),
    )
    for title, counts, meanings in tables:
        if counts:
            rows = "".join(
                f"<tr><td>{html.escape(str(name))}</td><td class='n'>{number}</td>"
                f"<td class='note'>{html.escape(meanings.get(str(name), ''))}</td></tr>"
                for name, number in counts.items()
            )
            yield f"<h3>{title}</h3><table>{rows}</table>"


FAULT_MEANINGS = {
    "kill": "SIGKILL of a worker, which is restarted",
    "pause": "SIGSTOP of a worker for longer than its lease, then SIGCONT",
    "term": "SIGTERM of a worker, which gives its tasks back and is restarted",
    "reboot": "all workers of a host are killed, and start again",
    "partition": "a host loses the database, and its workers go on",
    "outage": "the database is away",
    "stop": "all workers are down",
    "fill": "files of others take all the space of the disk",
}
"""Of the faults that have a time."""
_KIND_MEANINGS = {
    "transient": "may pass by itself: tried again, up to the budget of its step",
    "resource": "disk, memory or descriptors were short: waited for",
    "permanent": "the same input fails again: the group has failed with it",
    "interrupted": "its worker died or was stopped: run again, at no cost",
    "unknown": "no rule knows it: tried once more",
}


def _advice() -> dict[str, str]:
    return {rule.id: rule.advice for rule in RULES_BY_ID.values()}


def _figure(run: Run) -> str:
    """Workers' timeline with faults, backlog, latencies; as an embedded image."""
    import matplotlib  # noqa: PLC0415 - the plots extra

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from matplotlib.lines import Line2D  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    starts = [each for history in run.histories[:_GROUPS_DRAWN] for each in step_starts(history)]
    workers = sorted({each.worker for each in starts})
    height = min(2.0 + 0.22 * len(workers), 9.0)
    figure, (top, middle, bottom) = plt.subplots(
        *(3, 1),
        figsize=(11, height + 5.0),
        height_ratios=(height, 2.5, 2.5),
        layout="constrained",
    )
    middle.sharex(top)
    for each in starts:
        begin = (each.started_at - EPOCH).total_seconds() / 3600
        if each.seconds is None:  # nobody knows when its worker died
            top.plot(begin, workers.index(each.worker), "x", color=_COLOURS["died"], ms=7, mew=2)
            continue
        hours = max(each.seconds / 3600, 0.003)
        colour = _COLOURS.get(each.outcome, _COLOURS["other"])
        top.barh(workers.index(each.worker), hours, left=begin, color=colour, height=0.7)
    for fault in run.faults:
        top.axvline(fault.at_seconds / 3600, color="black", lw=0.6, alpha=0.4)
    named = workers if len(workers) <= _WORKERS_NAMED else []
    top.set_yticks(range(len(named)), [plain_text(name) for name in named])
    top.invert_yaxis()
    not_drawn = max(len(run.histories) - _GROUPS_DRAWN, 0)
    title = "Stages by worker, in simulated time; lines: faults"
    top.set(
        title=title + (f" (the first {_GROUPS_DRAWN} groups)" if not_drawn else ""),
        xlabel="time (h)",
    )
    top.legend(
        handles=[
            *(Patch(color=_COLOURS[key], label=text) for key, text in _MEANINGS.items()),
            Line2D([], [], ls="", marker="x", color=_COLOURS["died"], mew=2, label=_DIED),
        ],
        loc="upper left",
        bbox_to_anchor=(0.0, -0.3 / (height * 0.3)),
        ncols=3,
        fontsize="small",
        frameon=False,
    )
    points = backlog(run)
    middle.step([time / 3600 for time, _ in points], [count for _, count in points], where="post")
    middle.set(title="Backlog: groups that are spawned and not ended", xlabel="time (h)")
    middle.set(ylabel="groups", ylim=(0, None))
    minutes = [seconds / 60 for seconds in measure(run.histories).latency_seconds]
    bottom.hist(minutes, bins=40)
    bottom.set(title="From spawn to completion", xlabel="time (min)", ylabel="groups")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    text = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='Stages by worker, backlog and latencies' src='data:image/png;base64,{text}'>"
