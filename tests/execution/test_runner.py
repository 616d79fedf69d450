"""One attempt of a stage, from requirements to a registered product, disturbed at any point."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_stages import Ask, Liar, Make, Refine

from absurd_contimg.config import ExecutionConfig, PathsConfig, PipelineConfig
from absurd_contimg.core.records import Json
from absurd_contimg.errors import BrokenProductError, MissingInputError, SettingError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import (
    IsolatedStageExecutor,
    StageFailed,
    StageTimeout,
    no_environment,
)
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.owned_folders import MARK_NAME
from absurd_contimg.products.manifest import Manifest
from absurd_contimg.products.store import find_committed, product_folders
from absurd_contimg.registry import Registry
from absurd_contimg.registry.models import Product


class Here:
    """A runner with everything it needs below one folder."""

    def __init__(self, root: Path, owner: str = "here", deadline: float = 60.0) -> None:
        execution = ExecutionConfig(deadline_seconds=deadline)
        self.config = PipelineConfig(paths=PathsConfig.below(root), execution=execution)
        self.paths = self.config.paths
        prepare_folders(self.paths)
        self.registry = Registry(root / "registry.sqlite3")
        self.owner = ScratchOwner(self.paths.scratch_dir, owner).acquire()
        self.runner = StageRunner(
            self.config, IsolatedStageExecutor(no_environment), self.registry, self.owner
        )
        self.source = root / "source"
        self.source.write_bytes(b"data")

    def context(self, do: str = "work", **inputs: Json) -> PipelineContext:
        given = {"group_id": "G", "source": str(self.source), "do": do, **inputs}
        return PipelineContext(self.config, given)

    def products(self) -> list[Path]:
        return list(product_folders(self.paths.output_dir))

    def scratch_is_empty(self) -> bool:
        return [path.name for path in self.owner.folder.iterdir()] == [MARK_NAME]

    async def until_running(self, attempt: str = "1") -> None:
        """Waits until the stage's process says that it is in the middle of its work."""
        marker = self.paths.state_dir / "logs" / "G" / f"make-{attempt}.casa.pids"
        while not marker.exists():
            await asyncio.sleep(0.01)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    made = Here(tmp_path)
    yield made
    made.owner.release()


async def test_an_input_that_is_replaced_while_it_is_read_makes_no_product(here: Here) -> None:
    """The manifest would name the digest of one file and the product hold another's data."""
    run = asyncio.create_task(here.runner.run(Make(), here.context(seconds=2.0), attempt="1"))
    while not list(here.owner.folder.rglob("rubbish")):  # it has read its input
        await asyncio.sleep(0.01)
    other = here.source.with_name("other")
    other.write_bytes(b"Data")
    other.replace(here.source)
    with pytest.raises(StageFailed, match="was replaced or changed while it was read"):
        await run
    assert here.products() == []
    result = await here.runner.run(Make(), here.context(), attempt="2")
    assert result.product is not None
    assert (result.product / "whole").read_bytes() == b"Data"


async def test_product_is_committed_and_registered(here: Here) -> None:
    """The whole way once."""
    result = await here.runner.run(Make(), here.context(), attempt="1")
    assert result.product is not None
    assert result.outputs == {"made": str(result.product / "whole")}
    assert not result.adopted
    assert here.products() == [result.product]
    assert [row["folder"] for row in here.registry.rows(Product)] == [str(result.product)]
    assert here.scratch_is_empty()
    assert result.output_log.exists()


@pytest.mark.parametrize(
    "change", [{"stage": "image"}, {"stage_version": 99}, {"group_id": "other"}], ids=str
)
async def test_product_of_another_name_is_not_adopted(here: Here, change: dict[str, Any]) -> None:
    """Its key says what it is, whatever somebody has written into the manifest."""
    result = await here.runner.run(Make(), here.context(), attempt="1")
    assert result.product is not None
    manifest = result.product / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    with pytest.raises((StageFailed, BrokenProductError), match=r"its key says 'make'"):
        await here.runner.run(Make(), here.context(), attempt="2")


async def test_missing_requirement_is_named_before_anything_starts(here: Here) -> None:
    context = PipelineContext(here.config, {"group_id": "G"})
    with pytest.raises(MissingInputError, match="source"):
        await here.runner.run(Make(), context, attempt="1")


