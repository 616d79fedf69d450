"""Publication by real workers, and after a death at every moment of it."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from forked_crashes import fork
from toy_products import toy_product

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.config.publication import PublicationConfig
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.failures import PoisonStep
from absurd_contimg.core.records import History
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.tasks import TaskRegistry
from absurd_contimg.core.worker import Worker, WorkerSettings
from absurd_contimg.errors import BrokenProductError, DestinationAwayError
from absurd_contimg.owned_folders import MARK_NAME
from absurd_contimg.products import filesystem
from absurd_contimg.products.publication import StagedCopy, destination_of, publish_copy
from absurd_contimg.products.store import load_committed, verify
from absurd_contimg.registry import Registry
from absurd_contimg.registry.publications import Publications, PublicationState
from absurd_contimg.workflows.failure_rules import CLASSIFIER
from absurd_contimg.workflows.publication import (
    TASK_NAME,
    PublicationWorkflow,
    Publisher,
    published_event,
    spawn_options,
)
from absurd_contimg.workflows.unfinished_publications import reconcile_publications

QUEUE = "dsa110-pipeline"
ACCEPTED = {"checks": {"verdict": "accepted"}}
NOW = "2026-01-01T00:00:00+00:00"


class Site:
    """An output folder with one registered mosaic, a registry, and the publisher of a worker."""

    def __init__(self, root: Path, outputs: Mapping[str, Any] = ACCEPTED, **settings: Any) -> None:
        self.paths = PathsConfig.below(root)
        self.paths.published.mkdir(parents=True, exist_ok=True)
        self.config = PipelineConfig(paths=self.paths, publication=PublicationConfig(**settings))
        location = self.paths.output_dir / "mosaics"
        self.product = next(location.glob("*"), None) or toy_product(
            self.paths.output_dir, outputs=outputs
        )
        self.manifest = load_committed(self.product)
        self.key = self.manifest.key
        self.destination = destination_of(self.manifest, self.paths.published)
        self.registry = Registry(root / "registry.sqlite3", output_dir=self.paths.output_dir)
        self.registry.register(self.product, self.manifest)
        self.publications = Publications(self.registry.database)
        self.publisher = Publisher(self.config, self.publications, now=lambda: NOW)

    def publish(self) -> Mapping[str, Any]:
        """As the step does, without a task."""
        return self.publisher.publish_now(self.product)

    def state(self) -> dict[str, Any]:
        """Everything that must be the same however often it was killed; checks the copy."""
        verify(self.destination, load_committed(self.destination), deep=True)
        published = self.paths.published
        return {
            "files": sorted(str(path.relative_to(published)) for path in published.rglob("*")),
            "rows": self.publications.all(),
        }


def test_death_after_publishing_is_committed(tmp_path: Path) -> None:
    """Crash hole (a): the row said "publishing", every later call returned, nothing reset it."""
    site = Site(tmp_path)
    site.publications.begin(site.key, "mosaic", site.product, site.destination)
    site.publications.start_attempt(site.key)
    assert site.publish()["published"]
    assert site.publications.all()[0].state is PublicationState.PUBLISHED
    assert site.state()


def test_death_after_the_rename(tmp_path: Path) -> None:
    """Crash hole (b): the product was moved, and no row knew where it was."""
    site = Site(tmp_path)
    site.publications.begin(site.key, "mosaic", site.product, site.destination)
    site.publications.start_attempt(site.key)
    publish_copy(site.product, site.paths.published)
    row = site.publications.find(site.key)
    assert row is not None
    assert (row.source, row.destination) == (site.product, site.destination)
    before = os.stat(site.destination / "image.fits").st_ino
    assert site.publish()["published"]
    assert os.stat(site.destination / "image.fits").st_ino == before, "copied a second time"
    assert site.publications.all()[0].state is PublicationState.PUBLISHED


def test_destination_exists(tmp_path: Path) -> None:
    """Crash hole (c): a timestamp was appended to the name, and each retry left one copy more."""
    site = Site(tmp_path)
    for _ in range(3):
        assert site.publish()["published"]
    assert [path.name for path in site.destination.parent.iterdir()] == [site.destination.name]


def test_killed_before_each_effect(tmp_path: Path) -> None:
    """Every change of files and registry: the next attempt ends like one that was not killed."""
    Site(tmp_path / "template").registry.close()
    baseline = Site(copytree(tmp_path / "template", tmp_path / "baseline"))
    assert not any(path.is_file() for path in baseline.paths.published.rglob("*"))
    code, effects = fork(tmp_path / "baseline", lambda: baseline.publish() and None)
    assert code == 0
    assert len(effects) > 15
    expected = [row.state for row in baseline.publications.all()]
    files = baseline.state()["files"]
    for number in range(len(effects)):
        site = Site(copytree(tmp_path / "template", tmp_path / str(number)))
        code, _ = fork(tmp_path / str(number), lambda site=site: site.publish() and None, number)
        assert os.WTERMSIG(code) == signal.SIGKILL, f"not killed before {effects[number]}"
        if site.destination.exists():
            verify(site.destination, load_committed(site.destination), deep=True)
        assert site.publish()["published"]
        state = site.state()
        assert state["files"] == files, f"killed before {effects[number]}"
        assert [row.state for row in state["rows"]] == expected
        assert [row.published_at for row in state["rows"]] == [NOW]
        assert [row.attempts for row in state["rows"]] == [0], "a death cost an attempt"


def test_a_publication_that_was_lost_is_made_again(tmp_path: Path) -> None:
    """The row says published, and the disk of the copies was replaced."""
    site = Site(tmp_path)
    site.publish()
    moved = site.destination.rename(tmp_path / "lost")
    assert site.publish()["published"]
    verify(site.destination, load_committed(site.destination), deep=True)
    assert moved.is_dir()


def test_a_damaged_copy_fails_until_it_is_moved_away(tmp_path: Path) -> None:
    """The advice of contimg registry check."""
    site = Site(tmp_path)
    site.publish()
    image = site.destination / "image.fits"
    image.write_bytes(bytes(byte ^ 1 for byte in image.read_bytes()))
    with pytest.raises(BrokenProductError, match="other content"):
        site.publish()
    assert site.publications.all()[0].state is PublicationState.FAILED
    site.destination.rename(tmp_path / "damaged")
    assert site.publish()["published"]
    verify(site.destination, load_committed(site.destination), deep=True)


@pytest.mark.parametrize(
    ("outputs", "degraded", "published", "reason"),
    [
        (ACCEPTED, False, True, None),
        ({"checks": {"verdict": "clean"}}, False, True, None),
        ({"checks": {"verdict": "clean", "n_expected": 0}}, False, False, "not checked"),
        ({"checks": {"verdict": "accepted", "n_compared": 0}}, False, False, "not checked"),
        ({"checks": {"verdict": "degraded"}}, False, False, "degraded"),
        ({"checks": {"verdict": "degraded"}}, True, True, None),
        ({"checks": {"path": "mosaic.fits"}}, True, False, "not measured"),
        ({"checks": {"verdict": None}}, True, False, "not measured"),
        ({"checks": {"verdict": "rejected"}}, True, False, "rejected"),
    ],
)
def test_nothing_is_published_without_measured_quality(
    tmp_path: Path, outputs: Any, degraded: bool, published: bool, reason: str | None
) -> None:
    """A degraded product only by setting; one that was not checked never."""
    site = Site(tmp_path, outputs, degraded=degraded)
    result = site.publish()
    assert result["published"] is published
    assert site.destination.exists() is published
    (row,) = site.publications.all()
    assert (row.state is PublicationState.FAILED) is not published
    assert row.reason == result["reason"]
    assert (reason or "") in str(row.reason)


@asynccontextmanager
async def working(backend: Backend, site: Site, **handlers: Callable[..., Awaitable[Any]]) -> Any:
    """A worker that knows publication tasks, and others by their name."""
    tasks = TaskRegistry()
    workflow = PublicationWorkflow(site.publisher)
    tasks.add(TASK_NAME, workflow)
    for name, handler in handlers.items():
        tasks.add(name, handler)
    policy = RetryPolicy(backoff_first_seconds=0.0, resource_wait_seconds=0.0)
    settings = WorkerSettings(QUEUE, "worker", 3, poll_interval_seconds=0.02, grace_seconds=0.0)
    worker = Worker(backend, tasks, settings, CLASSIFIER, policy, on_failure=workflow.note_failure)
    running = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(30):
            yield
    finally:
        worker.stop()
        await running


async def spawn(backend: Backend, site: Site) -> Any:
    return await backend.spawn_task(
        QUEUE, TASK_NAME, {"product_key": site.key}, spawn_options(site.key)
    )


async def ended(backend: Backend, task_id: Any) -> History:
    while True:
        history = await backend.history(QUEUE, task_id)
        assert history is not None
        if history.task.state in ("completed", "failed", "cancelled"):
            return history
        await asyncio.sleep(0.01)


async def test_a_waiter_is_woken_once(backend: Backend, tmp_path: Path) -> None:
    """A waiter before and one after the publication; the second publication wakes nobody."""
    site = Site(tmp_path)
    woken: list[str] = []

    async def wait(params: Any, ctx: Any) -> Any:
        payload = await ctx.await_event(published_event("window"), timeout=60)
        woken.append(params["name"])
        return payload

    async with working(backend, site, waiter=wait):
        early = await backend.spawn_task(QUEUE, "waiter", {"name": "early"})
        first = await spawn(backend, site)
        again = await spawn(backend, site)
        assert (first.task_id, again.created) == (again.task_id, False)
        assert (await ended(backend, first.task_id)).task.state == "completed"
        payload = (await ended(backend, early.task_id)).task.completed_payload
        repeated = await backend.spawn_task(QUEUE, TASK_NAME, {"product_key": site.key})
        assert (await ended(backend, repeated.task_id)).task.state == "completed"
        late = await backend.spawn_task(QUEUE, "waiter", {"name": "late"})
        assert (await ended(backend, late.task_id)).task.completed_payload == payload
    assert payload == {"product_key": site.key, "destination": str(site.destination)}
    assert woken == ["early", "late"]
    assert len(list(site.destination.parent.iterdir())) == 1


async def test_a_full_destination_is_waited_for(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long: it costs no attempt."""
    site, copies = Site(tmp_path), []
    copy_file = filesystem._LocalFileSystem.copy_file

    def full_at_first(self: Any, source: Path, target: Path) -> None:
        copies.append(source)
        if len(copies) <= 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy_file(self, source, target)

    monkeypatch.setattr(filesystem._LocalFileSystem, "copy_file", full_at_first)
    async with working(backend, site):
        history = await ended(backend, (await spawn(backend, site)).task_id)
    assert history.task.state == "completed"
    assert site.publications.all()[0].attempts == 0


