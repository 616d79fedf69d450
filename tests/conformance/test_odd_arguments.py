"""Both backends take and refuse the same arguments, whatever they are."""

from __future__ import annotations

from collections.abc import Callable

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.backends.postgres import PostgresBackend
from conformance.odd_arguments import REFUSED, OddCall, Subject, odd_calls

_OUR_REFUSALS = ("ValueRefused", "TypeError", "BackendError P0001", "InvalidRetryStrategy AB003",
    "QueueNotFound", "BackendError 23502")  # fmt: skip
"""By name: of this package, of Python for what is no JSON, of Absurd's procedures and tables."""


async def test_odd_arguments_have_the_same_outcome(new_database: Callable[[], str]) -> None:
    """Odd values for every argument of every method: same answers, and errors that say what."""
    emulated: list[tuple[OddCall, str]] = []
    async for outcome in Subject(MemoryBackend(MemoryDatabase())).outcomes():
        emulated.append(outcome)
    async with PostgresBackend(new_database()) as postgres:
        different = []
        places = iter(emulated)
        async for call, real in Subject(postgres).outcomes():
            ours = next(places)[1]
            if real != ours:
                different.append(f"{call}: Postgres {real[:120]}, emulator {ours[:120]}")
    assert not different, f"{len(different)} of {len(emulated)}:\n" + "\n".join(different[:30])
    refused = [(call, text) for call, text in emulated if text.startswith(REFUSED)]
    unnamed = [
        f"{call}: {text}"
        for call, text in refused
        if not text.removeprefix(f"{REFUSED} ").startswith(_OUR_REFUSALS)
    ]
    assert not unnamed, "\n".join(unnamed[:30])
    assert len(refused) > len(list(odd_calls())) * 0.4