@pytest.mark.parametrize("do", ["raise", "segfault", "spoil", "leave with 0", "fail twice"])
async def test_failure_leaves_no_product_and_keeps_the_logs(here: Here, do: str) -> None:
    """However it fails: nothing in place, nothing in scratch, the output still to be read."""
    with pytest.raises(StageFailed) as caught:
        await here.runner.run(Make(), here.context(do), attempt="1")
    assert here.products() == []
    assert here.scratch_is_empty()
    assert caught.value.request.output_log.exists()
    assert caught.value.request.stage_name == "make"


async def test_failed_stage_is_cleaned_up_after(here: Here, tmp_path: Path) -> None:
    """Cleanup is for failures only."""
    mark = tmp_path / "mark"
    await here.runner.run(Make(), here.context(cleanup_mark=str(mark)), attempt="1")
    assert not mark.exists()
    context = here.context("raise", factor=2, cleanup_mark=str(mark))
    with pytest.raises(StageFailed):
        await here.runner.run(Make(), context, attempt="2")
    assert mark.exists()


async def test_stage_that_provides_other_names_is_refused(here: Here) -> None:
    """What a stage says it provides is what the next ones rely on."""
    with pytest.raises(StageFailed, match=r"provides \['made'\] but returned \['something'\]"):
        await here.runner.run(Liar(), here.context(), attempt="1")
    assert here.products() == []


async def test_stage_that_writes_into_a_committed_product_is_caught(here: Here) -> None:
    """CASA writes into what it reads; a committed product must not change, not even its times."""
    made = await here.runner.run(Make(), here.context(), attempt="1")
    context = here.context("write into input").with_outputs(made.outputs)
    with pytest.raises(StageFailed, match=r"has changed the committed product .*whole"):
        await here.runner.run(Refine(), context, attempt="1")
    assert here.products() == [made.product]


async def test_bad_input_fails_before_any_work(here: Here) -> None:
    """Validation comes first, and its own error arrives as evidence."""
    here.source.write_bytes(b"")
    with pytest.raises(StageFailed, match="is empty") as caught:
        await here.runner.run(Make(), here.context(), attempt="1")
    names = caught.value.evidence.exceptions[0].type_names
    assert "absurd_contimg.errors.InputError" in names


async def test_deadline_of_the_configuration_holds(tmp_path: Path) -> None:
    """A hung stage ends, and nothing of it remains."""
    here = Here(tmp_path, deadline=0.6)
    with pytest.raises(StageTimeout, match=r"deadline of 0\.6 s"):
        await here.runner.run(Make(), here.context("hang"), attempt="1")
    assert here.products() == []
    assert here.scratch_is_empty()


async def test_fence_that_raises_stops_publication(here: Here) -> None:
    """A worker that has lost its lease publishes and registers nothing."""

    class LeaseLost(BaseException):
        pass

    async def fence() -> None:
        assert here.products() == []
        raise LeaseLost

    with pytest.raises(LeaseLost):
        await here.runner.run(Make(), here.context(), attempt="1", fence=fence)
    assert here.products() == []
    assert here.registry.rows(Product) == []
    assert here.scratch_is_empty()


async def test_cancellation_leaves_nothing(here: Here) -> None:
    """When the cancelled call returns the stage is dead and scratch is empty."""
    task = asyncio.create_task(here.runner.run(Make(), here.context("hang"), attempt="1"))
    await here.until_running()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert here.products() == []
    assert here.scratch_is_empty()


async def test_cancellation_at_any_time_leaves_all_or_nothing(here: Here) -> None:
    """Cancelled a little later each time, from the first moment until it runs through."""
    loop = asyncio.get_running_loop()
    for number in range(12):
        context = here.context(factor=number + 2)
        task = asyncio.create_task(here.runner.run(Make(), context, attempt=str(number)))
        loop.call_later(0.03 * number, task.cancel)
        await asyncio.wait([task])
        assert here.scratch_is_empty()
    for row in here.registry.rows(Product):
        assert find_committed(Path(row["folder"]), row["key"], deep=True)
    assert len(here.products()) == len(here.registry.rows(Product))


