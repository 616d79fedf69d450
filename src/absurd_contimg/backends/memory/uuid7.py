"""UUIDv7 as Postgres 18 makes them, but from a seed.

48 bits of milliseconds, 12 bits of the fraction of the millisecond, 62 random bits; strictly
ascending. Like Postgres 18's own ``uuidv7()`` it follows the clock, not ``absurd.fake_now``.
Because ids ascend, ties that Absurd breaks by id are broken by age.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

_STEP_NS = 245  # 1 ms / 4096, rounded up: what the 12 bits can tell apart
_MAX_MS = (1 << 48) - 1
_VERSION = 7 << 12
"""In the upper 64 bits."""
_VARIANT = 2 << 62


class UuidSource:
    """A stream of ascending UUIDv7 as 128-bit integers."""

    __slots__ = ("_draw", "_drawn", "_generator", "_last_ns", "_seed", "_state")

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generator: Random | None = None
        self._draw: Callable[[int], int] | None = None
        """The generator's ``getrandbits``."""
        self._state: object = None
        """The generator's, where it has not been made: many copies never make an id."""
        self._drawn = 0
        """Words of 32 bits that were drawn."""
        self._last_ns = 0

    def next(self, now_us: int) -> int:
        """The next one, for a clock that shows `now_us`."""
        now_ns, earliest = now_us * 1000, self._last_ns + _STEP_NS
        if now_ns < earliest:  # noqa: PLR1730 - a fifth of the time of `max`, and so below
            now_ns = earliest
        self._last_ns = now_ns
        ms, rest = divmod(now_ns, 1_000_000)
        if ms > _MAX_MS:  # noqa: PLR1730
            ms = _MAX_MS
        draw = self._draw or self._made()
        self._state = None
        self._drawn += 2
        high = ms << 16 | _VERSION | rest * 4096 // 1_000_000
        return high << 64 | _VARIANT | draw(62)

    def random(self) -> int:
        """A UUIDv4."""
        draw = self._draw or self._made()
        self._state = None
        self._drawn += 4
        bits = draw(128)
        return bits & ~(15 << 76) & ~(3 << 62) | (4 << 76) | (2 << 62)

    def _made(self) -> Callable[[int], int]:
        generator = self._generator = Random(self._seed)
        if self._state is not None:
            generator.setstate(self._state)  # type: ignore[arg-type]
        self._draw = generator.getrandbits
        return self._draw

    def position(self) -> tuple[int, int, int]:
        """What decides the values to come."""
        return self._seed, self._drawn, self._last_ns

    def copy(self) -> UuidSource:
        """A stream that goes on with the same values."""
        twin = UuidSource(self._seed)
        if self._state is None and self._generator is not None:
            self._state = self._generator.getstate()
        twin._state, twin._drawn, twin._last_ns = self._state, self._drawn, self._last_ns
        return twin


def timestamp_ms(value: int) -> int | None:
    """Milliseconds since 1970 in a UUIDv7, None for another version."""
    return value >> 80 if (value >> 76) & 15 == 7 else None


def floor_of(ms: int) -> int:
    """The lowest UUIDv7 of a millisecond."""
    return (ms << 16 | _VERSION) << 64 | _VARIANT
