"""The stream in the simulation: a night with every fault, its crash points, its invariants."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from search_extent import examples

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.history.invariants.check import STREAM_INVARIANTS, Violation
from absurd_contimg.ingest.arrivals import Arrivals
from absurd_contimg.ingest.closing import ArrivalRules
from absurd_contimg.ingest.daemon import Daemon
from absurd_contimg.ingest.ports import IngestStore
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.models import FileState, IngestState
from absurd_contimg.registry.windows import WindowState
from absurd_contimg.simulation.campaign.campaign import Campaign
from absurd_contimg.simulation.campaign.scenario import load_scenario
from absurd_contimg.simulation.campaign.stream import number_of_group
from absurd_contimg.simulation.exploration.crash_run import CrashRun
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec
from absurd_contimg.simulation.exploration.stream_workflows import (
    CLOSING,
    DAEMON,
    QUEUE,
    SPECS,
    WINDOWS,
    group_name,
)
from absurd_contimg.simulation.model.effect_gateway import COMMITTED
from absurd_contimg.simulation.model.faults import FaultKind, InjectedFault
from absurd_contimg.simulation.model.simulated_incoming import EPOCH_SECONDS, SimulatedIncoming
from absurd_contimg.simulation.model.simulated_ingestion import describe_ingestion
from absurd_contimg.simulation.model.simulated_registry import SimulatedRegistry
from absurd_contimg.simulation.model.world import without_logs_and_gc

from .mutants_stream import STREAM_MUTANTS

SAMPLES = {"daemon": 4, "night": 2, "batch": 6, "stages": 6, "transits": 4, "hybrid": 6}
"""So many crash points of each, in `make search` three times as many; ``contimg explore --workflow
NAME`` tries them all."""


@pytest.mark.parametrize("workflow", SAMPLES)
def test_a_kill_at_some_crash_points(workflow: str) -> None:
    """Every future ends with the same groups, windows, tasks and products as without the kill."""
    spec = SPECS[workflow]()
    with without_logs_and_gc():
        base = CrashRun(spec)
        expected = base.run()
        assert expected.violations == ()
        samples = examples(3 * SAMPLES[workflow])
        points = random.Random(16).sample(range(1, base.crash_point + 1), samples)
        for point in points:
            run = CrashRun(spec, (InjectedFault(FaultKind.KILL, point),))
            outcome = run.run()
            assert run.injector.pending == [], f"kill@{point}"
            assert outcome.violations == (), f"kill@{point}"
            assert outcome.differences(expected) == [], f"kill@{point}"


def test_the_fate_of_every_fault_of_the_night() -> None:
    """Rows of the table of failures: 29, 30, 27, 51, 47; a failing group is left out by name."""
    run = CrashRun(SPECS["daemon"]())
    with without_logs_and_gc():
        outcome = run.run()
    assert outcome.violations == ()
    described = describe_ingestion(run.world.state.registry.ingestion)
    records = [record for record in described if isinstance(record, list)]
    groups = {record[1]: record[2:] for record in records if record[0] == "group"}
    files = {record[1]: record[3] for record in records if record[0] == "file"}
    names = [group_name(number) for number in range(11)]
    assert list(groups) == names
    assert {name for name in names if groups[name][1] == "all 4 sub-bands"} == {
        names[number] for number in (0, 1, 5, 8, 9, 10)
    }
    assert groups[names[2]][1].endswith("missing: sb02")
    assert files[f"{names[3]}_sb03.hdf5"] == "late"
    assert files[f"{names[4]}_sb03.hdf5"] == "late"  # truncated for ever
    assert files[f"{group_name(4, 1.0)}_sb01.hdf5"] == "refused"  # a second one
    assert files[f"{names[6]}_sb03.hdf5"] == "refused"  # damaged
    assert groups[names[7]][0] == "rejected"
    windows = [record for record in records if record[0] == "window"]
    members = [[names.index(member[0]) for member in window[5]] for window in windows]
    assert members == [[0, 1, 2], [2, 3, 4], [4, 5, 6], [8, 9, 10], [8, 9]]
    assert [window[2] for window in windows] == [*["closed"] * 4, "superseded"]
    assert windows[0][5][1] == [names[1], False, "quarantined: all flagged"]


@pytest.mark.parametrize("polls_once", [False, True])
def test_the_simulated_registry_keeps_what_the_real_one_keeps(
    tmp_path: Path, polls_once: bool
) -> None:
    """The same night, poll by poll, with both; also where each poll is a process of its own."""
    simulated, real = SimulatedRegistry(), Registry(tmp_path / "registry.sqlite3")
    now = 0.0
    incoming = SimulatedIncoming(DAEMON.script, lambda: now)

    class Clock:
        def now(self) -> float:
            return EPOCH_SECONDS + now

        def monotonic(self) -> float:
            return now

    def new_arrivals(store: IngestStore) -> Arrivals:
        return Arrivals(*(incoming, store, ArrivalRules(), CLOSING, 3600.0), polls_once=polls_once)

    stores = (simulated.ingestion, IngestionTables(real.database))
    daemons = [
        Daemon(
            backend=MemoryBackend(MemoryDatabase()),
            store=store,
            arrivals=new_arrivals(store),
            clock=Clock(),
            queue_name=QUEUE,
            rules=WINDOWS,
            find_catalog=lambda: Path("sky.csv"),
        )
        for store in stores
    ]

    async def night() -> None:
        nonlocal now
        for daemon in daemons:
            await daemon.backend.create_queue(QUEUE)
        while now < 7_000.0:
            for store, daemon in zip(stores, daemons, strict=True):
                if polls_once:
                    daemon.arrivals = new_arrivals(store)
                await daemon.poll()
            described = [list(describe_ingestion(store)) for store in stores]
            assert described[0] == described[1], f"at {now} s"
            now += 200.0
            number = int(now / 309.0) - 6
            for registry in (simulated, real):
                if any(group.group_id == group_name(number) for group in stores[0].groups()):
                    registry.set_group_status(group_name(number), GroupStatus.DONE)

    with without_logs_and_gc():
        asyncio.run(night())
    assert len(stores[0].windows()) == 5


def violations_of(spec: ExplorationSpec, effect: str = "spawn_task") -> Iterator[Violation]:
    """Of the run without a fault, then of those that are killed just after each such effect."""
    with without_logs_and_gc():
        base = CrashRun(spec, keep_crash_points=True)
        yield from base.run().violations
        for number, point in enumerate(base.crash_points, start=1):
            if point.effect.name == effect and point.phase is COMMITTED:
                run = CrashRun(spec, (InjectedFault(FaultKind.KILL, number),))
                yield from run.run().violations


@pytest.mark.parametrize("mutant", STREAM_MUTANTS)
def test_each_invariant_goes_red(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change, workflow, invariant = STREAM_MUTANTS[mutant]
    change(monkeypatch)
    violations = violations_of(SPECS[workflow]())
    assert any(violation.invariant == invariant for violation in violations)


def test_there_is_a_mutant_for_each_invariant() -> None:
    names = {invariant.__name__ for invariant in STREAM_INVARIANTS}
    assert {invariant for _, _, invariant in STREAM_MUTANTS.values()} == names


def test_a_stream_night_keeps_every_invariant() -> None:
    """Each fault of the scenario has the fate that it must have, with deaths all night."""
    campaign = Campaign(load_scenario("stream_night"), seed=2)
    run = campaign.run()
    assert [str(violation) for violation in run.violations] == []
    assert sum(run.effective.values()) > 5
    assert any("daemon ends" in line for line in run.trace)
    scenario, ingestion = campaign.scenario, campaign.world.state.registry.ingestion
    assert scenario.stream is not None
    interval = scenario.telescope.interval_seconds
    groups = {number_of_group(group.group_id, interval): group for group in ingestion.groups()}
    assert len(groups) == 39, "two numbers were not observed"
    first_files = {number: group.files[0] for number, group in groups.items()}
    assert {
        number: file.state for number, file in first_files.items() if file.state != "whole"
    } == {
        3: FileState.LATE,  # truncated for ever
        5: FileState.REFUSED,  # damaged
        12: FileState.GONE,
        14: FileState.CHANGED,
    }
    assert [file.state for file in groups[7].files[:2]] == [FileState.WHOLE, FileState.REFUSED]
    assert {len({f.timestamp_seconds for f in groups[number].files}) for number in (9, 10)} == {2}
    assert groups[17].ingest_state is IngestState.REJECTED
    windows = ingestion.windows()
    numbers = [
        [number_of_group(member.group_id, interval) for member in window.members]
        for window in windows
    ]
    assert not any(span[0] < edge <= span[-1] for span in numbers for edge in (22, 28))
    superseded = [window for window in windows if window.state is WindowState.SUPERSEDED]
    assert superseded, "the delayed group changes the windows of its night"
    histories = {history.task.idempotency_key: history.task for history in run.histories}
    closed = [window for window in windows if window.task_id is not None]
    assert {f"mosaic:{window.window_id}" for window in closed} <= histories.keys()
