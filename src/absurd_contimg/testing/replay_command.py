"""The command that replays a future, and what `explore_crashes` shall replay.

The pytest plugin says which test runs and what its options ask for.
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass


@dataclass(slots=True)
class ReplayOptions:
    """The options of pytest, and how far the running test is."""

    schedule: str | None = None
    """Of ``--absurd-faults``: the only future that is run."""
    exploration: int = 1
    """Of ``--absurd-exploration``: which one of a test, from 1; those before it run whole."""
    test: str | None = None
    """The running test, as pytest takes it in the folder in which it was started."""
    explorations: int = 0
    """How many the running test has begun."""

    def begin_test(self, test: str) -> None:
        """Count the explorations of a test from 1."""
        self.test, self.explorations = test, 0

    def begin_exploration(self) -> None:
        """Count the next exploration of the running test.

        Under Hypothesis each is the first: a replay does not draw the same number of examples.
        """
        hypothesis = sys.modules.get("hypothesis")
        is_drawn = hypothesis is not None and hypothesis.currently_in_test_context()
        self.explorations = 1 if is_drawn else self.explorations + 1

    @property
    def schedule_now(self) -> str | None:
        """The future to replay, if the exploration that has begun is the one that is meant."""
        return self.schedule if self.explorations == self.exploration else None

    def command(self, schedule: str) -> str:
        """Replays a future of the exploration that has begun."""
        test = self.test or os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
        command = f"pytest -s {shlex.quote(test or 'THE_TEST')} --absurd-faults {schedule}"
        if self.explorations > 1:
            command += f" --absurd-exploration {self.explorations}"
        return command


REPLAY = ReplayOptions()
"""Of this process."""
