"""The comparison itself is tested: it must find mutants of the emulator.

What Postgres answers to random sequences is recorded; the recorded calls are replayed on each
mutant until something differs. Those that have found most mutants come first, and more are recorded
only for a mutant that none of them finds.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from types import CodeType, ModuleType

import pytest
from search_extent import some_of

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
SCRIPTS_AT_A_TIME = 10
FIRST_SEED = 100_000
ROOT = "absurd_contimg.backends.memory"
Recording = list[tuple[Call, Observation]]


class Recordings:
    """Sequences with what Postgres showed after each call; the regression sequences first."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._seeds = iter(range(FIRST_SEED, FIRST_SEED + SCRIPTS))
        regression_sequence(pair)
        self.made = [self._calls()]
        self._found = Counter[int]()

    def extend(self) -> bool:
        """Record some more sequences; False if all are there."""
        before = len(self.made)
        for seed in islice(self._seeds, SCRIPTS_AT_A_TIME):
            random_sequence(self._pair, seed)
            self.made.append(self._calls())
        return len(self.made) > before

    def find(self, mutant: Mutant) -> bool:
        """Whether a sequence shows a difference of the mutant."""
        tried: set[int] = set()
        while True:
            # Recording goes on outside, where the emulator is the true one.
            with mutated(mutant) as database:
                untried = [n for n in range(len(self.made)) if n not in tried]
                for number in sorted(untried, key=lambda n: -self._found[n]):
                    if first_difference(database, self.made[number]) is not None:
                        self._found[number] += 1
                        return True
                tried.update(untried)
            if not self.extend():
                return False

    def _calls(self) -> Recording:
        return list(zip(self._pair.calls, self._pair.observed, strict=True))


@pytest.fixture(scope="module")
def recordings(new_database: Callable[[], str]) -> Iterator[Recordings]:
    """What Postgres shows."""
    postgres = PostgresDatabase(new_database())
    yield Recordings(Pair(postgres, EmulatorDatabase()))
    postgres.close()


def source_of(mutant: Mutant) -> str:
    """The module that the mutant changes."""
    return Path(str(sys.modules[f"{ROOT}.{mutant.module}"].__file__)).read_text()


@contextmanager
def mutated(mutant: Mutant) -> Iterator[type[EmulatorDatabase]]:
    """The emulator loaded again with one module changed; yields its `EmulatorDatabase`."""
    name = f"{ROOT}.{mutant.module}"
    source = source_of(mutant).replace(mutant.right, mutant.wrong)
    changed = compile(source, f"<{mutant.name}>", "exec")
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


@cache
def _code_of(file: str) -> CodeType:
    """A module's code: it is compiled once, and not again for each mutant."""
    return compile(Path(file).read_text(), file, "exec")


class _MutantFinder:
    """Finds the modules of the emulator, one of them with changed code."""

    def __init__(self, name: str, changed: CodeType) -> None:
        self._name, self._changed = name, changed

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> object:
        if not name.startswith(ROOT):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None, name
        spec.loader = self  # type: ignore[assignment]
        return spec

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        is_changed = module.__name__ == self._name
        exec(self._changed if is_changed else _code_of(str(module.__file__)), module.__dict__)


def first_difference(database: type[EmulatorDatabase], recording: Recording) -> str | None:
    """The first call after which the emulator shows something else than Postgres did."""
    memory = database()
    for call, expected in recording:
        try:
            seen = observe(memory, call)
        except Exception as error:  # noqa: BLE001 - a crash is a difference too
            return f"{call}: {error!r}"
        if seen != expected:
            return str(call)
    return None


@pytest.mark.timeout(900)
def test_every_mutant_is_found(recordings: Recordings, capsys: pytest.CaptureFixture[str]) -> None:
    """Each mutant shows a difference, but for those explained as equivalent.

    `make test` takes every twelfth, `make search` all.
    """
    mutants = [mutant for mutant in MUTANTS if mutant.name not in EQUIVALENT]
    assert len(mutants) >= 130
    for mutant in mutants:  # its place is still there
        assert mutant.right in source_of(mutant), mutant.name
    mutants = some_of(mutants, every=20)
    missed = [mutant.name for mutant in mutants if not recordings.find(mutant)]
    result = len(mutants) - len(missed)
    with capsys.disabled():
        print(f" [{result} of {len(mutants)} mutants, {len(recordings.made)} sequences]", end="")
    assert not missed, f"not found: {missed}"


def test_emulator_replays_every_recording(recordings: Recordings) -> None:
    """Without a mutation nothing differs; otherwise a difference would mean nothing."""
    for recording in recordings.made:
        assert first_difference(EmulatorDatabase, recording) is None
