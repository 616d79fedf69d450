"""What an outcome leaves out, and what it must not: a window that another one has replaced."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.execution.context import MosaicInputs
from absurd_contimg.registry.grouping import TOLERANCE_SECONDS
from absurd_contimg.registry.ingestion_records import Closure, FileSighting
from absurd_contimg.registry.models import IngestState
from absurd_contimg.registry.windows import Window, WindowMember, WindowState
from absurd_contimg.simulation.exploration.outcome import Outcome, outcome_of
from absurd_contimg.simulation.exploration.stream_workflows import group_name
from absurd_contimg.simulation.model.simulated_config import SIMULATED_CONFIG
from absurd_contimg.simulation.model.world import EPOCH, State, World
from absurd_contimg.simulation.runtime.loop import instantly
from absurd_contimg.workflows import mosaic

QUEUE = "night"
NAMES = dict(zip("abc", map(group_name, range(3)), strict=True))


def window(window_id: str, groups: str, state: WindowState = WindowState.CLOSED) -> Window:
    members = tuple(WindowMember(NAMES[group], float(n)) for n, group in enumerate(groups))
    return Window(window_id, state, 0.0, 1.0, 16.0, members, {}, "complete")


FIRST, WHOLE = window("W-ab", "ab"), window("W-abc", "abc")
REPLACED = replace(window("W-bc", "bc", WindowState.SUPERSEDED), superseded_by="W-abc")


def outcome(
    *windows: Window, replaced_mosaic: str = "cancelled", late_group_after: float = -100.0
) -> Outcome:
    """Of a night with these windows; the mosaics of those that are not superseded are pending.

    The first group came late: so many seconds after the mosaic of the replaced window began.
    """
    state = State(MemoryDatabase(0, clock=lambda: EPOCH))
    ingestion = state.registry.ingestion
    path = SIMULATED_CONFIG.paths.input_dir / f"{NAMES['a']}_sb00.hdf5"
    ingestion.enter_files([FileSighting(path, 1, 1)], 0.0, TOLERANCE_SECONDS)
    times = 61_000.0, 16.0, EPOCH.timestamp() + late_group_after
    ingestion.close_group(Closure(NAMES["a"], IngestState.CLOSED, "all", (path,), (), *times))
    backend = MemoryBackend(state.database)
    instantly(backend.create_queue(QUEUE))
    for each in windows:
        ingestion.store_windows([each])
        inputs = MosaicInputs(
            window_id=each.window_id,
            members=tuple(member.group_id for member in each.members),
            catalog_path=SIMULATED_CONFIG.paths.input_dir / "sky.csv",
        )
        params, options = inputs.model_dump(mode="json"), mosaic.spawn_options(inputs)
        spawned = instantly(backend.spawn_task(QUEUE, mosaic.TASK_NAME, params, options))
        if each.state is not WindowState.SUPERSEDED:
            continue
        if "begun" in replaced_mosaic:
            instantly(backend.claim_task(QUEUE, "worker"))
        if "cancelled" in replaced_mosaic:
            instantly(backend.cancel_task(QUEUE, spawned.task_id))
    world = World(state)
    observed = world.observation(must_have_ended=False)
    world.close()
    return outcome_of(observed, state, ())


def test_a_mosaic_that_began_before_the_late_group_came_is_no_difference() -> None:
    """It stays, as it says what it is made of; how far workers had come decides whether it is."""
    after_fault = outcome(REPLACED, FIRST, WHOLE, replaced_mosaic="begun", late_group_after=100.0)
    assert after_fault.differences(outcome(FIRST, WHOLE)) == []


def test_a_replaced_window_whose_mosaic_never_began_is_no_difference() -> None:
    base, after_fault = outcome(FIRST, WHOLE), outcome(FIRST, REPLACED, WHOLE)
    assert after_fault.differences(base) == []
    assert base.differences(after_fault) == []
    assert after_fault.run_ends == base.run_ends


@pytest.mark.parametrize("replaced_mosaic", ["waiting", "begun", "begun, then cancelled"])
def test_a_mosaic_of_a_replaced_window_that_began_too_late_is_found(replaced_mosaic: str) -> None:
    after_fault = outcome(REPLACED, FIRST, WHOLE, replaced_mosaic=replaced_mosaic)
    task, record = after_fault.differences(outcome(FIRST, WHOLE))
    assert record.startswith('record ["window", "W-bc"')
    assert "task 'mosaic' (mosaic:W-bc) is new" in task


def test_windows_that_nothing_replaces_are_found() -> None:
    base = outcome(FIRST, WHOLE)
    for other in (None, "W-none", "W-bc"):
        lost = replace(REPLACED, superseded_by=other)
        assert len(outcome(FIRST, lost, WHOLE).differences(base)) == 2, other
    task, record = outcome(FIRST, REPLACED).differences(outcome(FIRST))
    assert ("is new" in record, "is new" in task) == (True, True)
    missing = outcome(FIRST, REPLACED, replace(WHOLE, window_id="W-other")).differences(base)
    assert any("W-abc" in text and text.endswith("is missing") for text in missing)


def lost_lease(worker: str, kept: str) -> Outcome:
    """Of a worker that let its claim expire; another one keeps Absurd's record of that, or part."""
    now = EPOCH
    state = State(MemoryDatabase(0, clock=lambda: now))
    backend = MemoryBackend(state.database)
    instantly(backend.create_queue(QUEUE))
    instantly(backend.spawn_task(QUEUE, "task", {}, SpawnOptions(max_attempts=2)))
    instantly(backend.claim_task(QUEUE, worker, claim_timeout=60))
    now += timedelta(seconds=61)
    (claimed,) = instantly(backend.claim_task(QUEUE, "relief"))
    history = instantly(backend.history(QUEUE, claimed.task_id))
    reason = dict(history.runs[0].failure_reason)
    if kept == "part":
        del reason["message"]
    saved = QUEUE, claimed.task_id, "why", {"runs": [reason]}, claimed.run_id
    instantly(backend.set_task_checkpoint_state(*saved))
    world = World(state)
    observed = world.observation(must_have_ended=False)
    world.close()
    return outcome_of(observed, state, ())


def test_a_record_of_absurd_is_compared_without_its_worker() -> None:
    """But what a handler makes of it is compared whole."""
    assert lost_lease("a", "all").differences(lost_lease("b", "all")) == []
    (line,) = lost_lease("a", "part").differences(lost_lease("b", "part"))
    assert 'at runs[0].workerId: "a", in the baseline run "b"' in line
