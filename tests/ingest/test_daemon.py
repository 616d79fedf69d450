"""From closed groups to windows and mosaic tasks; restarts, two daemons, outages."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

import pytest
from arriving_groups import QUEUE, DaemonSite, group_id
from daemon_crashes import SCRIPT_RULES, crash_points, final_state, run_script
from hypothesis import given, settings
from hypothesis import strategies as st
from sky_products import commit, described_image
from sqlalchemy import update

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.config import PathsConfig
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import BackendUnavailable
from absurd_contimg.errors import RegistryAwayError
from absurd_contimg.ingest.closing import ClosingRules
from absurd_contimg.ingest.windows import WindowRules
from absurd_contimg.products.outputs import ImageOutputs, to_json
from absurd_contimg.products.store import load_committed
from absurd_contimg.registry import GroupStatus
from absurd_contimg.registry.models import IngestState
from absurd_contimg.registry.windows import Window, WindowRow, WindowState
from absurd_contimg.workflows.mosaic import parse_params


async def groups_of_a_night(site: DaemonSite, numbers: Iterable[int]) -> None:
    """Groups of one sub-band that have arrived."""
    site.closing = ClosingRules(expected_subbands=1, subbands_min=1)
    for number in numbers:
        site.write(number, [0])
    await site.polls(100, 3)


def members(window: Window) -> list[str]:
    return [member.group_id for member in window.members]


async def test_closed_windows_have_mosaic_tasks_with_the_groups_that_can_be_used(
    site: DaemonSite,
) -> None:
    """Bugs 1 and 2: the first window forms from ten, and a failed group blocks none."""
    await groups_of_a_night(site, range(10))
    (window,) = site.tables.windows()
    assert (window.state, len(window.members)) == (WindowState.OPEN, 10)
    for number in range(10):
        site.finish(number, GroupStatus.DEGRADED if number == 1 else GroupStatus.DONE)
    await fail_task(site, 3)
    await site.poll(60)
    (window,) = site.tables.windows()
    assert window.state is WindowState.CLOSED
    assert [m.reason for m in window.members if not m.used] == ["failed: no solutions"]
    (task,) = await site.backend.list_tasks(QUEUE, task_name="mosaic")
    assert task.idempotency_key == f"mosaic:{window.window_id}"
    assert isinstance(task.params, dict)
    assert task.params["members"] == [group_id(n) for n in range(10) if n != 3]
    assert task.params["left_out"] == {group_id(3): "failed: no solutions"}
    paths = PathsConfig.below(site.root).model_copy(update={"catalog": site.catalog})
    assert parse_params(task.params, paths).catalog_path == site.catalog


async def fail_task(site: DaemonSite, number: int) -> None:
    """As a worker does that runs a group whose data are bad."""
    task_id = UUID(site.group(number).task_id)
    history = await site.backend.history(QUEUE, task_id)
    assert history is not None
    while True:
        claimed = await site.backend.claim_task(QUEUE, "worker", qty=1)
        assert claimed, "the task is not claimable"
        if claimed[0].task_id == task_id:
            break
    await site.backend.fail_run_permanently(QUEUE, claimed[0].run_id, {"message": "no solutions"})
    site.registry.set_group_status(group_id(number), GroupStatus.FAILED, "no solutions")


async def test_a_cancelled_or_retried_task_decides_about_its_member(site: DaemonSite) -> None:
    """Nobody waits for a cancelled task; of one that runs again the window waits for the end."""
    await groups_of_a_night(site, range(10))
    for number in range(2, 10):
        site.finish(number)
    await fail_task(site, 0)
    await site.backend.cancel_task(QUEUE, UUID(site.group(1).task_id))
    await site.backend.retry_task(QUEUE, UUID(site.group(0).task_id), {"max_attempts": 5})
    await site.poll(60)
    (window,) = site.tables.windows()
    assert window.state is WindowState.OPEN
    site.finish(0)
    await site.poll(60)
    (window,) = site.tables.windows()
    assert window.state is WindowState.CLOSED
    assert [m.reason for m in window.members if not m.used] == ["discovered; its task is cancelled"]


async def test_bug_4_polls_without_news_change_nothing(site: DaemonSite) -> None:
    await groups_of_a_night(site, range(10))
    for number in range(10):
        site.finish(number)
    await site.poll(60)
    before = (site.tables.groups(), site.tables.windows(), await site.tasks())
    await site.polls(60, 5)
    assert (site.tables.groups(), site.tables.windows(), await site.tasks()) == before


async def test_the_end_of_the_night_closes_the_last_window(site: DaemonSite) -> None:
    await groups_of_a_night(site, range(6))
    for number in range(6):
        site.finish(number)
    await site.poll(60)
    assert [window.state for window in site.tables.windows()] == [WindowState.OPEN]
    await site.polls(400, 5)
    (window,) = site.tables.windows()
    assert (window.state, window.closed_reason) == (
        WindowState.CLOSED, "end of night: nothing new for 30 min",
    )  # fmt: skip
    assert [name for name, _ in await site.tasks()].count("mosaic") == 1


async def test_ended_groups_have_a_photometry_task(site: DaemonSite) -> None:
    await groups_of_a_night(site, range(2))
    site.finish(0)
    site.finish(1, GroupStatus.QUARANTINED)
    await site.polls(60, 2)
    assert [key for name, key in await site.tasks() if name == "photometry"] == [
        f"photometry:{group_id(0)}"
    ]


def register_image(site: DaemonSite, number: int, made: int) -> str:
    """As a worker does that has made the image of a group; a later one is the newer. Its key."""
    folder, scratch = site.root / "products", site.root / f"made-{made}"
    if not scratch.exists():
        scratch.mkdir()
        outputs = to_json(ImageOutputs(described_image(folder)))
        commit(scratch, folder, "image", group_id(number), f"key-{made}", outputs, made)
    (image,) = folder.glob(f"images/*key-{made}")
    site.registry.register(image, load_committed(image))
    return f"key-{made}"


async def photometry_keys(site: DaemonSite) -> list[str]:
    return [key for name, key in await site.tasks() if name == "photometry"]


async def test_each_new_image_of_a_group_has_a_photometry_task(site: DaemonSite) -> None:
    """After a reprocessing the fluxes were silently those of the old image."""
    await groups_of_a_night(site, range(2))
    register_image(site, 0, 1)
    site.finish(0)
    site.finish(1)
    await site.polls(60, 2)
    expected = [f"photometry:{group_id(0)}:key-1", f"photometry:{group_id(1)}"]
    assert await photometry_keys(site) == expected
    register_image(site, 0, 1)  # by a worker that takes up a task again
    await site.polls(60, 2)
    assert await photometry_keys(site) == expected
    register_image(site, 0, 2)
    await site.polls(60, 2)
    assert await photometry_keys(site) == [*expected, f"photometry:{group_id(0)}:key-2"]


async def test_an_image_that_comes_while_photometry_is_spawned_is_measured_too(
    site: DaemonSite,
) -> None:
    await groups_of_a_night(site, range(1))
    register_image(site, 0, 1)
    site.finish(0)
    ((group, image_key),) = site.tables.groups_for_photometry()
    register_image(site, 0, 2)
    site.tables.note_photometry_task(group.group_id, group.files_version, image_key, "of the first")
    await site.polls(60, 2)
    assert await photometry_keys(site) == [f"photometry:{group_id(0)}:key-2"]


async def test_a_late_group_supersedes_windows_and_their_mosaics_stay(site: DaemonSite) -> None:
    """A group that was held up by the network takes its place in the night."""
    on_time = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    await groups_of_a_night(site, on_time)
    for number in on_time:
        site.finish(number)
    await site.polls(400, 6)
    assert [members(window) for window in site.tables.windows()] == [
        [group_id(number) for number in range(5, 10)]
    ]
    site.write(4, [0])
    await site.polls(60, 3)
    site.finish(4)
    await site.polls(400, 6)
    states = {window.state: members(window) for window in site.tables.windows()}
    assert states == {
        WindowState.SUPERSEDED: [group_id(number) for number in range(5, 10)],
        WindowState.CLOSED: [group_id(number) for number in range(10)],
    }
    assert [name for name, _ in await site.tasks()].count("mosaic") == 2


async def closed_window(site: DaemonSite) -> Window:
    """A window of five groups after the end of the night, and its mosaic's task."""
    on_time = range(5, 10)
    await groups_of_a_night(site, on_time)
    for number in on_time:
        site.finish(number)
    await site.polls(400, 6)
    (window,) = site.tables.windows()
    assert window.task_id is not None
    return window


