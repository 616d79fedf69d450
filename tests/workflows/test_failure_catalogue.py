"""Every rule of the failure table, met by a failure that really happens.

`PRODUCED` names for each rule a function that makes something fail (the operating system, Python,
SQLite, Postgres, casacore, CASA, pyuvdata or a stage's own check) and gives the evidence as
production takes it: from a stage's process through its executor, from the exception, or from the
history. What cannot be produced here says so in its rule (`not_produced`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from search_extent import is_search

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.config import ImagingConfig, PathsConfig, PipelineConfig
from absurd_contimg.config.publication import PublicationConfig
from absurd_contimg.core import lease as lease_module
from absurd_contimg.core.evidence import Evidence
from absurd_contimg.core.failures import UNRECOGNISED, FailureKind
from absurd_contimg.core.refusals import Refusal
from absurd_contimg.core.row_values import read_json, require_readable
from absurd_contimg.core.run_session import RunSession
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import (
    IsolatedStageExecutor,
    StageFailed,
    StageRequest,
    no_environment,
)
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.execution.stage import Workspace
from absurd_contimg.history.stage_tasks import COORDINATOR
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.products.mosaic_outputs import MissingMember, MosaicMembers
from absurd_contimg.products.outputs import FlaggedMeasurementSet, FlagOutputs, to_json
from absurd_contimg.products.publication import publish_copy
from absurd_contimg.registry import Registry
from absurd_contimg.registry import database as registry_database
from absurd_contimg.registry.publications import Publications
from absurd_contimg.science.catalogue import write_catalogue
from absurd_contimg.science.imagers import check_imager
from absurd_contimg.science.raw_file import read_raw_header
from absurd_contimg.science.tile_selection import select_tiles
from absurd_contimg.stages.catalog_setup import CatalogSetupStage
from absurd_contimg.stages.convert import ConvertStage
from absurd_contimg.stages.select_calibration import SelectCalibrationStage
from absurd_contimg.synthesis import SynthesisResult
from absurd_contimg.workflows import stage_tasks
from absurd_contimg.workflows.failure_rules import CLASSIFIER
from absurd_contimg.workflows.publication import Publisher
from absurd_contimg.workflows.task_paths import files_here
from absurd_contimg.workflows.transits import TransitFinder, TransitSearch
from absurd_contimg.workflows.versions import VersionedWorkflow

sys.path.append(str(Path(__file__).parent))
from failing_stages import Fail, fill_disk, limited
from group_stages import Site
from small_disk import make_read_only, mounted
from toy_products import toy_product
from toy_stages import Make

HERE = Path(__file__).parent
QUEUE = "dsa110-pipeline"


@dataclass
class Ground:
    """What failures stand on: folders, a small observation, a full disk, a database."""

    root: Path
    tiny: SynthesisResult
    new_database: Callable[[], str]

    def folder(self) -> Path:
        """A new one."""
        folder = self.root / str(len(list(self.root.iterdir())))
        folder.mkdir()
        return folder

    @cached_property
    def observation(self) -> PipelineContext:
        """The calibrator's group, converted to a Measurement Set."""
        root = self.folder()
        context = PipelineContext(
            PipelineConfig.tiny(PathsConfig.below(root)),
            {
                "group_id": self.tiny.groups[0].group_id,
                "input_files": [str(file) for file in self.tiny.groups[0].files],
                "catalog_path": str(self.tiny.catalog),
                "calibrator": "auto",
            },
        )
        for stage in (CatalogSetupStage(), ConvertStage()):
            folder = context.config.paths.output_dir / stage.name
            workspace = Workspace(folder, root / "tmp", root / "casa.log", folder)
            workspace.product.mkdir(parents=True)
            workspace.temporary.mkdir(exist_ok=True)
            context = context.with_outputs(to_json(stage.execute(context, workspace)))
        return context

    @cached_property
    def ms(self) -> Path:
        described: Any = self.observation.outputs["measurement_set"]
        return Path(described["path"])

    def table(self) -> Path:
        """A table of casacore."""
        return Path(shutil.copytree(self.ms / "ANTENNA", self.folder() / "table"))

    @cached_property
    def casa(self) -> Mapping[str, Any]:
        """The evidence of all that fails in the one CASA process."""
        root = self.folder()
        request = {
            "context": self.observation.to_json(),
            "config": self.observation.config.model_dump(mode="json"),
            "ms": str(self.ms),
        }
        (root / "request.json").write_text(json.dumps(request))
        environment = casa_environment(root / "casa", root / "casa.log")
        locked = self.table()
        with mounted(root / "disk", 1) as disk, locked_elsewhere(locked):
            fill_disk(disk)
            done = subprocess.run(
                [sys.executable, str(HERE / "casa_failures.py"), str(root), str(disk), str(locked)],
                env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
                cwd=root,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        evidence: dict[str, Any] = json.loads((root / "evidence.json").read_text())
        return evidence


@pytest.fixture(scope="module")
def ground(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: SynthesisResult,
    new_database: Callable[[], str],
) -> Ground:
    return Ground(tmp_path_factory.mktemp("ground"), tiny, new_database)


@contextlib.contextmanager
def locked_elsewhere(path: Path) -> Iterator[None]:
    """Another process holds the table's lock."""
    code = (
        "import sys; from casacore.tables import table; "
        f"held = table({str(path)!r}, readonly=False, ack=False, lockoptions='permanent'); "
        "print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as holder:  # type: ignore[call-overload]
        assert holder.stdout.readline() == b"held\n"
        yield
        holder.stdin.close()


# -- how failures are made -------------------------------------------------------------------


def of_stage(
    ground: Ground,
    do: str,
    *,
    stage: type = Fail,
    root: Path | None = None,
    source: Path | None = None,
    deadline: float = 60.0,
    environment: Callable[[Path, Path], Mapping[str, str]] = no_environment,
) -> Evidence:
    """A stage's process fails; its executor tells how."""
    root = ground.folder() if root is None else root
    logs = ground.folder()
    if source is None:
        source = root / "source"
        source.write_bytes(b"data" if do != "nothing there" else b"")
    scratch = root / "scratch"
    scratch.mkdir()
    config = PipelineConfig(paths=PathsConfig.below(root))
    request = StageRequest(
        stage=f"{stage.__module__}:{stage.__name__}",
        stage_name="fail",
        context=PipelineContext(config, {"group_id": "G", "source": str(source), "do": do}),
        attempt="1",
        scratch=scratch,
        casa_log=logs / "casa.log",
        output_log=logs / "out.log",
        deadline_seconds=deadline,
    )
    with pytest.raises(StageFailed) as caught:
        asyncio.run(IsolatedStageExecutor(environment).execute(request))
    return Evidence.of(caught.value)


def of_stray_file(ground: Ground) -> Evidence:
    """An input lies among the products, and is none."""
    root = ground.folder()
    stray = PathsConfig.below(root).output_dir / "stray"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"data")
    return of_stage(ground, "make", stage=Make, root=root, source=stray)


def of_folder_that_is_away(ground: Ground) -> Evidence:
    """The output folder is renamed while the product of an earlier stage is needed."""
    stage, root = SelectCalibrationStage(Registry(ground.folder() / "r.sqlite3")), ground.folder()
    config = PipelineConfig(paths=PathsConfig.below(root))
    prepare_folders(config.paths)
    flagged = FlaggedMeasurementSet(
        *(root / "flagged.ms", root / "centres.json", 100, 48, 244e3, 20),
        *(61065.899, 61065.901, 61065.9, 10.0, 16.2, 16.1),
    )
    context = PipelineContext(config, {"group_id": "G"}, to_json(FlagOutputs(flagged)))
    config.paths.output_dir.rename(root / "elsewhere")
    with ScratchOwner(config.paths.scratch_dir, "w") as scratch:
        runner = StageRunner(config, IsolatedStageExecutor(no_environment), None, scratch)
        with pytest.raises(Exception) as caught:  # noqa: PT011 - which one it is decides the test
            asyncio.run(runner.run(stage, context, attempt="1"))
    return Evidence.of(caught.value)


def of_registry(ground: Ground, trouble: Callable[[Path], object]) -> Evidence:
    """Something happens to the file of a registry that is in use."""
    path = ground.folder() / "registry.sqlite3"
    registry = Registry(path)
    trouble(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry_database, "_PATIENCE_SECONDS", 0.0)
        return of_exception(lambda _: registry.groups(), ground)


def of_group_without_calibration(ground: Ground) -> Evidence:
    """No set in the registry serves it."""
    stage, root = SelectCalibrationStage(Registry(ground.folder() / "r.sqlite3")), ground.folder()
    config = PipelineConfig(paths=PathsConfig.below(root))
    flagged = FlaggedMeasurementSet(
        *(root / "products" / "flagged.ms", root / "products" / "centres.json", 100, 48, 244e3, 20),
        *(61065.899, 61065.901, 61065.9, 10.0, 16.2, 16.1),
    )
    context = PipelineContext(config, {"group_id": "G"}, to_json(FlagOutputs(flagged)))
    workspace = Workspace(root, root, root / "casa.log", root)
    return of_exception(lambda _: stage.execute(context, workspace), ground)


def of_version(ground: Ground, version: int) -> Evidence:
    """A task was spawned for a version of its workflow that the worker does not have."""
    workflow = VersionedWorkflow("pipeline", {2: cast(Any, None)})
    ctx = cast(Any, SimpleNamespace(headers={"workflow_version": version}))
    return of_exception(lambda _: asyncio.run(workflow({}, ctx)), ground)


def of_stage_task(ground: Ground, *, removed: bool) -> Evidence:
    """A stage task is cancelled, and its row removed; the evidence in its group's history."""

    async def fail() -> Evidence:
        site = Site(ground.folder(), MemoryBackend(MemoryDatabase()))
        await site.make_queues()
        params = site.params("2026-01-01T00:00:00")
        spawned = await site.backend.spawn_task(QUEUE, COORDINATOR, params)
        await site.work([QUEUE])
        queue = f"{QUEUE}-io"
        (child,) = await site.backend.list_tasks(queue)
        await site.backend.cancel_task(queue, child.task_id)
        if removed:
            await site.backend.cleanup_tasks(queue, 0)
        await site.work_until_ended(spawned.task_id, [QUEUE])
        history = await site.backend.history(QUEUE, spawned.task_id)
        assert history is not None
        reason: Any = history.runs[-1].failure_reason
        site.close()
        return Evidence.from_json(reason["evidence"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_tasks, "_FIRST_LOOK_SECONDS", 1)
        patch.setattr(stage_tasks, "_LOST_MAX", 1)
        return asyncio.run(fail())


def of_stage_on_full_disk(ground: Ground, do: str, stage: type = Fail) -> Evidence:
    with mounted(ground.folder() / "disk") as disk:
        return of_stage(ground, do, stage=stage, root=disk)


def of_stage_without_memory(ground: Ground) -> Evidence:
    """Python ends while it imports: its largest library does not fit (from 20 to 28 MB)."""
    python = ground.folder() / "python"
    python.write_text(f'#!/bin/sh\nulimit -v 24000\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.executable", str(python))
        return of_stage(ground, "kill")


def of_table(ground: Ground, do: str) -> Evidence:
    return of_stage(ground, do, source=ground.table())


def of_locked_table(ground: Ground) -> Evidence:
    path = ground.table()
    with locked_elsewhere(path):
        return of_stage(ground, "table_locked", source=path)


def of_table_on_full_disk(ground: Ground) -> Evidence:
    with mounted(ground.folder() / "disk", 1) as disk:
        fill_disk(disk)
        return of_stage(ground, "table_made", source=disk / "table")


def of_aborting_casa(ground: Ground, do: str) -> Evidence:
    """CASA ends its process; the full disk is not the one that the executor looks at."""
    with mounted(ground.folder() / "disk", 16) as disk:
        ms = Path(shutil.copytree(ground.ms, disk / "x.ms"))
        return of_stage(ground, do, source=ms, environment=casa_environment)


def of_stage_on_read_only_disk(ground: Ground) -> Evidence:
    """It becomes so while the stage runs."""
    with mounted(ground.folder() / "disk", 4) as disk:
        return of_stage(ground, "abort on read-only disk", stage=Make, root=disk)


def of_casa_without_its_data(ground: Ground) -> Evidence:
    home = ground.folder()
    environment = {"HOME": str(home), "CASASITECONFIG": str(home / "none.py")}
    return of_stage(ground, "import_casa", environment=lambda _scratch, _log: environment)


def of_casa(ground: Ground, case: str) -> Evidence:
    """One of the failures of `casa_failures.py`."""
    return Evidence.from_json(ground.casa[case])


def of_exception(function: Callable[[Path], object], ground: Ground) -> Evidence:
    """Something fails in this process."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one it is decides the test
        function(ground.folder())
    return Evidence.of(caught.value)


def of_task(ground: Ground, *processes: tuple[str, ...]) -> Evidence:
    """Workers take up one task, each with its steps, until it has failed."""
    url = ground.new_database()

    async def spawn() -> Any:
        async with PostgresBackend(url) as backend:
            await backend.create_queue(QUEUE)
            return (await backend.spawn_task(QUEUE, "task", None)).task_id

    task_id = asyncio.run(spawn())
    for steps in processes:
        command = [sys.executable, str(HERE / "failing_worker.py"), url, QUEUE, *steps]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.returncode in (0, 9), done.stderr.decode()

    async def look() -> Any:
        async with PostgresBackend(url) as backend:
            return await backend.history(QUEUE, task_id)

    history = asyncio.run(look())
    assert history.task.state == "failed"
    return Evidence.from_json(history.runs[-1].failure_reason["evidence"])


# -- what fails ------------------------------------------------------------------------------


def missing_imager(_folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        check_imager(ImagingConfig(imager="wsclean"))


def rename_to_other_disk(folder: Path) -> None:
    (folder / "file").touch()
    with mounted(folder / "disk", 1) as disk:
        os.rename(folder / "file", disk / "file")


def write_on_full_disk(folder: Path) -> None:
    with mounted(folder / "disk", 1) as disk:
        fill_disk(disk)
        (disk / "file").write_bytes(b"data")


def write_on_read_only_disk(folder: Path) -> None:
    with mounted(folder / "disk", 1) as disk:
        make_read_only(disk)
        (disk / "file").write_bytes(b"data")


def rename_onto_full_folder(folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "b").mkdir()
    (folder / "b" / "file").touch()
    os.rename(folder / "a", folder / "b")


def write_into_running_program(folder: Path) -> None:
    program = Path(shutil.copy("/bin/sleep", folder))
    with subprocess.Popen([program, "60"]) as running:
        try:
            program.open("r+b")
        finally:
            running.kill()


def read_where_nothing_is(_folder: Path) -> None:
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.read(1)


def connect_to_nobody(_folder: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        socket.create_connection(unused.getsockname())


def wait_in_vain(_folder: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.001)
        ours.recv(1)


def insert_twice(folder: Path) -> None:
    database = sqlite3.connect(folder / "registry.sqlite3")
    database.execute("create table t (a primary key)")
    database.execute("insert into t values (1)")
    database.execute("insert into t values (1)")


def write_beside_a_writer(folder: Path) -> None:
    first, second = (sqlite3.connect(folder / "registry.sqlite3", timeout=0) for _ in range(2))
    first.execute("begin immediate")
    second.execute("begin immediate")


def ask_for_missing_table(folder: Path) -> None:
    sqlite3.connect(folder / "registry.sqlite3").execute("select * from calibrations")


def save_against_a_constraint(url: str, _folder: Path) -> None:
    async def save() -> None:
        async with PostgresBackend(url) as backend:
            await backend.create_queue(QUEUE)
            await backend.spawn_task(QUEUE, "task", None)
            (claimed,) = await backend.claim_task(QUEUE, "w", 60)
            with psycopg.connect(url) as stranger:
                table = psycopg.sql.Identifier("absurd", f"c_{QUEUE}")
                stranger.execute(psycopg.sql.SQL("alter table {} add check (false)").format(table))
            now = asyncio.get_running_loop().time()
            lease = lease_module.Lease(backend, QUEUE, claimed.run_id, 60, now)
            await RunSession(backend, QUEUE, claimed, lease).save("image", 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lease_module._REFUSALS_SECONDS, Refusal.FOREIGN, 0.3)
        asyncio.run(save())


def lose_connection(url: str, _folder: Path) -> None:
    with psycopg.connect(url) as victim, psycopg.connect(url) as killer:
        killer.execute("select pg_terminate_backend(%s, 5000)", [victim.info.backend_pid])
        victim.execute("select 1")


def read_truncated(ground: Ground, folder: Path) -> None:
    import h5py  # noqa: PLC0415

    damaged = Path(shutil.copy(ground.tiny.groups[0].files[0], folder))
    os.truncate(damaged, damaged.stat().st_size // 2)
    h5py.File(damaged)


def read_without_header(ground: Ground, folder: Path) -> None:
    import h5py  # noqa: PLC0415
    from pyuvdata import UVData  # noqa: PLC0415

    damaged = Path(shutil.copy(ground.tiny.groups[0].files[0], folder))
    with h5py.File(damaged, "r+") as file:
        del file["Header/freq_array"]
    UVData.from_file(damaged, file_type="uvh5")


def read_arriving(ground: Ground, folder: Path) -> None:
    arriving = Path(shutil.copy(ground.tiny.groups[0].files[0], folder))
    os.truncate(arriving, arriving.stat().st_size // 2)
    read_raw_header(arriving)


def publish_on_full_disk(folder: Path) -> None:
    source = toy_product(folder / "products")
    with mounted(folder / "disk", 1) as disk:
        fill_disk(disk)
        publish_copy(source, disk)


def make_mosaic_without_transits(folder: Path) -> None:
    catalogue = folder / "catalog.csv"
    write_catalogue(catalogue, [])
    config = PipelineConfig(paths=PathsConfig.below(folder))
    with contextlib.closing(Registry(folder / "registry.sqlite3")) as registry:
        finder = TransitFinder(config, registry)
        finder.require(TransitSearch(catalog_path=catalogue))


def publish_what_cannot_be_copied(folder: Path) -> None:
    outputs = {"checks": {"verdict": "accepted"}}  # its name leaves no room for a temporary one
    source = toy_product(folder / "products", f"mosaics/{'w' * 240}", outputs=outputs)
    paths = PathsConfig.below(folder)
    paths.published.mkdir()
    config = PipelineConfig(paths=paths, publication=PublicationConfig(attempts_max=1))
    with contextlib.closing(Registry(folder / "registry.sqlite3")) as registry:
        publisher = Publisher(config, Publications(registry.database))
        publisher.publish_now(source)


def publish_beside_another_process(folder: Path) -> None:
    source = toy_product(folder / "products")
    parent = folder / "out" / "mosaics"
    parent.mkdir(parents=True)
    lock = LOCAL.try_lock(parent / f".publishing-{source.name}.lock")
    assert lock is not None
    try:
        publish_copy(source, folder / "out")
    finally:
        LOCAL.unlock(lock)


def plain(function: Callable[[Path], object]) -> Callable[[Ground], Evidence]:
    return partial(of_exception, function)


PRODUCED: dict[str, Callable[[Ground], Evidence]] = {
    "poison": lambda g: of_task(g, *[("die",)] * 3, ("die",)),
    "unreadable-value": plain(lambda _: require_readable(read_json("9" * 5000), "params")),
    "steps-changed": lambda g: of_task(g, ("load", "die"), ("fetch", "save")),
    "suspension-swallowed": lambda g: of_task(g, ("doze",)),
    "unrecognised": lambda g: of_stage(g, "raise", stage=Make),
    # The stages' own words.
    "bad-input": lambda g: of_stage(g, "nothing there", stage=Make),
    "unfinished-input": lambda g: of_exception(partial(read_arriving, g), g),
    "bad-setting": plain(missing_imager),
    "input-elsewhere": plain(
        lambda folder: files_here([Path("/etc/hosts")], PathsConfig.below(folder))
    ),
    "bad-output": lambda g: of_stage(g, "spoil", stage=Make),
    "data-quality": lambda g: of_casa(g, "unknown_calibrator"),
    "broken-product": of_stray_file,
    "storage-away": of_folder_that_is_away,
    "scratch-replaced": lambda g: of_stage(g, "replace scratch", stage=Make),
    "destination-away": plain(publish_on_full_disk),
    "publication-busy": plain(publish_beside_another_process),
    "too-few-tiles": plain(
        lambda folder: select_tiles(
            MosaicMembers((), (MissingMember("group", "it has no image yet"),)),
            PipelineConfig(paths=PathsConfig.below(folder)),
            "quicklook",
        )
    ),
    "mosaic-not-made": plain(make_mosaic_without_transits),
    "publication-failed": plain(publish_what_cannot_be_copied),
    "registry-damaged": lambda g: of_registry(g, Path.unlink),
    "registry-away": lambda g: of_registry(
        g, lambda path: (path.rename(path.with_name("r")), path.mkdir())
    ),
    "no-calibration": of_group_without_calibration,
    "stage-cancelled": lambda g: of_stage_task(g, removed=False),
    "stage-lost": lambda g: of_stage_task(g, removed=True),
    "workflow-version": lambda g: of_version(g, 1),
    "workflow-newer": lambda g: of_version(g, 3),
    "over-flagged": lambda g: of_casa(g, "over_flagged"),
    "solutions-refused": lambda g: of_casa(g, "refused"),
    "silent-disk-full": lambda g: of_casa(g, "full_disk_in_silence"),
    "stage-deadline": lambda g: of_stage(g, "hang", stage=Make, deadline=1.0),
    # Ends of processes.
    "killed": lambda g: of_stage(g, "kill"),
    "crashed": lambda g: of_stage(g, "segfault", stage=Make),
    "result-disk-full": lambda g: of_stage_on_full_disk(g, "succeed_on_full_disk"),
    "abort-disk-full": lambda g: of_aborting_casa(g, "casa_on_full_disk"),
    "abort-read-only-disk": of_stage_on_read_only_disk,
    "abort-no-locks": lambda g: of_stage(g, "table_made_without_locks"),
    "abort-descriptors": lambda g: of_stage(g, "new_ms_without_descriptors"),
    "abort-memory": lambda g: of_aborting_casa(g, "casa_without_memory"),
    "file-too-large": lambda g: of_stage(g, "write_too_much"),
    # CASA in its log and in its errors; casacore, which has no log, in its errors alone.
    "silent-descriptors": lambda g: of_casa(g, "descriptors"),
    "casa-disk-full": lambda g: of_stage_on_full_disk(g, "exit on full disk", stage=Make),
    "casa-descriptors": lambda g: of_stage(g, "use up descriptors", stage=Make),
    "casa-processes": lambda g: of_stage(g, "openmp_without_processes"),
    "casa-memory": of_stage_without_memory,
    "casa-table-lock": lambda g: of_casa(g, "locked"),
    "casa-permission": lambda g: of_casa(g, "unwritable"),
    "casa-bad-table": lambda g: of_casa(g, "damaged"),
    "casa-missing-path": lambda g: of_casa(g, "missing_path"),
    "casa-bad-parameter": lambda g: of_casa(g, "bad_parameter"),
    "casa-selection": lambda g: of_casa(g, "selection"),
    "casa-image-parameters": lambda g: of_casa(g, "image_parameters"),
    "casa-leftover": lambda g: of_casa(g, "leftover"),
    "casa-data": of_casa_without_its_data,
    "casa-text-lock": of_locked_table,
    "casa-text-disk-full": of_table_on_full_disk,
    "casa-text-descriptors": lambda g: of_table(g, "table_without_descriptors"),
    "casa-text-permission": lambda g: of_stage(g, "table_made", source=Path("/sys/none")),
    "casa-text-bad-table": lambda g: of_table(g, "table_damaged"),
    # HDF5 and pyuvdata.
    "hdf5-damaged": lambda g: of_exception(partial(read_truncated, g), g),
    "uvh5-header": lambda g: of_exception(partial(read_without_header, g), g),
    # The operating system, Python, databases.
    "disk-full": plain(write_on_full_disk),
    "read-only-disk": plain(write_on_read_only_disk),
    "descriptors": lambda g: of_stage(g, "open_without_descriptors"),
    "processes": lambda g: of_stage(g, "start_without_processes"),
    "threads": lambda g: of_stage(g, "thread_without_processes"),
    "no-memory": lambda g: of_stage(g, "allocate"),
    "no-locks": lambda g: of_stage(g, "file_locked_without_locks"),
    "path-missing": plain(lambda folder: (folder / "none").open()),
    "permission": plain(lambda folder: os.link(folder, folder / "link")),
    "cross-device": plain(rename_to_other_disk),
    "leftover": plain(rename_onto_full_folder),
    "busy": plain(write_into_running_program),
    "input-output": plain(read_where_nothing_is),
    "connection": plain(connect_to_nobody),
    "database-constraint": plain(insert_twice),
    "database-locked": plain(write_beside_a_writer),
    "database-schema": plain(ask_for_missing_table),
    "database-away": lambda g: of_exception(partial(lose_connection, g.new_database()), g),
    "checkpoint-refused": lambda g: of_exception(
        partial(save_against_a_constraint, g.new_database()), g
    ),
    "timeout": plain(wait_in_vain),
    "import-memory": lambda g: of_stage(g, "import_without_memory"),
    "import-descriptors": lambda g: of_stage(g, "import_without_descriptors"),
    "import-failed": lambda g: of_stage(g, "import_nothing"),
    "import-syntax": lambda g: of_stage(g, "import_half_written"),
    "wrong-value": plain(lambda _: int("ten")),
}


def test_every_rule_is_produced_or_says_why_not() -> None:
    """And none is both; nor does a failure stay here whose rule has gone."""
    excused = {rule.id for rule in CLASSIFIER.rules if rule.not_produced is not None}
    rules = {rule.id for rule in (*CLASSIFIER.rules, UNRECOGNISED)}
    assert rules - excused == set(PRODUCED)


@pytest.mark.parametrize(
    "do",
    ["table_written_too_large", "abort_at_limit", "casa_writes_too_much"][
        : 3 if is_search() else 2
    ],
)
def test_limit_on_file_sizes_is_no_full_disk(ground: Ground, do: str) -> None:
    """casacore names another error, or ends the process, with space on the disk."""
    source = ground.ms if do.startswith("casa") else None
    with limited(resource.RLIMIT_FSIZE, 300 << 10):
        evidence = of_stage(ground, do, source=source, environment=casa_environment)
    verdict = CLASSIFIER.classify(evidence)
    assert (verdict.rule_id, verdict.kind) == ("file-too-large", FailureKind.PERMANENT), evidence


@pytest.mark.parametrize(
    "do",
    ["file_locked_without_locks", "hdf5_opened_without_locks", "sqlite_opened_without_locks"],
)
def test_mount_without_locks_is_named_where_no_other_process_holds_one(
    ground: Ground, do: str
) -> None:
    """Neither the system nor HDF5 names it, and SQLite says that another process holds a lock."""
    verdict = CLASSIFIER.classify(of_stage(ground, do))
    assert (verdict.rule_id, verdict.kind) == ("no-locks", FailureKind.RESOURCE)
    assert str(verdict.path).startswith(str(ground.root))
    assert "nolock" in verdict.advice


@pytest.mark.parametrize("rule_id", PRODUCED)
def test_rule_is_met_by_a_real_failure(ground: Ground, rule_id: str) -> None:
    evidence = PRODUCED[rule_id](ground)
    assert CLASSIFIER.classify(evidence).rule_id == rule_id, evidence
