"""Tests of handlers: crash recovery in virtual time, and the pytest plugin.

See ``docs/testing.md``. Nothing here is needed in production.
"""

from absurd_contimg.simulation.exploration.exploration_spec import ExternalInput
from absurd_contimg.simulation.exploration.explorer import Exploration, Finding
from absurd_contimg.simulation.model.faults import FaultKind
from absurd_contimg.simulation.model.world import happened, outside
from absurd_contimg.simulation.runtime.loop import in_virtual_time
from absurd_contimg.testing.assertions import (
    assert_completed,
    assert_failed,
    assert_no_violations,
    assert_resumes_from,
    assert_step_ran_once,
)
from absurd_contimg.testing.crashes import explore_crashes, run_handler

__all__ = [
    "Exploration",
    "ExternalInput",
    "FaultKind",
    "Finding",
    "assert_completed",
    "assert_failed",
    "assert_no_violations",
    "assert_resumes_from",
    "assert_step_ran_once",
    "explore_crashes",
    "happened",
    "in_virtual_time",
    "outside",
    "run_handler",
]
