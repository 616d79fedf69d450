"""`explore_crashes`: inject faults at every crash point of any handler, in one call."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import wraps
from inspect import signature
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

from absurd_contimg.core.failures import SuspensionSwallowed
from absurd_contimg.core.records import LIVE_STATES, History, Json, SpawnOptions, State
from absurd_contimg.core.step_order_check import STEPS_CHANGED
from absurd_contimg.history.invariants.world import (
    no_error_is_uncaught,
    world_never_stands_still,
)
from absurd_contimg.history.summary import summarize
from absurd_contimg.similar_names import did_you_mean
from absurd_contimg.simulation.exploration.endless_loops import ENDLESS_SPAWNS
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.exploration.explorer import (
    FINDINGS_MAX,
    Exploration,
    Finding,
    baseline,
    explore,
    replay,
)
from absurd_contimg.simulation.exploration.outcome import Outcome, effect_name
from absurd_contimg.simulation.model.faults import (
    ALL_FAULTS,
    FaultKind,
    FaultSchedule,
    InjectedFault,
    parse_kind,
    parse_schedule,
)
from absurd_contimg.simulation.model.worker_factory import SETTINGS, AnyHandler, HandlerWorkers
from absurd_contimg.testing.replay_command import REPLAY

_P = ParamSpec("_P")
_T = TypeVar("_T")

_exploring = threading.RLock()
"""Of one process: a simulated process sets back the variables of the handlers' modules."""


