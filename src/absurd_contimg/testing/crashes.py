"""`explore_crashes`: every crash point of any handler, in one call."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence

from absurd_contimg.core.records import History, Json, SpawnOptions
from absurd_contimg.simulation.crews import AnyHandler, HandlerCrew, WorkerTerms
from absurd_contimg.simulation.explorer import Exploration, explore, replay, undisturbed
from absurd_contimg.simulation.life import EVERY_BLOW, Blow, parse_plan
from absurd_contimg.simulation.setup import Job, Setup, Stimulus

QUEUE = "default"
TASK = "task"

only_plan: str | None = None
"""Set by ``pytest --absurd-plan``: the only future that `explore_crashes` tries."""


def handler_setup(
    handler: AnyHandler,
    params: Json,
    *,
    task_name: str = TASK,
    queue: str = QUEUE,
    options: SpawnOptions | None = None,
    others: Mapping[str, Mapping[str, AnyHandler]] | None = None,
    stimuli: Sequence[Stimulus] = (),
    lease_seconds: int = 60,
    seed: int = 0,
    shuffle_seed: int | None = None,
) -> Setup:
    """A world with one task for `handler`; `others` are further handlers by queue and name."""
    handlers: dict[str, dict[str, AnyHandler]] = {queue: {task_name: handler}}
    for name, more in (others or {}).items():
        handlers.setdefault(name, {}).update(more)
    return Setup(
        HandlerCrew(handlers, WorkerTerms(claim_timeout_seconds=lease_seconds)),
        [Job(queue, task_name, params, options)],
        tuple(handlers),
        lease_seconds,
        stimuli=stimuli,
        seed=seed,
        shuffle_seed=shuffle_seed,
    )


def explore_crashes(
    handler: AnyHandler,
    params: Json,
    *,
    blows: Iterable[Blow] = EVERY_BLOW,
    pairs: bool = False,
    **setup: object,
) -> Exploration:
    """Kill, stop, cut off and refuse the worker at every effect of `handler`, one future each.

    Every future must end, keep all invariants, and leave the same result and checkpoints as the
    undisturbed run; with `pairs` every recovery is struck once more. Effects are the calls of
    the database and every `outside` in the handler. Further arguments are those of
    `handler_setup`. Raises `AssertionError` that shows what is wrong with the future of the
    fewest blows, its trace, and the command that shows it again; returns how much was explored.
    """
    __tracebackhide__ = True  # pytest shows what failed, not this function
    made = handler_setup(handler, params, **setup)  # type: ignore[arg-type]
    if only_plan is not None:
        again = replay(made, parse_plan(only_plan))
        print("\n".join(again.trace))
        if again.violations:
            raise AssertionError(str(again))
        return Exploration(futures=1, struck=1)
    found = explore(made, blows=blows, pairs=pairs)
    if found.findings:
        worst = min(found.findings, key=lambda one: len(one.plan))
        test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0] or "THE_TEST"
        raise AssertionError(
            f"{len(found.findings)} of {found.futures} futures end badly. The first of them:\n"
            f"{replay(made, worst.plan)}\n"
            f"Replay: pytest -s {shlex.quote(test)} --absurd-plan {worst.plan_text}"
        )
    return found


def run_handler(handler: AnyHandler, params: Json, **setup: object) -> History:
    """Run a handler's task to its end in virtual time; its history."""
    made = handler_setup(handler, params, **setup)  # type: ignore[arg-type]
    _, histories = undisturbed(made)
    return histories[0]
