"""Invariants over one run with injected faults beside a run of the same world without any.

They say what a fault may cost. How the runs were made, and what counts as a difference, is the
business of the simulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RecoveryObservation:
    """A run with faults beside the baseline run."""

    differences: Sequence[str]
    """Between the tasks, events, products and external effects of both."""
    run_ends: Sequence[Sequence[str]]
    """How each run of each task ended: its state and the name of its error."""
    baseline_run_ends: Sequence[Sequence[str]]
    ended_at_seconds: float | None
    latest_end_seconds: float
    """By when it must have ended: the faults may cost some leases and all work once more."""
    baseline_ended_at_seconds: float
    restarted_at_once: bool
    """Every fault ended a process that was restarted under its own name at once."""
    only_lost_calls: bool
    """Every fault was one call that the database refused or whose reply was lost."""
    read_errors: Callable[[], Mapping[str, str]] = dict
    """Line and text of the errors, by how the run ended; called where one is new."""


def same_end_as_baseline(observed: RecoveryObservation) -> Iterator[str]:
    """Faults change no result, checkpoint, event, child task, product and effect outside."""
    yield from observed.differences


def recovery_is_not_late(observed: RecoveryObservation) -> Iterator[str]:
    """A fault costs some leases and the repetition of lost work, and no more time."""
    ended_at = observed.ended_at_seconds
    if ended_at is not None and ended_at > observed.latest_end_seconds:
        baseline = observed.baseline_ended_at_seconds
        yield f"it ended after {ended_at:.0f} s, the baseline after {baseline:.0f} s"


def restarted_worker_resumes_at_once(observed: RecoveryObservation) -> Iterator[str]:
    """A worker that is restarted under its own name waits for no lease."""
    expired = any("$ClaimTimeout" in end for ends in observed.run_ends for end in ends)
    if observed.restarted_at_once and expired:
        yield f"a lease expired: the runs ended as {observed.run_ends}"


def lost_call_costs_no_run(observed: RecoveryObservation) -> Iterator[str]:
    """One call that the database refuses, or whose reply is lost, fails no run."""
    if observed.only_lost_calls and observed.run_ends != observed.baseline_run_ends:
        yield f"the runs ended as {observed.run_ends}, in the baseline {observed.baseline_run_ends}"


def faults_make_no_new_errors(observed: RecoveryObservation) -> Iterator[str]:
    """No run fails by an error that no run of the baseline has: a fault costs leases only.

    So the loser of a race for a product adopts that of the winner.
    """
    known = {end for ends in observed.baseline_run_ends for end in ends}
    new = {end for ends in observed.run_ends for end in ends if end.startswith("failed ")} - known
    if new := new - {"failed $ClaimTimeout"}:
        errors = observed.read_errors()
        texts = "; ".join(errors[end] for end in sorted(new) if end in errors)
        yield f"runs ended as {sorted(new)}{texts and ': '}{texts}"
