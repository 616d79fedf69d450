"""Clocks of hosts that do not agree: ahead of the world's clock, and faster or slower."""

from __future__ import annotations

from contextvars import Context
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from absurd_contimg.simulation.runtime.kernel import Kernel
from absurd_contimg.simulation.runtime.loop import SimLoop


@dataclass(frozen=True, slots=True)
class HostClock:
    """What a host's clock shows: `ahead_seconds`, and `rate` seconds in one of the world's."""

    ahead_seconds: float = 0.0
    rate: float = 1.0

    def shown(self, world_seconds: float) -> float:
        """What it shows at a time of the world."""
        return self.ahead_seconds + self.rate * world_seconds

    def world_time(self, shown_seconds: float) -> float:
        """The time of the world at which it shows this."""
        return (shown_seconds - self.ahead_seconds) / self.rate


class SkewedLoop(SimLoop):
    """A process on a host whose clock is not the world's."""

    def __init__(self, kernel: Kernel, name: str, clock: HostClock) -> None:
        super().__init__(kernel, name)
        self._clock = clock

    @override
    def time(self) -> float:
        return self._clock.shown(super().time())

    @override
    def world_time(self, when: float) -> float:
        return self._clock.world_time(when)

    def _skewed_later(self, delay: float, *call: Any, context: Context | None = None) -> Any:
        return self._later(delay / self._clock.rate, *call, context=context)

    def _skewed_at(self, when: float, *call: Any, context: Context | None = None) -> Any:
        return self._at(self._clock.world_time(when), *call, context=context)

    call_later: Any = _skewed_later
    call_at: Any = _skewed_at
