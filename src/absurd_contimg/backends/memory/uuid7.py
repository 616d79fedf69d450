"""UUIDv7 as Postgres 18 makes them, but from a seed.

48 bits of milliseconds, 12 bits of the fraction of the millisecond, 62 random bits; strictly
ascending. Like Postgres 18's own ``uuidv7()`` it follows the clock, not ``absurd.fake_now``.
Because ids ascend, ties that Absurd breaks by id are broken by age.
"""

from __future__ import annotations

_STEP_NS = 245  # 1 ms / 4096, rounded up: what the 12 bits can tell apart
_MAX_MS = (1 << 48) - 1
_WORD = (1 << 64) - 1
_VERSION = 7 << 12
"""In the upper 64 bits."""
_VARIANT = 2 << 62


class UuidSource:
    """A stream of ascending UUIDv7 as 128-bit integers."""

    __slots__ = ("_last_ns", "_state")

    def __init__(self, seed: int) -> None:
        self._state = seed & _WORD
        self._last_ns = 0

    def next(self, now_us: int) -> int:
        """The next one, for a clock that shows `now_us`."""
        now_ns = self._last_ns = max(now_us * 1000, self._last_ns + _STEP_NS)
        ms, rest = divmod(now_ns, 1_000_000)
        high = min(ms, _MAX_MS) << 16 | _VERSION | rest * 4096 // 1_000_000
        # 64 random bits by splitmix64, whose whole state is one number
        self._state = word = self._state + 0x9E3779B97F4A7C15 & _WORD
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _WORD
        word = (word ^ word >> 27) * 0x94D049BB133111EB & _WORD
        return high << 64 | _VARIANT | (word ^ word >> 31) >> 2

    def position(self) -> tuple[int, int]:
        """What decides the values to come."""
        return self._state, self._last_ns

    def copy(self) -> UuidSource:
        """A stream that goes on with the same values."""
        twin = UuidSource(self._state)
        twin._last_ns = self._last_ns
        return twin


def timestamp_ms(value: int) -> int | None:
    """Milliseconds since 1970 in a UUIDv7, None for another version."""
    return value >> 80 if (value >> 76) & 15 == 7 else None


def floor_of(ms: int) -> int:
    """The lowest UUIDv7 of a millisecond."""
    return (ms << 16 | _VERSION) << 64 | _VARIANT