async def add_earlier_groups(site: DaemonSite) -> Window:
    """Groups before those of the window, so that another one takes its place."""
    for number in range(5):
        site.write(number, [0])
    await site.polls(60, 3)
    (new,) = [w for w in site.tables.windows() if w.state is not WindowState.SUPERSEDED]
    assert members(new) == [group_id(number) for number in range(10)]
    return new


async def mosaics(site: DaemonSite) -> dict[str, str]:
    """The key of each mosaic task, and its state."""
    tasks = await site.backend.list_tasks(QUEUE, task_name="mosaic")
    return {str(task.idempotency_key): task.state for task in tasks}


@pytest.mark.parametrize("is_noted", [True, False], ids=["noted", "not noted"])
async def test_a_mosaic_that_waits_for_a_superseded_window_is_cancelled(
    site: DaemonSite, backend: Backend, is_noted: bool
) -> None:
    """And made after all when the window is formed again; the note of a task may be missing."""
    site.backend = backend
    window = await closed_window(site)
    if not is_noted:
        with site.database.writing() as session:
            session.execute(update(WindowRow).values(task_id=None))
    key = f"mosaic:{window.window_id}"
    assert await mosaics(site) == {key: "pending"}
    await add_earlier_groups(site)
    assert await mosaics(site) == {key: "cancelled"}
    site.daemon, site.rules = None, WindowRules(size=5, stride=5)
    await site.polls(400, 6)
    assert await mosaics(site) == {key: "cancelled", f"{key}#2": "pending"}
    (again,) = [w for w in site.tables.windows() if w.window_id == window.window_id]
    (task,) = await site.backend.list_tasks(QUEUE, task_name="mosaic", states=["pending"])
    assert (again.state, again.task_id) == (WindowState.CLOSED, str(task.task_id))


