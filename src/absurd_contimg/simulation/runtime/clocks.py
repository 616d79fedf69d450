"""Clocks of hosts that do not agree: ahead of the world's clock, and faster or slower."""

from __future__ import annotations

from contextvars import Context
from typing import Any, NamedTuple

from typing_extensions import override

from absurd_contimg.simulation.runtime.kernel import Kernel
from absurd_contimg.simulation.runtime.loop import SimLoop


class HostClock(NamedTuple):
    """What a host's clock shows: `ahead_seconds`, and `rate` seconds in one of the world's."""

    ahead_seconds: float = 0.0
    rate: float = 1.0


class SkewedLoop(SimLoop):
    """A process on a host whose clock is not the world's."""

    def __init__(self, kernel: Kernel, name: str, clock: HostClock) -> None:
        super().__init__(kernel, name)
        self._clock = clock

    @override
    def time(self) -> float:
        return self._clock.ahead_seconds + self._clock.rate * super().time()

    @override
    def world_time(self, when: float) -> float:
        return (when - self._clock.ahead_seconds) / self._clock.rate

    def _skewed_later(self, delay: float, *call: Any, context: Context | None = None) -> Any:
        return self._later(delay / self._clock.rate, *call, context=context)

    def _skewed_at(self, when: float, *call: Any, context: Context | None = None) -> Any:
        return self._at(self.world_time(when), *call, context=context)

    call_later: Any = _skewed_later
    call_at: Any = _skewed_at
