"""Tests of handlers: crash recovery in virtual time, and the pytest plugin.

See ``docs/testing.md``. Nothing here is needed in production. What is
asked for is imported then, because pytest imports this package at every start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from absurd_contimg.imports_on_use import imports_on_use

if TYPE_CHECKING:
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
    from absurd_contimg.testing.crashes import explore_crashes, replay_handler, run_handler

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
    "replay_handler",
    "run_handler",
]

__getattr__ = imports_on_use(__name__)