async def test_a_mosaic_of_a_superseded_window_that_runs_ends_as_it_would(
    site: DaemonSite, backend: Backend
) -> None:
    site.backend = backend
    window = await closed_window(site)
    claimed = await backend.claim_task(QUEUE, "worker", qty=100)
    (mosaic,) = [task for task in claimed if str(task.task_id) == window.task_id]
    await add_earlier_groups(site)
    assert await mosaics(site) == {f"mosaic:{window.window_id}": "running"}
    await backend.complete_run(QUEUE, mosaic.run_id)


async def test_a_group_that_is_processed_again_keeps_its_place(site: DaemonSite) -> None:
    await groups_of_a_night(site, range(10))
    for number in range(10):
        site.finish(number)
    await site.poll(60)
    (window,) = site.tables.windows()
    site.tables.reopen_group(group_id(4), site.clock.now())
    for _ in range(4):
        await site.poll(60)
        assert site.tables.windows() == [window]
    assert site.group(4).ingest_state is IngestState.CLOSED
    assert await site.tasks() == [
        *(("pipeline", f"pipeline:{group_id(number)}") for number in range(10)),
        ("mosaic", f"mosaic:{window.window_id}"),
        *(("photometry", f"photometry:{group_id(number)}") for number in range(10)),
        ("pipeline", f"pipeline:{group_id(4)}#2"),
    ]


@pytest.mark.parametrize("away", ["backend", "registry", "catalogue", "folder"])
async def test_an_outage_hinders_only_what_needs_it_and_ends(site: DaemonSite, away: str) -> None:
    site.write(0)
    await site.polls(60, 1)
    daemon = site.daemon
    assert daemon is not None
    hidden = site.root / "hidden"
    if away == "backend":
        daemon.backend = Failing(site.backend, BackendUnavailable("no answer"))  # type: ignore[assignment] # of every call
    elif away == "registry":
        error = RegistryAwayError("registry", "The registry is locked.")
        daemon.store = daemon.arrivals.store = Failing(site.tables, error)  # type: ignore[assignment] # of every call
    elif away == "catalogue":
        site.catalog.rename(hidden)
        daemon.find_catalog = missing_catalogue
    else:
        site.incoming.rename(hidden)
    report = await site.poll(60)
    expected = {
        "backend": {"groups: BackendUnavailable"},
        "registry": {
            f"{step}: RegistryAwayError"
            for step in ("files", "groups", "windows", "mosaics", "photometry")
        },
        "catalogue": {"groups: MissingInputError"},
        "folder": {"files: IncomingAwayError"},
    }[away]
    assert {outage.key for outage in report.outages} == expected
    if away == "folder":
        hidden.rename(site.incoming)
    site.daemon = None
    assert (await site.poll(60)).outages == ()
    await site.polls(60, 2)
    assert len(await site.tasks()) == 1


def missing_catalogue() -> Path:
    from absurd_contimg.errors import MissingInputError  # noqa: PLC0415 - beside its use

    raise MissingInputError("There is no sky catalogue.")


