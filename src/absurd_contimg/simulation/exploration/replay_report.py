"""What a replayed future was compared with, in figures, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from absurd_contimg.history.invariants.check import Violation
from absurd_contimg.simulation.exploration.crash_run import CrashRun
from absurd_contimg.simulation.exploration.outcome import Outcome

_RUNS_SHOWN = 10


def replay_report(
    replayed: tuple[CrashRun, Outcome],
    baseline: tuple[CrashRun, Outcome],
    violations: Sequence[Violation],
    *,
    ends_otherwise: bool,
) -> str:
    """Sentences about a run under faults, beside the baseline run; each with its outcome."""
    (run, outcome), (base_run, base) = replayed, baseline
    pending = run.injector.pending
    injected = "all were injected" if not pending else f"{len(pending)} were not injected"
    lines = [
        f"Faults: {injected}, and the run {_end(run)} (without faults: {_end(base_run)}).",
        f"Runs of tasks: {_run_ends(outcome)} (without faults: {_run_ends(base)}).",
    ]
    if ends_otherwise:
        same = "It was cancelled, and so it is not compared with the run without faults."
    else:
        lines.append(f"Compared with the run without faults: {', '.join(_sizes(base))}.")
        same = "All of it is the same."
        if differences := len(outcome.differences(base)):
            same = f"{_count(differences, 'difference')}."
    broken = f"{_count(len(violations), 'violation')} of invariants."
    return "\n".join([*lines, f"{same} {broken if violations else 'No invariant is violated.'}"])


def _end(run: CrashRun) -> str:
    return "never ended" if run.ended_at is None else f"ended after {run.ended_at:,.3f} s"


def _run_ends(outcome: Outcome) -> str:
    ends = [end for of_task in outcome.run_ends for end in of_task]
    counts = [f"{ends.count(end)} {end}" for end in dict.fromkeys(ends)]
    more = [f"{len(counts) - _RUNS_SHOWN} more"] if len(counts) > _RUNS_SHOWN else []
    return ", ".join([*counts[:_RUNS_SHOWN], *more]) or "none"


def _sizes(outcome: Outcome) -> Iterator[str]:
    checkpoints = _count(outcome.checkpoints, "checkpoint")
    yield f"{_count(len(outcome.tasks), 'task')} with {checkpoints}"
    parts: Sequence[tuple[Sequence[object], str]] = (
        (outcome.products, "product"),
        (outcome.records, "record of the registry"),
        (outcome.events, "event"),
        (outcome.ledger, "effect outside"),
    )
    for values, name in parts:
        if values:
            yield _count(len(values), name)


def _count(number: int, noun: str) -> str:
    first, _, rest = noun.partition(" ")
    return f"{number} {first}{'' if number == 1 else 's'}{f' {rest}' if rest else ''}"
