"""The comparison itself is tested: it must find mutants of the emulator.

What Postgres answers to random sequences is recorded once; the recorded calls are replayed on each
mutant until something differs.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conformance.comparison import (
    Observation,
    Pair,
    observe,
    random_sequence,
    regression_sequence,
)
from conformance.databases import Call, EmulatorDatabase, PostgresDatabase
from conformance.mutants_emulator import EQUIVALENT, MUTANTS, Mutant

SCRIPTS = 120
FIRST_SEED = 100_000
ROOT = "absurd_contimg.backends.memory"
Recording = list[tuple[Call, Observation]]


@pytest.fixture(scope="module")
def recordings(new_database: Callable[[], str]) -> list[Recording]:
    """Sequences with what Postgres showed after each call; the regression sequences first."""
    postgres = PostgresDatabase(new_database())
    pair = Pair(postgres, EmulatorDatabase())
    made: list[Recording] = []
    regression_sequence(pair)
    made.append(list(zip(pair.calls, pair.observed, strict=True)))
    for seed in range(FIRST_SEED, FIRST_SEED + SCRIPTS):
        random_sequence(pair, seed)
        made.append(list(zip(pair.calls, pair.observed, strict=True)))
    postgres.close()
    return made


@contextmanager
def mutated(mutant: Mutant) -> Iterator[type[EmulatorDatabase]]:
    """The emulator loaded again with one module changed; yields its `EmulatorDatabase`."""
    name = f"{ROOT}.{mutant.module}"
    source = Path(str(sys.modules[name].__file__)).read_text()
    assert mutant.right in source, f"{mutant.name}: its place is gone from {mutant.module}"
    changed = compile(source.replace(mutant.right, mutant.wrong), f"<{mutant.name}>", "exec")
    kept = {key: sys.modules[key] for key in list(sys.modules) if key.startswith(ROOT)}
    for key in kept:
        del sys.modules[key]
    finder = _MutantFinder(name, changed)
    sys.meta_path.insert(0, finder)
    try:
        database = importlib.import_module(ROOT).MemoryDatabase
        yield type("MutantDatabase", (EmulatorDatabase,), {"database": database})
    finally:
        sys.meta_path.remove(finder)
        for key in [key for key in sys.modules if key.startswith(ROOT)]:
            del sys.modules[key]
        sys.modules.update(kept)


class _MutantFinder:
    """Finds one module, with changed code."""

    def __init__(self, name: str, code: object) -> None:
        self.name = name
        self.code = code

    def find_spec(self, name: str, path: object, target: object = None) -> object:
        if name != self.name:
            return None
        return importlib.machinery.ModuleSpec(name, self)  # type: ignore[arg-type]

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: object) -> None:
        exec(self.code, module.__dict__)  # type: ignore[arg-type]


def first_difference(database: type[EmulatorDatabase], recordings: list[Recording]) -> str | None:
    """The first call after which the emulator shows something else than Postgres did."""
    for recording in recordings:
        memory = database()
        for call, expected in recording:
            try:
                seen = observe(memory, call)
            except Exception as error:  # noqa: BLE001 - a crash is a difference too
                return f"{call}: {error!r}"
            if seen != expected:
                return str(call)
    return None


def test_emulator_replays_every_recording(recordings: list[Recording]) -> None:
    """Without a mutation nothing differs; otherwise a difference would mean nothing."""
    assert first_difference(EmulatorDatabase, recordings) is None


@pytest.mark.timeout(900)
def test_every_mutant_is_found(
    recordings: list[Recording], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each mutant shows a difference, but for those explained as equivalent."""
    missed = []
    for mutant in MUTANTS:
        with mutated(mutant) as database:
            if first_difference(database, recordings) is None:
                missed.append(mutant.name)
    result = len(MUTANTS) - len(missed)
    with capsys.disabled():
        print(f" [{result} of {len(MUTANTS)} mutants found]", end="")
    assert len(MUTANTS) >= 60
    assert set(missed) <= set(EQUIVALENT), f"not found: {sorted(set(missed) - set(EQUIVALENT))}"
