"""The oracle is tested: planted bugs must turn the comparison red.

Postgres' side of random sequences is recorded once; each bug is planted and the recorded calls
are replayed on the emulator until something differs.
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
    rare_sequence,
)
from conformance.databases import Call, EmulatorDatabase, PostgresDatabase
from conformance.mutants_emulator import BUGS, EQUIVALENT, Bug

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
    rare_sequence(pair)
    made.append(list(zip(pair.calls, pair.observed, strict=True)))
    for seed in range(FIRST_SEED, FIRST_SEED + SCRIPTS):
        random_sequence(pair, seed)
        made.append(list(zip(pair.calls, pair.observed, strict=True)))
    postgres.close()
    return made


@contextmanager
def planted(bug: Bug) -> Iterator[type[EmulatorDatabase]]:
    """The emulator loaded anew with one module changed; yields its `EmulatorDatabase`."""
    name = f"{ROOT}.{bug.module}"
    source = Path(str(sys.modules[name].__file__)).read_text()
    assert bug.right in source, f"{bug.name}: its place is gone from {bug.module}"
    changed = compile(source.replace(bug.right, bug.wrong), f"<{bug.name}>", "exec")
    kept = {key: sys.modules[key] for key in list(sys.modules) if key.startswith(ROOT)}
    for key in kept:
        del sys.modules[key]
    finder = _Planted(name, changed)
    sys.meta_path.insert(0, finder)
    try:
        database = importlib.import_module(ROOT).MemoryDatabase
        yield type("Planted", (EmulatorDatabase,), {"database": database})
    finally:
        sys.meta_path.remove(finder)
        for key in [key for key in sys.modules if key.startswith(ROOT)]:
            del sys.modules[key]
        sys.modules.update(kept)


class _Planted:
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


def first_difference(side: type[EmulatorDatabase], recordings: list[Recording]) -> str | None:
    """The first call after which the emulator shows something else than Postgres did."""
    for recording in recordings:
        memory = side()
        for call, expected in recording:
            try:
                seen = observe(memory, call)
            except Exception as error:  # noqa: BLE001 - a crash is a difference too
                return f"{call}: {error!r}"
            if seen != expected:
                return str(call)
    return None


def test_the_true_emulator_replays_every_recording(recordings: list[Recording]) -> None:
    """Without a bug nothing differs; otherwise red would mean nothing."""
    assert first_difference(EmulatorDatabase, recordings) is None


@pytest.mark.timeout(900)
def test_every_planted_bug_is_found(
    recordings: list[Recording], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each bug turns the comparison red, but for those explained as equivalent."""
    missed = []
    for bug in BUGS:
        with planted(bug) as side:
            if first_difference(side, recordings) is None:
                missed.append(bug.name)
    found = len(BUGS) - len(missed)
    with capsys.disabled():
        print(f" [{found} of {len(BUGS)} planted bugs found]", end="")
    assert len(BUGS) >= 60
    assert set(missed) <= set(EQUIVALENT), f"not found: {sorted(set(missed) - set(EQUIVALENT))}"
