"""Fallbacks: the next start of a step differs, once, and the history says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.failures import POISON_RULE, Classifier, FailureKind, FailureRule
from absurd_contimg.core.generic_rules import GENERIC_RULES
from absurd_contimg.core.records import History, SpawnOptions
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.step_journal import START_PREFIX
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings

QUEUE = "dsa110-pipeline"


class TooFaint(Exception):
    """A failure that another way of working can avoid."""


class TooBig(Exception):
    """The same for a resource."""


class Slow(Exception):
    """The same for a transient failure."""


def rule(error: type[Exception], kind: FailureKind, fallback: str) -> FailureRule:
    names = frozenset({f"{error.__module__}.{error.__qualname__}"})
    text = error.__name__.lower()
    return FailureRule(text, kind, "a", "s", exceptions=names, fallback=fallback)


RULES = (
    rule(TooFaint, FailureKind.PERMANENT, "other-source"),
    rule(TooBig, FailureKind.RESOURCE, "one-thread"),
    rule(Slow, FailureKind.TRANSIENT, "one-thread"),
)


class Step:
    """A handler of one step that meets these failures in turn, and notes its fallbacks."""

    def __init__(self, *failures: type[Exception]) -> None:
        self.failures = failures
        self.met: list[tuple[str, ...]] = []

    async def __call__(self, params: Any, ctx: TaskContext) -> str:
        async def solve(start: int) -> str:
            self.met.append(ctx.fallbacks)
            if len(self.met) <= len(self.failures):
                raise self.failures[len(self.met) - 1]
            return "solved"

        return await ctx.tracked_step("solve", solve)


async def story(backend: Backend, step: Step, **options: Any) -> History:
    task = await backend.spawn_task(QUEUE, "task", None, SpawnOptions(**options))
    return await go_on(backend, step, task.task_id)


async def go_on(backend: Backend, step: Step, task_id: Any) -> History:
    tasks = TaskRegistry()
    tasks.add("task", step)
    worker = Worker(
        backend,
        tasks,
        WorkerSettings(QUEUE, "worker-1", poll_interval_seconds=0.001),
        Classifier((POISON_RULE, *RULES, *GENERIC_RULES)),
        RetryPolicy(backoff_first_seconds=0.0, resource_wait_seconds=0.0, resource_waits_max=4),
    )
    await worker.run(until_idle=True)
    history = await backend.history(QUEUE, task_id)
    assert history is not None
    return history


def starts(history: History) -> list[Mapping[str, Any]]:
    states = {checkpoint.checkpoint_name: checkpoint.state for checkpoint in history.checkpoints}
    return cast(Any, states[START_PREFIX + "solve"])["starts"]  # type: ignore[no-any-return]


async def test_permanent_failure_gets_one_more_start_with_its_fallback(backend: Backend) -> None:
    step = Step(TooFaint)
    history = await story(backend, step)
    assert step.met == [(), ("other-source",)]
    assert history.task.completed_payload == "solved"
    first, second = (each["outcome"] for each in starts(history))
    assert (first["action"], first["kind"], first["rule"]) == ("fallback", "permanent", "toofaint")
    assert second is None
    assert [start.get("fallbacks") for start in starts(history)] == [None, ["other-source"]]
    reason = cast(Mapping[str, Any], history.runs[0].failure_reason)
    assert (reason["kind"], reason["action"]) == ("permanent", "fallback")
    assert reason["fallback"] == "other-source"


async def test_fallback_is_used_once(backend: Backend) -> None:
    """What fails in the same way under it fails for good."""
    step = Step(TooFaint, TooFaint, TooFaint)
    history = await story(backend, step)
    assert step.met == [(), ("other-source",)]
    assert history.task.state == "failed"


async def test_operators_retry_begins_without_fallbacks(backend: Backend) -> None:
    """The operator has changed something: the first way of working is tried again."""
    step = Step(TooFaint, TooFaint)
    history = await story(backend, step)
    await backend.retry_task(QUEUE, history.task.task_id)
    history = await go_on(backend, step, history.task.task_id)
    assert step.met == [(), ("other-source",), ()]
    assert history.task.state == "completed"


@pytest.mark.parametrize("failure", [TooBig, Slow])
async def test_waiting_and_retried_steps_use_fallbacks_too(
    backend: Backend, failure: type[Exception]
) -> None:
    """Within their budgets, and it stays: the step does not go back to what failed."""
    step = Step(failure, failure)
    history = await story(backend, step)
    assert step.met == [(), ("one-thread",), ("one-thread",)]
    assert history.task.state == "completed"


async def test_fallbacks_add_up(backend: Backend) -> None:
    step = Step(TooBig, TooFaint)
    await story(backend, step)
    assert step.met == [(), ("one-thread",), ("one-thread", "other-source")]


async def test_fallback_grants_nothing_beyond_a_budget(backend: Backend) -> None:
    """Three tries for a transient failure, however many fallbacks there are."""
    step = Step(*[Slow] * 5)
    history = await story(backend, step)
    assert len(step.met) == 3
    assert history.task.state == "failed"


async def test_spawners_own_count_holds(backend: Backend) -> None:
    step = Step(TooFaint)
    history = await story(backend, step, max_attempts=1)
    assert (len(step.met), history.task.state) == (1, "failed")


async def test_without_a_tracked_step_no_fallback_is_used(backend: Backend) -> None:
    """A handler of the SDK knows no fallbacks."""

    class Plain(Step):
        async def __call__(self, params: Any, ctx: TaskContext) -> str:
            self.met.append(())
            raise TooFaint

    step = Plain()
    history = await story(backend, step)
    assert (len(step.met), history.task.state) == (1, "failed")
