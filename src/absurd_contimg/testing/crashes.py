"""`explore_crashes`: every crash point of any handler, in one call."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NoReturn

from absurd_contimg.core.records import History, Json, SpawnOptions, State
from absurd_contimg.simulation.exploration.exploration_spec import (
    ExplorationSpec,
    ExternalInput,
    Job,
)
from absurd_contimg.simulation.exploration.explorer import (
    FINDINGS_MAX,
    Exploration,
    baseline,
    explore,
    replay,
)
from absurd_contimg.simulation.model.faults import ALL_FAULTS, FaultKind, parse_kind, parse_schedule
from absurd_contimg.simulation.model.worker_factory import (
    AnyHandler,
    HandlerWorkers,
    WorkerTerms,
)

QUEUE = "default"
TASK = "task"

only_schedule: str | None = None
"""Set by ``pytest --absurd-faults``: the only future that `explore_crashes` tries."""


def handler_spec(
    handler: AnyHandler,
    params: Json,
    *,
    task_name: str = TASK,
    queue: str = QUEUE,
    options: SpawnOptions | None = None,
    others: Mapping[str, Mapping[str, AnyHandler]] | None = None,
    external_inputs: Sequence[ExternalInput] = (),
    lease_seconds: int = 60,
    seed: int = 0,
    shuffle_seed: int | None = None,
) -> ExplorationSpec:
    """A world with one task for `handler`; `others` are further handlers by queue and name."""
    handlers: dict[str, dict[str, AnyHandler]] = {queue: {task_name: handler}}
    for name, more in (others or {}).items():
        handlers.setdefault(name, {}).update(more)
    return ExplorationSpec(
        HandlerWorkers(handlers, WorkerTerms(claim_timeout_seconds=lease_seconds)),
        [Job(queue, task_name, params, options)],
        tuple(handlers),
        lease_seconds,
        external_inputs=external_inputs,
        seed=seed,
        shuffle_seed=shuffle_seed,
    )


def explore_crashes(
    handler: AnyHandler,
    params: Json,
    *,
    faults: Iterable[FaultKind | str] = ALL_FAULTS,
    pairs: bool = False,
    ends: State = "completed",
    repeats: Collection[str] = (),
    **spec: object,
) -> Exploration:
    """Kill, stop, cut off and refuse the worker at every effect of `handler`, one future each.

    Every future must end, keep all invariants, and leave the same result and checkpoints as the
    baseline run; with `pairs` every recovery is injected once more. Effects are the calls of
    the database and every `outside` in the handler. The baseline run itself must end in the
    state `ends`, the same way when it is run again, and do no `outside` twice but those that are
    named in `repeats`. Further arguments are those of `handler_spec`.

    Raises `AssertionError` that shows what is wrong with the future of the fewest faults, its
    trace, and the command that shows it again; returns how much was explored.
    """
    __tracebackhide__ = True  # pytest shows what failed, not this function
    chosen = tuple(parse_kind(one) for one in faults)
    made = handler_spec(handler, params, **spec)  # type: ignore[arg-type]
    _check_baseline(made, ends, repeats)
    if only_schedule is not None:
        _show(made, only_schedule)
    found = explore(made, faults=chosen, pairs=pairs)
    if found.findings:
        worst = min(found.findings, key=lambda one: len(one.schedule))
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0] or "THE_TEST"
        raise AssertionError(
            f"{len(found.findings)} of {found.futures} futures end badly (it stops at "
            f"{FINDINGS_MAX}). The first of them:\n{replay(made, worst.schedule)}\n"
            f"Replay: pytest -s {shlex.quote(test)} --absurd-faults {worst.schedule_text}"
        )
    return found


def _check_baseline(made: ExplorationSpec, ends: State, repeats: Collection[str]) -> None:
    """What is wrong before anybody is killed makes every comparison with it worthless."""
    __tracebackhide__ = True
    outcome, histories = baseline(made)
    if outcome.violations:
        return  # the exploration says so, with the trace
    task, runs = histories[0].task, histories[0].runs
    if task.state != ends:
        reason = runs[-1].failure_reason if runs else None
        said = reason.get("message") if isinstance(reason, Mapping) else None
        raise AssertionError(
            f"the baseline task is {task.state} already, not {ends}: {said}. "
            f"If that is what it should be: explore_crashes(..., ends={task.state!r})"
        )
    again, _ = baseline(made)
    if again != outcome:
        differences = "\n".join(f"  {line}" for line in again.differences(outcome))
        raise AssertionError(
            "the baseline run ends differently when it is run again: something outlives its "
            "world, or is drawn by chance. For what the other side knows, ask `happened`.\n"
            + differences
        )
    for text, count in Counter(outcome.ledger).items():
        if count > 1 and not any(text.startswith(f"{name} ") for name in repeats):
            raise AssertionError(
                f"baseline, this happens {count} times outside: {text}. What stands outside of "
                "a step is done anew whenever the task wakes or is tried again. Put it into a "
                "step; if it may be repeated, name it in `repeats`"
            )


def _show(made: ExplorationSpec, text: str) -> NoReturn:
    """One future with its trace; the test ends here, because what it says is of all of them."""
    __tracebackhide__ = True
    import pytest  # noqa: PLC0415 - only its plugin sets a schedule

    again = replay(made, parse_schedule(text))
    print("\n".join(again.trace))
    if again.violations:
        raise AssertionError(str(again))
    if again.missed:
        raise AssertionError(
            f"--absurd-faults {text}: {again.missed_text}. Has the handler changed since?"
        )
    pytest.skip(f"the future {text} ends well")


def run_handler(handler: AnyHandler, params: Json, **spec: object) -> History:
    """Run a handler's task to its end in virtual time; its history."""
    made = handler_spec(handler, params, **spec)  # type: ignore[arg-type]
    _, histories = baseline(made)
    return histories[0]
