"""`ExplorationSpec`: the initial state, the tasks and the workers of an exploration."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from math import inf

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import Json, SpawnOptions
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.simulation.model.world import (
    EPOCH,
    State,
    WorkerFactory,
    World,
    end_session,
)
from absurd_contimg.simulation.runtime.loop import SimLoop, instantly


@dataclass(frozen=True, slots=True)
class Job:
    """A task to spawn before the world begins."""

    queue: str
    task_name: str
    params: Json
    options: SpawnOptions | None = None


@dataclass(frozen=True, slots=True)
class ExternalInput:
    """Something that happens outside at a given time: an event, a spawned task, a larger disk.

    A process of its own that never dies does it, and not again in a future that begins after it.
    Raises `ValueError` for what is no time, `TypeError` for what is no function.
    """

    at_seconds: float
    act: Callable[[Backend], Awaitable[object]]

    def __post_init__(self) -> None:
        seconds: object = self.at_seconds
        if not isinstance(seconds, int | float) or not 0 <= seconds < inf:
            raise ValueError(
                f"ExternalInput at {seconds!r}: the time is a number of seconds after the world "
                "begins, 0 or more"
            )
        if not callable(self.act):
            raise TypeError(
                f"ExternalInput at {seconds:g} s: {self.act!r} is no function of the backend; for "
                "instance lambda backend: backend.emit_event(QUEUE, NAME)"
            )


@dataclass(frozen=True, slots=True)
class ExplorationSpec:
    """A small world for the explorer; equal specs make equal worlds."""

    worker_factory: WorkerFactory
    jobs: Sequence[Job]
    queues: Sequence[str] = ("default",)
    lease_seconds: int = 60
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    external_inputs: Sequence[ExternalInput] = ()
    seed: int = 0
    shuffle_seed: int | None = None
    horizon_seconds: float = 400 * 86_400.0
    """Virtual time by which every task must have ended; while all sleep it costs nothing."""
    ends_after_seconds: float = 0.0
    """Before this time the world goes on although no task is left: more will be spawned."""
    linger_seconds: float = 0.0
    """How long the world goes on after the last task has ended."""
    reply_seconds: float = 0.0
    """How long the database's replies take to the host of the first worker."""
    worker_id: str = "worker"
    repeats: Collection[str] = ()
    """The effects outside that may happen again outside of a step."""
    looks: tuple[str, ...] = ()
    """How names of checkpoints begin that depend on when a handler looked at another task."""
    prepare: Callable[[], State] | None = None
    time_matters: bool = True
    """False: its handlers do the same at any time, and however long ago something happened. Then
    kills at two times that leave the same have one future, unless that has violations."""

    def initial_state(self) -> State:
        """The state at 0 s: queues and spawned tasks, and no process yet."""
        if self.prepare is None:
            state = State(MemoryDatabase(self.seed, clock=lambda: EPOCH))
        else:
            state = self.prepare()
        backend = MemoryBackend(state.database)
        for queue in self.queues:
            instantly(backend.create_queue(queue))
        for job in self.jobs:
            instantly(backend.spawn_task(job.queue, job.task_name, job.params, job.options))
        end_session(backend)
        return state

    def schedule_external_inputs(self, world: World, since: float) -> None:
        """Let the external inputs that come after `since` happen at their times."""
        for each in self.external_inputs:
            if each.at_seconds >= since:
                name = f"external input at {each.at_seconds:g} s"
                process = world.process(name, observed=False).process
                world.expect(each.at_seconds)
                process.call_at(each.at_seconds, _start, process, each.act, world.direct_backend)


def _start(
    process: SimLoop, act: Callable[[Backend], Awaitable[object]], backend: Backend
) -> object:
    return asyncio.ensure_future(act(backend), loop=process)