def _one_at_a_time(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Let a call wait for that of another thread, which would see its variables.

    And refuse one that could not end: a worker waits by `asyncio.sleep`.
    """

    @wraps(function)
    def call(*arguments: _P.args, **options: _P.kwargs) -> _T:
        __tracebackhide__ = True
        if asyncio.sleep is not asyncio.tasks.sleep:
            raise ValueError(
                f"asyncio.sleep is replaced by {asyncio.sleep!r}, and the worker waits by it: "
                f"{function.__name__} would never end. Leave the replacement out of this test: "
                "time is simulated, and a sleep takes none."
            )
        with _exploring:
            return function(*arguments, **options)

    return call


_ERRORS = no_error_is_uncaught.__name__


def handler_spec(
    handler: AnyHandler,
    params: Json,
    *,
    task_name: str | None = None,
    queue: str = "default",
    options: SpawnOptions | None = None,
    others: Mapping[str, Mapping[str, AnyHandler]] | None = None,
    lease_seconds: int = 60,
    concurrency: int = 1,
    **spec: Any,
) -> ExplorationSpec:
    """A world with one task for `handler`; `others` are further handlers by queue and name.

    The task has the handler's name, unless `task_name` is given. Each queue has a worker with
    `concurrency` slots. Further arguments are those of `ExplorationSpec`.
    """
    _require_arguments(handler_spec, spec)
    if task_name is None:
        name = getattr(handler, "__name__", "")
        task_name = name if name.isidentifier() else "task"
    handlers: dict[str, dict[str, AnyHandler]] = {queue: {task_name: handler}}
    for other_queue, more in (others or {}).items():
        handlers.setdefault(other_queue, {}).update(more)
    return ExplorationSpec(
        HandlerWorkers(
            handlers,
            replace(SETTINGS, claim_timeout_seconds=lease_seconds, concurrency=concurrency),
        ),
        [Job(queue, task_name, params, options)],
        tuple(handlers),
        lease_seconds,
        **spec,
    )


_SPEC_ARGUMENTS = {each.name for each in fields(ExplorationSpec)} - {
    *("worker_factory", "jobs", "queues", "lease_seconds")
}
"""Those that `handler_spec` passes on."""


def _require_arguments(function: Callable[..., object], given: Collection[str]) -> None:
    """Refuse an argument that neither this function nor the spec has."""
    known = {*signature(function).parameters, *signature(handler_spec).parameters} - {"spec"}
    for name in given:
        if name not in known | _SPEC_ARGUMENTS:
            meant = did_you_mean(name, known | _SPEC_ARGUMENTS)
            raise TypeError(f"{function.__name__} has no argument {name!r}. {meant}".rstrip())


@_one_at_a_time
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
    _require_arguments(explore_crashes, spec)
    kinds = tuple(map(_kind, faults))
    tested = handler_spec(handler, params, repeats=repeats, **spec)  # type: ignore[arg-type]
    REPLAY.begin_exploration()
    _check_baseline(tested, ends)
    if (schedule := REPLAY.schedule_now) is not None:
        _replay(tested, schedule)
    exploration = explore(tested, faults=kinds, second_faults=kinds if pairs else ())
    if exploration.findings:
        findings = exploration.findings
        first = min(findings, key=lambda finding: len(finding.schedule))
        number = f"{len(findings)} of {exploration.futures} futures have violations"
        if len(findings) >= FINDINGS_MAX:
            number += f", and the others were not run: it stops at {FINDINGS_MAX} findings"
        raise AssertionError(
            f"{number}. The one with the fewest faults:\n{_seen_again(tested, first)}\n"
            f"Replay: {REPLAY.command(first.schedule_text)}"
        )
    return exploration


def _kind(fault: object) -> FaultKind:
    """One of `faults`; a fault at a crash point is none."""
    text = str(fault)
    if isinstance(fault, InjectedFault) or "@" in text:
        raise ValueError(
            f"faults are kinds, as 'kill', and {text} is a fault at a crash point. For one future: "
            "replay_handler(handler, params, schedule)"
        )
    return parse_kind(text)


@_one_at_a_time
def replay_handler(
    handler: AnyHandler, params: Json, schedule: FaultSchedule | str, **spec: object
) -> Finding:
    """One future of a handler under a schedule of faults, as ``"kill@17,pause@4"``.

    Its violations, empty if it ends as the run without faults does; `missed` has the faults that
    were not injected because the process had fewer crash points. Further arguments are those of
    `handler_spec`.
    """
    _require_arguments(replay_handler, spec)
    tested = handler_spec(handler, params, **spec)  # type: ignore[arg-type]
    return replay(tested, parse_schedule(schedule) if isinstance(schedule, str) else schedule)


def _seen_again(spec: ExplorationSpec, finding: Finding) -> str:
    """A finding with its trace; a handler that is random may do otherwise when it is replayed."""
    replayed = replay(spec, finding.schedule)
    if replayed.violations:
        return str(replayed)
    text = str(replace(replayed, violations=finding.violations))
    return (
        f"{text}\nThe trace is of a second run of this future, which ended well: the handler does "
        "not do the same in every run. Look for random numbers, ids, times and the order of sets"
    )


def _check_baseline(spec: ExplorationSpec, ends: State) -> None:
    """Raise `AssertionError` if the baseline run is nothing to compare with."""
    __tracebackhide__ = True
    with _all_awaited():
        outcome, histories = baseline(spec)
    _check_end(spec, outcome, histories, ends, "explore_crashes")
    _require_inputs(spec, outcome, "explore_crashes")
    if outcome.violations:
        return  # the exploration reports them, with the trace
    again, _ = baseline(spec)
    changed = "".join(_changed_steps(histories))
    if again != outcome:
        differences = "\n".join(f"  {line}" for line in again.differences(outcome))
        raise AssertionError(
            f"{changed}the baseline run ends differently when it is run again. Either an id, a "
            "time or a random value is made outside of a step (or in the step of its effect): make "
            "it in a step of its own. Or something outlives its world: for what the outside knows, "
            f"call `happened`.\n{differences}"
        )
    for text, count in Counter(outcome.ledger).items():
        if count > 1 and effect_name(text) not in spec.repeats:
            raise AssertionError(
                f"{changed}without any fault this happens {count} times outside: {text}. "
                f"{_why_repeated(outcome, text)}. If it may be repeated, "
                "as with a key that the outside recognises: "
                f"explore_crashes(..., repeats=[{effect_name(text)!r}])"
            )


def _why_repeated(outcome: Outcome, effect: str) -> str:
    """Why an effect outside happens several times without any fault, and the remedy."""
    if effect in outcome.unprotected:
        return (
            "Code outside of a step runs again whenever the task wakes or is retried. Put it into "
            "a step"
        )
    if any(end.startswith("failed") for ends in outcome.run_ends for end in ends):
        return (
            "It is in a step: its step failed after it and was retried. Give it a step of its own"
        )
    return "Several steps do it. Give each of them a key of its own"


def _changed_steps(histories: Iterable[History]) -> Iterator[str]:
    """Which steps were other ones in a later attempt: perhaps rightly, but often the cause."""
    for each in histories:
        report = each.checkpoint_states.get(STEPS_CHANGED)
        if isinstance(report, Mapping):
            yield (
                f"the steps of task {each.task.task_name!r} change between attempts: "
                f"{report.get('difference')}. A step is recognised by its name, which must be the "
                "same in every attempt. Perhaps therefore "
            )


def _task_history(spec: ExplorationSpec, histories: Iterable[History]) -> History:
    """The history of the task that is tested: its children's stand beside it, oldest first."""
    job = spec.jobs[0]
    ours = (job.queue, job.task_name)
    return next(each for each in histories if (each.queue_name, each.task.task_name) == ours)


def _check_end(
    spec: ExplorationSpec,
    outcome: Outcome,
    histories: Collection[History],
    ends: State,
    function: str,
) -> None:
    """Raise `AssertionError` if the task has not ended as it should without any fault."""
    __tracebackhide__ = True
    errors = [each.text for each in outcome.violations if each.invariant == _ERRORS]
    if errors:
        raise AssertionError("\n".join([*errors, "No fault was injected, and nobody caught this"]))
    history = _task_history(spec, histories)
    state, standstill = history.task.state, _standstill(outcome)
    if standstill is not None and (state not in LIVE_STATES or ENDLESS_SPAWNS in standstill):
        raise AssertionError(standstill)
    if state in LIVE_STATES:
        others = [
            each for each in histories if each is not history and each.task.state in LIVE_STATES
        ]
        if standstill is not None and not others:
            raise AssertionError(standstill)
        if standstill is None:
            when = f"after {spec.horizon_seconds / 86_400:g} days of virtual time"
            remedy = f"If it may take longer: {function}(..., horizon_seconds=...)"
        else:
            when = f"when {standstill.partition(':')[0]}"
            remedy = "A task that awaits another polls: if that one is slow, let it emit an event"
        wait = summarize(history).waiting
        if wait is not None and wait.cause == "event":
            remedy = "Emit it: external_inputs=[ExternalInput(SECONDS, ...)]. " + remedy
        raise AssertionError(
            f"the task has not ended {when}: it is {state}"
            f"{'' if wait is None else f' ({wait})'}{_shown(spec, others)}. {remedy}"
        )
    failure = summarize(history).last_failure
    is_swallowed = failure is not None and failure.name == SuspensionSwallowed.__name__
    if (state != ends or is_swallowed) and not outcome.violations:
        reason = "" if failure is None else f": {failure.text.rstrip('.')}"
        wanted = "" if state == ends else f", not {ends}"
        remedy = f"If that is right: {function}(..., ends={state!r})"
        if is_swallowed:
            remedy = (
                "Let BaseException pass: catch Exception, return nothing and await no step, sleep "
                "or event in `finally`, which runs at each sleep and wait too: compensate in "
                "`except Exception`, and after the `try`"
            )
        raise AssertionError(
            f"the task is {state} without any fault{wanted}{reason}"
            f"{_failed_tasks(each for each in histories if each is not history)}. {remedy}"
        )


def _require_inputs(spec: ExplorationSpec, outcome: Outcome, function: str) -> None:
    """Raise `AssertionError` for an external input that has not happened: it tests nothing."""
    __tracebackhide__ = True
    for each in spec.external_inputs:
        if each.at_seconds > outcome.seconds and not outcome.violations:
            raise AssertionError(
                f"the external input at {each.at_seconds:g} s has not happened: all tasks had "
                f"ended, and so the world, at {outcome.seconds:g} s. Give it an earlier time, or "
                f"let the world go on: {function}(..., ends_after_seconds={each.at_seconds:g})"
            )


def _failed_tasks(tasks: Iterable[History]) -> str:
    """What has failed beside it: often the cause."""
    text = ""
    for each in tasks:
        failure = summarize(each).last_failure if each.task.state == "failed" else None
        if failure is not None:
            name, queue = each.task.task_name, each.queue_name
            text += f"; task {name!r} of queue {queue!r} has failed: {failure.text.rstrip('.')}"
    return text


def _shown(spec: ExplorationSpec, tasks: Iterable[History]) -> str:
    """The other tasks that have not ended, and why that may be."""
    workers = cast(HandlerWorkers, spec.worker_factory)
    text, states = "", set()
    for each in tasks:
        name, queue = each.task.task_name, each.queue_name
        text += f", task {name!r} of queue {queue!r} is {each.task.state}"
        if name not in workers.handlers.get(queue, {}):
            text += f" for want of a handler (others={{{queue!r}: {{{name!r}: ...}}}})"
        states.add(each.task.state)
    if "pending" in states:
        text += (
            ". A task that awaits another keeps its slot, and the worker of each queue has "
            f"{workers.settings.concurrency} (concurrency=...); best, those that are awaited have "
            "a queue of their own"
        )
    return text


def _standstill(outcome: Outcome) -> str | None:
    """What keeps the world from going on at all, such as a loop without end."""
    name = world_never_stands_still.__name__
    return next((each.text for each in outcome.violations if each.invariant == name), None)


def _replay(spec: ExplorationSpec, schedule: str) -> NoReturn:
    """One future with its trace; skips the test if it ends well."""
    __tracebackhide__ = True
    import pytest  # noqa: PLC0415 - only its plugin sets a schedule

    finding = replay(spec, parse_schedule(schedule))
    if finding.missed and not finding.violations:
        raise AssertionError(
            f"--absurd-faults {schedule}: {finding.missed_text}. Has the handler changed since?"
        )
    print("\n".join([*finding.trace, finding.report]))
    if finding.violations:
        raise AssertionError(f"{replace(finding, trace=())}\n{finding.report}")
    pytest.skip(f"the future {schedule} ends well")


@_one_at_a_time
def run_handler(
    handler: AnyHandler, params: Json, *, ends: State = "completed", **spec: object
) -> History:
    """The history of a handler's task, run to its end in virtual time without faults.

    Raises `AssertionError` if it does not end in the state `ends`, and for a call that is not
    awaited, which does nothing. Further arguments are those of `handler_spec`.
    """
    __tracebackhide__ = True
    _require_arguments(run_handler, spec)
    tested = handler_spec(handler, params, **spec)  # type: ignore[arg-type]
    with _all_awaited():
        outcome, histories = baseline(tested)
    _check_end(tested, outcome, histories, ends, "run_handler")
    _require_inputs(tested, outcome, "run_handler")
    return _task_history(tested, histories)


@contextmanager
def _younger_objects() -> Iterator[None]:
    """Searches for garbage go only through the objects that are made in here.

    A test session holds millions, which cost more than the run of a handler.
    """
    if gc.get_freeze_count():  # somebody has done so, and only all can be given back
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _all_awaited() -> Iterator[None]:
    """Raise `AssertionError` at the end if a coroutine was made and never awaited."""
    __tracebackhide__ = True
    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always", RuntimeWarning)
        with _younger_objects():
            yield
            gc.collect()  # Python notices at the end of the coroutine's life
    for each in recorded:
        if "was never awaited" in str(each.message):
            raise AssertionError(f"{each.message}, so it does nothing. Write await before its call")
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
