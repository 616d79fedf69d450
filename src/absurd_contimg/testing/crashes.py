"""`explore_crashes`: inject faults at every crash point of any handler, in one call."""

from __future__ import annotations

import gc
import os
import shlex
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn

from absurd_contimg.core.records import History, Json, SpawnOptions, State
from absurd_contimg.history.summary import summarize
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.exploration.explorer import (
    FINDINGS_MAX,
    Exploration,
    baseline,
    explore,
    replay,
)
from absurd_contimg.simulation.model.faults import ALL_FAULTS, FaultKind, parse_kind, parse_schedule
from absurd_contimg.simulation.model.worker_factory import SETTINGS, AnyHandler, HandlerWorkers

only_schedule: str | None = None
"""Set by ``pytest --absurd-faults``: the only future that `explore_crashes` runs."""


def handler_spec(
    handler: AnyHandler,
    params: Json,
    *,
    task_name: str = "task",
    queue: str = "default",
    options: SpawnOptions | None = None,
    others: Mapping[str, Mapping[str, AnyHandler]] | None = None,
    lease_seconds: int = 60,
    **spec: Any,
) -> ExplorationSpec:
    """A world with one task for `handler`; `others` are further handlers by queue and name.

    Further arguments are those of `ExplorationSpec`.
    """
    handlers: dict[str, dict[str, AnyHandler]] = {queue: {task_name: handler}}
    for name, more in (others or {}).items():
        handlers.setdefault(name, {}).update(more)
    return ExplorationSpec(
        HandlerWorkers(handlers, replace(SETTINGS, claim_timeout_seconds=lease_seconds)),
        [Job(queue, task_name, params, options)],
        tuple(handlers),
        lease_seconds,
        **spec,
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
    """Inject each kind of fault at every crash point of `handler`, one future each.

    Every future must end, keep all invariants, and leave the same result and checkpoints as the
    baseline run; with `pairs` a second fault is injected at every crash point of each recovery.
    Effects are the calls of the database and every `outside` in the handler. The baseline run
    must end in the state `ends`, the same way when it is run again, and repeat no `outside` but
    those named in `repeats`. Further arguments are those of `handler_spec`.

    Raises `AssertionError` that shows the finding with the fewest faults, its trace, and the
    command that replays it.
    """
    __tracebackhide__ = True  # pytest shows the failure, not this function
    kinds = tuple(map(parse_kind, faults))
    tested = handler_spec(handler, params, repeats=repeats, **spec)  # type: ignore[arg-type]
    _check_baseline(tested, ends)
    if only_schedule is not None:
        _replay(tested, only_schedule)
    exploration = explore(tested, faults=kinds, second_faults=kinds if pairs else ())
    if exploration.findings:
        findings = exploration.findings
        first = min(findings, key=lambda finding: len(finding.schedule))
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0] or "THE_TEST"
        raise AssertionError(
            f"{len(findings)} of {exploration.futures} futures have violations (it stops at "
            f"{FINDINGS_MAX}). The first of them:\n{replay(tested, first.schedule)}\n"
            f"Replay: pytest -s {shlex.quote(test)} --absurd-faults {first.schedule_text}"
        )
    return exploration


def _check_baseline(spec: ExplorationSpec, ends: State) -> None:
    """Raise `AssertionError` if the baseline run is nothing to compare with."""
    __tracebackhide__ = True
    with _all_awaited():
        outcome, histories = baseline(spec)
    state = histories[0].task.state
    if state in ("pending", "sleeping"):
        wait = summarize(histories[0]).waiting
        raise AssertionError(
            f"the task has not ended after {spec.horizon_seconds / 86_400:g} days of virtual time: "
            f"it is {state}{'' if wait is None else f' ({wait})'}. If it may take longer: "
            "explore_crashes(..., horizon_seconds=...)"
        )
    if outcome.violations:
        return  # the exploration reports them, with the trace
    if state != ends:
        failure = summarize(histories[0]).last_failure
        raise AssertionError(
            f"the task is {state} without any fault, not {ends}: "
            f"{'' if failure is None else failure.message}. "
            f"If that is right: explore_crashes(..., ends={state!r})"
        )
    again, _ = baseline(spec)
    if again != outcome:
        differences = "\n".join(f"  {line}" for line in again.differences(outcome))
        raise AssertionError(
            "the baseline run ends differently when it is run again: something outlives its "
            "world, or is random. For what the outside knows, call `happened`.\n" + differences
        )
    for text, count in Counter(outcome.ledger).items():
        if count > 1 and not any(text.startswith(f"{name} ") for name in spec.repeats):
            raise AssertionError(
                f"without any fault this happens {count} times outside: {text}. Code outside of "
                "a step runs again whenever the task wakes or is retried. Put it into a step; if "
                "it may be repeated, name it in `repeats`"
            )


def _replay(spec: ExplorationSpec, schedule: str) -> NoReturn:
    """One future with its trace; skips the test if it ends well."""
    __tracebackhide__ = True
    import pytest  # noqa: PLC0415 - only its plugin sets a schedule

    finding = replay(spec, parse_schedule(schedule))
    print("\n".join(finding.trace))
    if finding.violations:
        raise AssertionError(str(finding))
    if finding.missed:
        raise AssertionError(
            f"--absurd-faults {schedule}: {finding.missed_text}. Has the handler changed since?"
        )
    pytest.skip(f"the future {schedule} ends well")


def run_handler(handler: AnyHandler, params: Json, **spec: object) -> History:
    """The history of a handler's task, run to its end in virtual time without faults.

    Raises `AssertionError` for a call that is not awaited, which does nothing.
    """
    __tracebackhide__ = True
    with _all_awaited():
        _, histories = baseline(handler_spec(handler, params, **spec))  # type: ignore[arg-type]
    return histories[0]


@contextmanager
def _all_awaited() -> Iterator[None]:
    """Raise `AssertionError` at the end if a coroutine was made and never awaited."""
    __tracebackhide__ = True
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always", RuntimeWarning)
        yield
        gc.collect()  # Python notices at the end of the coroutine's life
    for each in recorded:
        if "was never awaited" in str(each.message):
            raise AssertionError(f"{each.message}, so it does nothing. Write await before its call")
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
