"""`explore_crashes`: every crash point of any handler, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from absurd_contimg.core.records import History, Json, SpawnOptions
from absurd_contimg.simulation.crews import AnyHandler, HandlerCrew, WorkerTerms
from absurd_contimg.simulation.explorer import Exploration, explore, undisturbed
from absurd_contimg.simulation.life import EVERY_BLOW, Blow
from absurd_contimg.simulation.setup import Job, Setup, Stimulus

QUEUE = "default"
TASK = "task"


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
    `handler_setup`. Raises `AssertionError` that shows the plan and the trace of what failed;
    returns how much was explored.
    """
    made = handler_setup(handler, params, **setup)  # type: ignore[arg-type]
    return explore(made, blows=blows, pairs=pairs).check()


def run_handler(handler: AnyHandler, params: Json, **setup: object) -> History:
    """Run a handler's task to its end in virtual time; its history."""
    made = handler_setup(handler, params, **setup)  # type: ignore[arg-type]
    _, histories = undisturbed(made)
    return histories[0]