class Failing:
    """A port of which every call fails."""

    def __init__(self, _port: object, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> object:
        def call(*_arguments: object, **_options: object) -> object:
            raise self._error

        return call


async def test_two_daemons_at_once_do_no_harm(site: DaemonSite) -> None:
    """Both look at the same files at the same time, in threads."""
    daemons = [site.new_daemon() for _ in range(2)]
    for number in range(3):
        site.write(number, range(16 if number else 13))
        for _ in range(5):
            site.clock.elapsed += 80
            await asyncio.gather(*(daemon.poll() for daemon in daemons))
    assert [group.n_subbands for group in site.tables.groups()] == [13, 16, 16]
    assert [key for _, key in await site.tasks()] == [f"pipeline:{group_id(n)}" for n in range(3)]


async def test_a_daemon_that_is_killed_at_a_write_and_started_again_does_the_same(
    quick_folder: Path,
) -> None:
    """Before and after a write to registry or queue; `python -m daemon_crashes` tries each."""
    baseline = await run_script(quick_folder / "baseline", None)
    points = crash_points(baseline.effects)
    expected = await final_state(baseline.site)
    assert expected["windows"]
    assert expected["tasks"]
    for point in random.Random(16).sample(points, 3):
        crashed = await run_script(quick_folder / f"{point.number}-{point.when}", point)
        assert crashed.crashes == 1, point
        assert await final_state(crashed.site) == expected, point


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_whatever_the_order_of_arrival_groups_and_windows_are_the_same(seed: int) -> None:
    """Files of a night in any order, a poll and perhaps a restart after each few."""
    parent = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=parent, prefix="contimg-") as folder:
        asyncio.run(_arrive(Path(folder), seed))


async def _arrive(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    patient = ClosingRules(2, 2, group_wait_seconds=1e6, next_group_grace_seconds=1e6)
    site = DaemonSite(folder, closing=patient, rules=SCRIPT_RULES)
    await site.begin()
    files = [(number, subband) for number in range(6) for subband in range(2)]
    chance.shuffle(files)
    for number, subband in files:
        site.write(number, [subband], late_seconds=subband * chance.randrange(2))
        if chance.random() < 0.5:
            await site.poll(30)
        if chance.random() < 0.3:
            site.daemon = None
    await site.polls(30, 3)
    for number in chance.sample(range(6), 6):
        site.finish(number)
        await site.poll(30)
    await site.polls(1000, 3)
    assert [group.ingest_state for group in site.tables.groups()] == [IngestState.CLOSED] * 6
    current = [w for w in site.tables.windows() if w.state is not WindowState.SUPERSEDED]
    assert [members(window) for window in current] == [
        [group_id(n) for n in span] for span in ([0, 1, 2], [2, 3, 4], [4, 5])
    ]


async def lose_the_database(site: DaemonSite) -> None:
    """A new one, with an empty queue of the same name; another daemon, which knows nothing."""
    await asyncio.sleep(0.01)  # ids tell milliseconds
    site.backend = MemoryBackend(MemoryDatabase())
    await site.begin()
    site.daemon = None


async def test_groups_of_a_lost_queue_get_their_tasks_again(
    site: DaemonSite, caplog: pytest.LogCaptureFixture
) -> None:
    """Under the same keys; what has ended stays done. Nobody spawned them, and no check said so."""
    await groups_of_a_night(site, range(4))
    before = await site.tasks()
    site.finish(0)
    site.finish(1, GroupStatus.FAILED)
    await lose_the_database(site)
    await site.polls(100, 3)
    keys = [key for name, key in await site.tasks() if name == "pipeline"]
    assert keys == [key for name, key in before if name == "pipeline"][2:]
    assert caplog.text.count("it is spawned again") == 2
    task = await site.backend.get_task_result(QUEUE, UUID(site.group(3).task_id))
    assert task is not None


async def test_a_database_that_is_lost_while_the_daemon_runs(site: DaemonSite) -> None:
    await groups_of_a_night(site, range(2))
    assert len(await site.tasks()) == 2
    await site.backend.drop_queue(QUEUE)
    await asyncio.sleep(0.01)
    await site.begin()
    await site.polls(100, 2)
    assert len(await site.tasks()) == 2


async def test_tasks_that_retention_has_removed_are_not_spawned_again(site: DaemonSite) -> None:
    """Of a group that is done, and of one whose task was cancelled."""
    await groups_of_a_night(site, range(3))
    site.finish(0)
    for number in range(2):
        await site.backend.cancel_task(QUEUE, UUID(site.group(number).task_id))
    while await site.backend.cleanup_tasks(QUEUE, 0):
        pass
    left = await site.tasks()
    site.daemon = None
    await site.polls(100, 3)
    assert [task for task in await site.tasks() if task[0] == "pipeline"] == left


async def test_mosaics_of_a_lost_queue_are_spawned_again(site: DaemonSite) -> None:
    window = await closed_window(site)
    await lose_the_database(site)
    await site.polls(100, 2)
    assert await mosaics(site) == {f"mosaic:{window.window_id}": "pending"}