async def test_a_copy_that_fails_is_tried_three_times(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the row has the reason, and the task fails for good."""
    site = Site(tmp_path)
    monkeypatch.setattr(filesystem._LocalFileSystem, "copy_file", lambda _, __, to: to.touch())
    async with working(backend, site):
        history = await ended(backend, (await spawn(backend, site)).task_id)
    assert history.task.state == "failed"
    reason: Any = history.runs[-1].failure_reason
    assert reason["rule"] == "publication-failed"
    (row,) = site.publications.all()
    assert (row.state, row.attempts) == (PublicationState.FAILED, 3)
    assert "differs from its source" in str(row.reason)


async def test_something_else_in_the_place_fails_at_once(backend: Backend, tmp_path: Path) -> None:
    """Nothing is overwritten, and a retry gives the same."""
    site = Site(tmp_path)
    site.destination.mkdir(parents=True)
    (site.destination / "notes").touch()
    async with working(backend, site):
        history = await ended(backend, (await spawn(backend, site)).task_id)
    assert (history.task.state, len(history.runs)) == ("failed", 1)
    (row,) = site.publications.all()
    assert row.state is PublicationState.FAILED
    assert str(site.destination) in str(row.reason)


async def test_a_publication_that_kills_its_workers_is_shown_as_failed(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody caught anything: the row says "publishing" until the task is given up."""
    site = Site(tmp_path)
    spawned = await spawn(backend, site)
    site.publications.begin(site.key, "mosaic", site.product, site.destination)
    site.publications.start_attempt(site.key)

    async def poison(_self: Any, _params: Any, _ctx: Any) -> Any:
        raise PoisonStep("it has ended three workers")

    monkeypatch.setattr(PublicationWorkflow, "__call__", poison)
    async with working(backend, site):
        assert (await ended(backend, spawned.task_id)).task.state == "failed"
    (row,) = site.publications.all()
    assert (row.state, row.reason) == (PublicationState.FAILED, "it has ended three workers")


@pytest.mark.parametrize("is_copied", [True, False], ids=["copied", "not copied"])
async def test_the_publication_of_a_cancelled_task_ends(
    backend: Backend, tmp_path: Path, is_copied: bool
) -> None:
    """Not before: while the task lives, and while a cancelled process still copies, it stays."""
    site = Site(tmp_path)
    task = await spawn(backend, site)
    site.publications.begin(site.key, "mosaic", site.product, site.destination)
    site.publications.start_attempt(site.key)
    if is_copied:
        publish_copy(site.product, site.paths.published)

    async def reconciled() -> Any:
        await reconcile_publications(site.publisher, backend, [QUEUE])
        (row,) = site.publications.all()
        return row

    assert (await reconciled()).state is PublicationState.PUBLISHING
    await backend.cancel_task(QUEUE, task.task_id)
    with closing(StagedCopy(site.product, site.paths.published)) as copying:
        copying.look()
        assert (await reconciled()).state is PublicationState.PUBLISHING
    away = site.paths.published.rename(tmp_path / "away")
    assert (await reconciled()).state is PublicationState.PUBLISHING
    away.rename(site.paths.published)
    row = await reconciled()
    waiter = await backend.spawn_task(QUEUE, "waiter", {})
    (claimed,) = await backend.claim_task(QUEUE, "worker")
    event = await backend.await_event(
        QUEUE, waiter.task_id, claimed.run_id, "wait", published_event("window"), timeout=60
    )
    if is_copied:
        assert (row.state, row.published_at) == (PublicationState.PUBLISHED, NOW)
        assert event.payload == {"product_key": site.key, "destination": str(site.destination)}
    else:
        assert row.state is PublicationState.FAILED
        assert "cancelled" in str(row.reason)
        assert event.should_suspend


def test_a_mount_point_without_its_disk_is_not_filled(tmp_path: Path) -> None:
    """The folder is there, and empty: its mark and all its copies went away with the disk."""
    site = Site(tmp_path)
    assert site.publish()["published"]
    published, away = site.paths.published, tmp_path / "away"
    published.rename(away)
    published.mkdir()
    other = toy_product(site.paths.output_dir, number=2, outputs=ACCEPTED)
    site.registry.register(other, load_committed(other))
    for product in (other, site.product):
        with pytest.raises(DestinationAwayError, match=r"disk seems to be away.*accept-folder"):
            site.publisher.publish_now(product)
    assert not any(published.iterdir())
    row = site.publications.find(load_committed(other).key)
    assert row is not None
    assert (row.state, row.attempts) == (PublicationState.STAGING, 0)
    published.rmdir()
    away.rename(published)
    assert site.publisher.publish_now(other)["published"]


async def test_a_mount_point_without_its_disk_fails_no_publication(
    backend: Backend, tmp_path: Path
) -> None:
    """Whose task has ended: the copy may be there when the disk is back."""
    site = Site(tmp_path)
    assert site.publish()["published"]
    other = toy_product(site.paths.output_dir, number=2, outputs=ACCEPTED)
    key = load_committed(other).key
    site.publications.begin(key, "mosaic", other, site.paths.published / "mosaics" / other.name)
    site.publications.start_attempt(key)
    site.paths.published.rename(tmp_path / "away")
    site.paths.published.mkdir()
    await reconcile_publications(site.publisher, backend, [QUEUE])
    row = site.publications.find(key)
    assert row is not None
    assert row.state is PublicationState.PUBLISHING


def test_a_folder_of_an_earlier_version_gets_its_mark(tmp_path: Path) -> None:
    """Its copies are there, so it is the folder; and one that is a link is, too."""
    site = Site(tmp_path)
    assert site.publish()["published"]
    mark = site.paths.published / MARK_NAME
    mark.unlink()
    site.paths.published.rename(tmp_path / "elsewhere")
    site.paths.published.symlink_to(tmp_path / "elsewhere")
    other = toy_product(site.paths.output_dir, number=2, outputs=ACCEPTED)
    site.registry.register(other, load_committed(other))
    assert site.publisher.publish_now(other)["published"]
    assert mark.is_file()


async def test_a_mosaic_task_that_lives_keeps_its_publication(
    backend: Backend, tmp_path: Path
) -> None:
    """Its parameters name the window, not the product; another window's task does not count."""
    site = Site(tmp_path)
    site.publications.begin(site.key, "mosaic", site.product, site.destination)
    await backend.spawn_task(QUEUE, "mosaic", {"window_id": "other"})
    task = await backend.spawn_task(QUEUE, "mosaic", {"window_id": "window"})
    await reconcile_publications(site.publisher, backend, [QUEUE])
    assert [row.state for row in site.publications.all()] == [PublicationState.STAGING]
    await backend.cancel_task(QUEUE, task.task_id)
    await reconcile_publications(site.publisher, backend, [QUEUE])
    assert [row.state for row in site.publications.all()] == [PublicationState.FAILED]


async def test_what_cannot_be_published_fails_by_name(backend: Backend, tmp_path: Path) -> None:
    """A degraded mosaic, an unknown key, no key."""
    site = Site(tmp_path, {"checks": {"verdict": "degraded"}})
    async with working(backend, site):
        tasks = [
            await backend.spawn_task(QUEUE, TASK_NAME, params)
            for params in ({"product_key": site.key}, {"product_key": "other"}, {})
        ]
        reasons: list[Any] = [
            (await ended(backend, task.task_id)).runs[-1].failure_reason for task in tasks
        ]
    assert [reason["kind"] for reason in reasons] == ["permanent"] * 3
    texts = [reason["message"] for reason in reasons]
    for text, words in zip(texts, ("degraded", "no product other", "no product_key"), strict=True):
        assert words in text


async def test_a_product_elsewhere_is_refused(backend: Backend, tmp_path: Path) -> None:
    """A role that may write checkpoints could have any folder copied where others read it."""
    site = Site(tmp_path / "site")
    elsewhere = toy_product(tmp_path / "elsewhere", outputs=ACCEPTED)

    async def publish(_params: Any, ctx: Any) -> Any:
        return await site.publisher.publish(ctx, elsewhere)

    async with working(backend, site, direct=publish):
        history = await ended(backend, (await backend.spawn_task(QUEUE, "direct", {})).task_id)
    reason: Any = history.runs[-1].failure_reason
    assert (reason["kind"], list(site.paths.published.iterdir())) == ("permanent", [])
    assert str(elsewhere) in reason["message"]
