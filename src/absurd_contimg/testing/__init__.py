"""Tests of handlers: crash recovery in virtual time, and the pytest plugin.

See ``docs/testing.md``. Nothing here is needed in production. What is
asked for is imported then, because pytest imports this package at every start.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

_MODULES = {
    "ExternalInput": "simulation.exploration.exploration_spec",
    "Exploration": "simulation.exploration.explorer",
    "Finding": "simulation.exploration.explorer",
    "FaultKind": "simulation.model.faults",
    "happened": "simulation.model.world",
    "outside": "simulation.model.world",
    "in_virtual_time": "simulation.runtime.loop",
    "assert_completed": "testing.assertions",
    "assert_failed": "testing.assertions",
    "assert_no_violations": "testing.assertions",
    "assert_resumes_from": "testing.assertions",
    "assert_step_ran_once": "testing.assertions",
    "explore_crashes": "testing.crashes",
    "run_handler": "testing.crashes",
}
"""The module of each name, in the package."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"absurd_contimg.{_MODULES[name]}"), name)
