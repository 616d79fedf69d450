"""UUIDv7 as Postgres 18 makes them, but from a seed.

48 bits of milliseconds, 12 bits of the fraction of the millisecond, 62 random bits; strictly
ascending. Like Postgres 18's own ``uuidv7()`` it follows the clock, not ``absurd.fake_now``.
Because ids ascend, ties that Absurd breaks by id are broken by age.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random

_STEP_NS = 245  # 1 ms / 4096, rounded up: what the 12 bits can tell apart
_MAX_MS = (1 << 48) - 1
_VERSION = 7 << 12
"""In the upper 64 bits."""
_VARIANT = 2 << 62
_CHUNK_LENGTH = 256


@lru_cache(maxsize=64)
def _random_words(seed: int, chunk: int) -> tuple[int, ...]:
    """So many of the stream's lower halves; forks of a database share them."""
    source = Random(f"{seed} {chunk}")
    return tuple([_VARIANT | source.getrandbits(62) for _ in range(_CHUNK_LENGTH)])


class UuidSource:
    """A stream of ascending UUIDv7 as 128-bit integers."""

    __slots__ = ("_chunk", "_last_ns", "_seed", "_words")

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._chunk = self._last_ns = 0
        self._words: list[int] = []
        """What is left of the last chunk."""

    def next(self, now_us: int) -> int:
        """The next one, for a clock that shows `now_us`."""
        words, now_ns, least_ns = self._words, now_us * 1000, self._last_ns + _STEP_NS
        if not words:
            words += _random_words(self._seed, self._chunk)
            self._chunk += 1
        now_ns = self._last_ns = now_ns if now_ns > least_ns else least_ns
        ms, rest = divmod(now_ns, 1_000_000)
        high = (ms if ms < _MAX_MS else _MAX_MS) << 16 | _VERSION | rest * 4096 // 1_000_000
        return high << 64 | words.pop()

    def position(self) -> tuple[int, int, int, int]:
        """What decides the values to come."""
        return self._seed, self._chunk, len(self._words), self._last_ns

    def copy(self) -> UuidSource:
        """A stream that goes on with the same values."""
        twin = UuidSource(self._seed)
        twin._chunk, twin._last_ns, twin._words = self._chunk, self._last_ns, self._words.copy()
        return twin


def timestamp_ms(value: int) -> int | None:
    """Milliseconds since 1970 in a UUIDv7, None for another version."""
    return value >> 80 if (value >> 76) & 15 == 7 else None


def floor_of(ms: int) -> int:
    """The lowest UUIDv7 of a millisecond."""
    return (ms << 16 | _VERSION) << 64 | _VARIANT
