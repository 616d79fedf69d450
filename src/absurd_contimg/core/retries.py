"""How often and how soon a failed step is tried again: budgets by failure kind."""

from __future__ import annotations

from dataclasses import dataclass

from absurd_contimg.core.failures import FailureKind
from absurd_contimg.core.records import Json, Task


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Budgets of one step, counted over all attempts of its task.

    `transient_attempts` and `unknown_attempts` count the first try too. A step that ended
    `poison_limit` workers without a word is not started again.
    A step waits for a resource `resource_wait_seconds` the first time, then twice as long up to
    `resource_wait_limit_seconds`, `resource_waits_max` times at most: for a day.
    """

    transient_attempts: int = 3
    unknown_attempts: int = 2
    poison_limit: int = 3
    backoff_first_seconds: float = 5.0
    backoff_factor: float = 2.0
    backoff_limit_seconds: float = 300.0
    resource_wait_seconds: float = 60.0
    resource_wait_limit_seconds: float = 300.0
    resource_waits_max: int = 290

    def attempts(self, kind: FailureKind) -> int:
        """How many tries a step has that fails with this kind."""
        match kind:
            case FailureKind.TRANSIENT:
                return self.transient_attempts
            case FailureKind.UNKNOWN:
                return self.unknown_attempts
            case _:
                return 1

    def delay_seconds(self, failures: int) -> float:
        """How long to wait after the `failures`-th failure of the step."""
        delay = self.backoff_first_seconds * self.backoff_factor ** max(failures - 1, 0)
        return min(delay, self.backoff_limit_seconds)

    def resource_delay_seconds(self, waits: int, spread: float) -> float:
        """How long to wait for a resource after `waits` waits.

        `spread`, from 0 to 1, adds a quarter at most, so that those who met the same full disk do
        not meet again.
        """
        delay = self.resource_wait_seconds * 2.0 ** min(waits, 30)
        limit = max(self.resource_wait_limit_seconds, self.resource_wait_seconds)
        return min(delay, limit) * (1.0 + 0.25 * spread)


ATTEMPTS_MAX = 2**31 - 1
"""The most attempts that Absurd's columns can count."""

_ATTEMPTS_GRANTED = 1000
"""Absurd's own limit for a retried task; the worker's budgets, by step and kind, are tighter."""


def retry_options(task: Task) -> dict[str, Json]:
    """The options of Absurd's ``retry_task`` that give a failed task full budgets again."""
    return {"max_attempts": min(task.attempts + _ATTEMPTS_GRANTED, ATTEMPTS_MAX)}
