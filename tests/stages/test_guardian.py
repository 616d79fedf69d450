"""The guardian kills what may no longer live, and nothing else."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from absurd_contimg.stages.guardian import Guardian


@pytest.fixture
def guardian() -> Iterator[Guardian]:
    made = Guardian()
    yield made
    made.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a helper, in a group of its own."""
    process = subprocess.Popen(["sh", "-c", "sleep 600 & wait"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_group_is_killed_when_its_time_is_over(
    guardian: Guardian, sleeper: subprocess.Popen[bytes]
) -> None:
    began = time.monotonic()
    guardian.watch(sleeper.pid, began + 0.5)
    assert sleeper.wait(10) == -9
    assert time.monotonic() - began >= 0.5


def test_extended_group_lives_and_a_forgotten_one_too(
    guardian: Guardian, sleeper: subprocess.Popen[bytes]
) -> None:
    """The last word counts."""
    guardian.watch(sleeper.pid, time.monotonic() + 0.3)
    guardian.watch(sleeper.pid, time.monotonic() + 60)
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.6)
    guardian.watch(sleeper.pid, time.monotonic() + 0.3)
    guardian.forget(sleeper.pid)
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.6)


def test_killed_guardian_is_replaced(guardian: Guardian, sleeper: subprocess.Popen[bytes]) -> None:
    guardian.watch(sleeper.pid, time.monotonic() + 60)
    assert guardian._process is not None
    guardian._process.kill()
    guardian._process.wait()
    guardian.watch(sleeper.pid, time.monotonic() + 0.2)
    assert sleeper.wait(10) == -9