async def test_cancellation_during_publication_leaves_the_whole_product(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename runs in a thread that cannot be cancelled: scratch waits for it."""
    register = here.registry.register
    loop = asyncio.get_running_loop()

    def cancelled_meanwhile(folder: Path, manifest: Manifest) -> None:
        loop.call_soon_threadsafe(task.cancel)
        loop.call_soon_threadsafe(task.cancel)
        register(folder, manifest)

    monkeypatch.setattr(here.registry, "register", cancelled_meanwhile)
    task = asyncio.create_task(here.runner.run(Make(), here.context(), attempt="1"))
    with pytest.raises(asyncio.CancelledError):
        await task
    (folder,) = here.products()
    assert find_committed(folder, here.registry.rows(Product)[0]["key"], deep=True)
    assert here.scratch_is_empty()


async def test_committed_but_unregistered_product_is_found_and_registered(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gap between commit and registration closes with the next run."""

    def database_is_gone(folder: Path, manifest: Manifest) -> None:
        raise ConnectionResetError("the database went away")

    with monkeypatch.context() as patched:
        patched.setattr(here.registry, "register", database_is_gone)
        with pytest.raises(ConnectionResetError):
            await here.runner.run(Make(), here.context(), attempt="1")
    assert here.registry.rows(Product) == []
    again = await here.runner.run(Make(), here.context("segfault"), attempt="2")
    assert again.adopted
    assert [row["attempt"] for row in here.registry.rows(Product)] == ["1"]


async def test_two_workers_in_one_stage_make_one_product(tmp_path: Path) -> None:
    """Both succeed with the same outputs; one of them adopts the other's product."""
    both = [Here(tmp_path, name) for name in ("one", "two")]
    results = await asyncio.gather(
        *(
            item.runner.run(Make(), item.context(seconds=0.3), attempt=item.owner.name)
            for item in both
        )
    )
    assert sorted(result.adopted for result in results) == [False, True]
    assert results[0].outputs == results[1].outputs
    assert len(both[0].products()) == 1
    assert all(item.scratch_is_empty() for item in both)


async def test_stage_in_process_has_no_product(here: Here) -> None:
    """A stage that only asks the registry costs no process."""
    result = await here.runner.run(Ask(), here.context().with_outputs({"made": "x"}), attempt="1")
    assert result.outputs == {"answer": str(os.getpid())}
    assert result.product is None
    assert here.scratch_is_empty()


@pytest.mark.parametrize("group_id", ["../G", "a/b", ".."])
async def test_group_that_would_leave_the_folders_is_refused(here: Here, group_id: str) -> None:
    """A group id comes from outside and becomes part of paths."""
    with pytest.raises(SettingError):
        await here.runner.run(Make(), here.context(group_id=group_id), attempt="1")


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """At the start of a worker, not in the middle of the night."""
    (tmp_path / "products").write_text("a file")
    with pytest.raises(SettingError, match=r"output_dir .*products cannot be written"):
        prepare_folders(PathsConfig.below(tmp_path))
    paths = PathsConfig.below(tmp_path / "good").model_dump()
    no_scratch = PathsConfig(**{**paths, "scratch_dir": Path("/proc/scratch")})
    with pytest.raises(SettingError, match="scratch_dir /proc/scratch"):
        prepare_folders(no_scratch)


def test_scratch_on_another_file_system_is_refused(tmp_path: Path) -> None:
    """A rename across file systems would not be atomic."""
    shm = Path("/dev/shm")
    assert shm.stat().st_dev != tmp_path.stat().st_dev, "use another --basetemp"
    paths = PathsConfig.below(tmp_path).model_dump()
    with pytest.raises(SettingError, match="different file systems"):
        prepare_folders(PathsConfig(**{**paths, "scratch_dir": shm}))


def test_folder_of_products_on_another_file_system_is_refused(tmp_path: Path) -> None:
    """Before the first stage, and not when the image of a night is to be published."""
    paths = PathsConfig.below(tmp_path)
    paths.output_dir.mkdir(parents=True)
    (paths.output_dir / "images").symlink_to("/dev/shm")
    with pytest.raises(SettingError, match="images is a link to another file system, /dev/shm"):
        prepare_folders(paths)


def test_stage_in_process_cannot_have_a_product(here: Here) -> None:
    """The two exclude each other: a product needs a stage process."""

    class Both(Make):
        isolated = False

    stage: PipelineStage = Both()
    with pytest.raises(ValueError, match="must be isolated"):
        asyncio.run(here.runner.run(stage, here.context(), attempt="1"))
