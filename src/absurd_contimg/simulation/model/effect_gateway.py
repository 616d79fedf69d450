"""The gateway from a process to its world, and the effects that pass through it.

Whatever a simulated process does that outlives it goes through its `EffectGateway`: calls of the
database, operations on files, starts and ends of stages, entries in the registry. Each is one
effect with two phases in which a fault can be injected: before it, and after it was committed but
before the process has the reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, NamedTuple, TypeVar

from absurd_contimg.core.backend import CALLS, READS, Backend
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.simulation.runtime.loop import SimLoop, pause_call

_T = TypeVar("_T")

_REGISTRY_READS = frozenset(
    {
        *("groups", "calibration_exists", "product_folder", "mosaic_members", "image_outputs"),
        *("known_paths", "watched_groups", "next_seen", "groups_to_spawn", "observations"),
        *(
            "groups_for_photometry",
            "windows",
            "windows_without_mosaic",
            "unfinished",
            "copies",
            "items",
            "observed_groups",
            "group",
        ),
    }
)


class EffectPhase(StrEnum):
    """Where in an effect a fault can be injected."""

    BEFORE = "before"
    COMMITTED = "committed, reply pending"


BEFORE, COMMITTED = EffectPhase
"""Module constants: a member of an enumeration is slow to look up in Python 3.11."""


class Effect(NamedTuple):
    """One effect of one process."""

    kind: str
    """``call``, ``file``, ``stage``, ``registry`` or ``own``."""
    name: str
    changes: bool
    """False for an effect that leaves nothing behind: a read, the start of a stage."""
    subject: str = ""
    """What it is about, for traces: the name of a checkpoint, an event, a task, a key."""


class CrashPoint(NamedTuple):
    """One of the two phases of an effect, at which a fault can be injected."""

    effect: Effect
    phase: EffectPhase

    def __str__(self) -> str:
        kind, name, _, subject = self.effect
        return f"{kind} {name}{subject and ' '}{subject}, {self.phase.value}"


Observer = Callable[[SimLoop, Effect, EffectPhase], None]
"""Called in each phase of each effect; may kill or pause the process, or raise into it."""


@dataclass(slots=True)
class DatabaseServer:
    """The state of the simulated server and of the network before it."""

    latency_seconds: float = 0.0
    down: bool = False
    cut_off: set[str] = field(default_factory=set)
    """Hosts that cannot reach it; their calls hang until they time out."""
    reply_seconds: dict[str, float] = field(default_factory=dict)
    """By host: how much longer a reply takes than its request."""
    timeout_seconds: float = 15.0
    """After which a call to an unreachable server fails (TCP's keepalive, as configured)."""
    lose_reply: Callable[[str], bool] | None = None
    """Called with a call's name once it is committed: does the connection break now?"""

    @property
    def quiet(self) -> bool:
        """It answers at once, and nothing is wrong with it."""
        return not (
            self.down
            or self.cut_off
            or self.latency_seconds
            or self.lose_reply
            or (self.reply_seconds and any(self.reply_seconds.values()))
        )


@dataclass(slots=True, eq=False)
class EffectGateway:
    """The gateway of one process."""

    process: SimLoop
    server: DatabaseServer
    observe: Observer | None = None
    host: str = "host"

    async def perform(
        self, effect: Effect, act: Callable[..., Awaitable[_T]], *args: Any, **options: Any
    ) -> _T:
        """Let an effect happen, or let the process die, pause or fail in one of its phases."""
        process, observe = self.process, self.observe
        process.check_alive()
        if observe is None:
            return await act(*args, **options)
        observe(process, effect, BEFORE)
        if process.held is not None:
            await self._pause()
        try:
            answer = await act(*args, **options)
        except BaseException:
            process.check_alive()
            observe(process, effect, COMMITTED)
            await self._pause()
            raise
        observe(process, effect, COMMITTED)
        if process.held is not None:
            await self._pause()
        return answer

    def perform_now(self, effect: Effect, act: Callable[..., _T], *args: Any) -> _T:
        """The same for an effect that takes no time and is called without waiting."""
        process, observe = self.process, self.observe
        process.check_alive()
        if observe is None:
            return act(*args)
        observe(process, effect, BEFORE)
        if process.held is not None:
            pause_call(process)
        try:
            return act(*args)
        finally:
            observe(process, effect, COMMITTED)
            if process.held is not None:
                pause_call(process)

    async def _pause(self) -> None:
        """Where a process that was just killed dies, and a paused one stops."""
        self.process.check_alive()
        if self.process.held is not None:
            await asyncio.sleep(0)

    def call(
        self, method: Callable[..., Awaitable[_T]], name: str, *args: Any, **options: Any
    ) -> Awaitable[_T]:
        """One call of the database, over the network."""
        if self.server.quiet:
            return method(*args, **options)
        return self._over_network(method, name, *args, **options)

    async def _over_network(
        self, method: Callable[..., Awaitable[_T]], name: str, *args: Any, **options: Any
    ) -> _T:
        server, host = self.server, self.host
        if server.latency_seconds:
            await asyncio.sleep(server.latency_seconds)
        if host in server.cut_off:
            await asyncio.sleep(server.timeout_seconds)
            raise BackendUnavailable(f"simulated: no answer to {host}")
        if server.down:
            raise BackendUnavailable("simulated: connection refused")
        self.process.check_alive()
        answer = await method(*args, **options)
        if late := server.reply_seconds.get(host):
            await asyncio.sleep(late)
        if server.down or host in server.cut_off:
            raise BackendUnavailable("simulated: the server went away before it answered")
        if server.lose_reply is not None and server.lose_reply(name):
            raise BackendUnavailable("simulated: connection lost before the reply")
        return answer


class BackendProxy:
    """The database as a process reaches it: each call of core's `Backend` is an effect."""

    __slots__ = ("gateway", "inner")

    def __init__(self, gateway: EffectGateway, inner: Backend) -> None:
        self.gateway = gateway
        self.inner = inner


_SUBJECTS = {
    "set_task_checkpoint_state": 2,
    "get_task_checkpoint_state": 2,
    "await_event": 4,
    "emit_event": 1,
    "spawn_task": 1,
}
"""By call: the place of the name that it is about among its arguments."""


def _proxy_call(name: str) -> Callable[..., Awaitable[Any]]:
    plain = Effect("call", name, name not in READS)
    place = _SUBJECTS.get(name, 99)

    async def call(self: BackendProxy, *args: Any, **options: Any) -> Any:
        gateway = self.gateway
        method = getattr(self.inner, name)
        if gateway.observe is None:
            gateway.process.check_alive()
            if gateway.server.quiet:
                return await method(*args, **options)
            return await gateway._over_network(method, name, *args, **options)
        effect = plain._replace(subject=repr(args[place])) if place < len(args) else plain
        return await gateway.perform(effect, gateway.call, method, name, *args, **options)

    return call


for _name in sorted(CALLS):
    setattr(BackendProxy, _name, _proxy_call(_name))


class RegistryProxy:
    """The registry as a process reaches it: every call is an effect that takes no time."""

    def __init__(self, gateway: EffectGateway, registry: Any) -> None:
        self._gateway, self._registry = gateway, registry

    @property
    def publications(self) -> RegistryProxy:
        """The part that knows publications, in the same way."""
        return RegistryProxy(self._gateway, self._registry.publications)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method, changes = getattr(self._registry, name), name not in _REGISTRY_READS

        def call(*args: Any) -> Any:
            states = [arg.value for arg in args if isinstance(arg, Enum)]
            effect = Effect("registry", " ".join([name, *states]), changes)
            return self._gateway.perform_now(effect, method, *args)

        return call
