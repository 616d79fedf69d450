"""The stage runner: one attempt of one stage, from its requirements to a registered product.

Make the product in scratch, ask the fence, rename, register: after a kill before the rename nothing
is there, after a later one the next attempt adopts and registers the product.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar, TypeVarTuple

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.config.variables import other_folder
from absurd_contimg.core.errors import LeaseLost
from absurd_contimg.core.records import Json
from absurd_contimg.errors import (
    MissingInputError,
    RegistryAwayError,
    SettingError,
    StorageAwayError,
)
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.disk_reservation import reserve
from absurd_contimg.execution.executor import StageExecutor, StageReport, StageRequest
from absurd_contimg.execution.logs import log_folder, log_paths
from absurd_contimg.execution.processes import InThread, uninterrupted
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.execution.stage_process import run_stage
from absurd_contimg.execution.stage_slots import NO_LIMITS, StageSlots
from absurd_contimg.file_owners import can_use, explain_refusal
from absurd_contimg.owned_folders import make_private
from absurd_contimg.products.filesystem import LOCAL, FileSystem
from absurd_contimg.products.manifest import Manifest
from absurd_contimg.products.store import (
    Published,
    broken_link,
    linked_folders,
    load_committed,
    publish,
)

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

Fence = Callable[[], Awaitable[None]]
"""Called once before anything is published; raises when this worker may publish no more.

One that knows the end of the lease, such as ``ctx.fence``, has a `deadline`: the event loop's time
by which all work must have stopped.
"""


class ProductRegistry(Protocol):
    """The part of the registry that the runner uses; called in a thread."""

    def register(self, folder: Path, manifest: Manifest) -> None:
        """Enter a committed product; the same one again changes nothing."""


@dataclass(frozen=True, slots=True)
class StageResult:
    """The end of one attempt: the product is in its place and registered."""

    stage: str
    outputs: Mapping[str, Json]
    adopted: bool
    """The product was already there, from an earlier attempt or a faster worker."""
    seconds: float
    """Of the stage itself, on the event loop's clock."""
    product: Path | None
    casa_log: Path
    output_log: Path


@dataclass(slots=True, eq=False)
class StageRunner:
    """Runs stages for one worker; the simulation has `files` and `in_thread` of its own."""

    config: PipelineConfig
    executor: StageExecutor
    registry: ProductRegistry | None
    scratch: ScratchOwner
    files: FileSystem = LOCAL
    in_thread: InThread = uninterrupted
    slots: StageSlots = NO_LIMITS
    """The limits by resource."""

    async def run(
        self,
        stage: PipelineStage,
        context: PipelineContext,
        *,
        attempt: str,
        fence: Fence | None = None,
    ) -> StageResult:
        """Run one attempt; returns when its product is committed and registered.

        Raises the stage's failure, what the fence raises, and `MissingInputError` when a
        requirement is missing. Leaves nothing in scratch; when cancelled, ends the stage
        first.
        """
        check_requirements(stage, context)
        request = self._request(stage, context, attempt, fence)
        try:
            await self.in_thread(self.files.make_folder, request.scratch)
            return await self._run_in(request, stage, fence)
        except Exception:
            # Whatever failed: without the products of the earlier stages nothing can go well.
            output_dir = self.config.paths.output_dir
            if context.outputs and not self.files.is_folder(output_dir):
                raise StorageAwayError(output_dir) from None
            # Nor without logs, which are in the state folder.
            state_dir = self.config.paths.state_dir
            if not can_use(state_dir):
                text = f"The state folder {state_dir} cannot be used: permission denied."
                raise RegistryAwayError(str(state_dir), text, explain_refusal(state_dir)) from None
            raise
        finally:
            await self.in_thread(self.scratch.remove_path, request.scratch)

    async def _run_in(
        self, request: StageRequest, stage: PipelineStage, fence: Fence | None
    ) -> StageResult:
        clock = asyncio.get_running_loop().time
        if stage.isolated:
            holder = self._holder(request)
            async with self.slots.held(stage.resource, holder, fence, self.in_thread):
                await self.in_thread(self._reserve, stage, request)
                report = await self.executor.execute(request)
        else:
            started = clock()
            outputs = await self.in_thread(self._validate_and_run, stage, request)
            report = StageReport(outputs, None, False, None, clock() - started)
        if fence is not None:
            await fence()
        product = await self.in_thread(self._commit, report, fence, clock)
        return StageResult(
            stage=stage.name,
            outputs=report.outputs if product is None else product.manifest.outputs,
            adopted=product is not None and product.adopted,
            seconds=report.seconds,
            product=None if product is None else product.folder,
            casa_log=request.casa_log,
            output_log=request.output_log,
        )

    def _holder(self, request: StageRequest) -> str:
        """Who works on what, for operators; the attempt makes it unique."""
        group_id = request.context.group_id
        return f"{request.stage_name} of {group_id} on {self.scratch.name} ({request.attempt})"

    def _validate_and_run(self, stage: PipelineStage, request: StageRequest) -> dict[str, Json]:
        """Run a stage that only asks the registry in this process; its product is dropped."""
        if stage.product_folder is not None:
            raise ValueError(f"stage {stage.name!r} makes a product, so it must be isolated")
        product = request.scratch / "product"
        workspace = Workspace(product, request.scratch / "temporary", request.casa_log, product)
        self.files.make_folder(workspace.product)
        self.files.make_folder(workspace.temporary)
        stage.validate(request.context)
        return run_stage(stage, request.context, workspace)

    def _reserve(self, stage: PipelineStage, request: StageRequest) -> None:
        needed = stage.expected_bytes(request.context)
        scratch_dir, own = self.config.paths.scratch_dir, self.scratch.scratch_dir
        reserve(scratch_dir, request.scratch, needed, self.files, own)

    def _commit(
        self, report: StageReport, fence: Fence | None, clock: Callable[[], float]
    ) -> Published | None:
        """Publish and register, unless the lease ended while this process was stopped."""
        deadline: float | None = getattr(fence, "deadline", None)
        if deadline is not None and clock() >= deadline:
            raise LeaseLost("the lease ran out before the product could be published")
        if report.committed is None:
            return None
        if report.product is None:
            adopted = load_committed(report.committed, self.files)
            product = Published(report.committed, adopted, adopted=True)
        else:
            product = publish(report.product, report.committed, self.files)
        if self.registry is not None:
            self.registry.register(product.folder, product.manifest)
        return product

    def _request(
        self, stage: PipelineStage, context: PipelineContext, attempt: str, fence: Fence | None
    ) -> StageRequest:
        folder = log_folder(self.config.paths.state_dir, context.group_id)
        casa_log, output_log = log_paths(folder, stage.name, attempt)
        return StageRequest(
            stage=f"{type(stage).__module__}:{type(stage).__qualname__}",
            stage_name=stage.name,
            context=context,
            attempt=attempt,
            scratch=self.scratch.new_path(context.group_id, stage.name, attempt),
            casa_log=casa_log,
            output_log=output_log,
            deadline_seconds=self.config.execution.deadline_seconds,
            may_live_until=partial(getattr, fence, "deadline")
            if hasattr(fence, "deadline")
            else None,
        )


def check_requirements(stage: PipelineStage, context: PipelineContext) -> None:
    """Raise `MissingInputError` unless the context holds everything that the stage requires."""
    missing = stage.requires - context.inputs.keys() - context.outputs.keys()
    if missing:
        raise MissingInputError(
            f"Stage {stage.name!r} of group {context.group_id} requires {sorted(missing)}.",
            "Run the stages that provide them first, or give them as inputs.",
        )


_CASA_SYNTAX = frozenset("$'()[]")
"""casacore expands ``$``; tasks take the others for expressions or patterns."""
_WRITTEN = ("output_dir", "scratch_dir", "state_dir")


def check_folder_names(paths: PathsConfig) -> None:
    """Raise `SettingError` for a character that CASA cannot have in a path."""
    for name in ("input_dir", *_WRITTEN):
        text = str(getattr(paths, name))
        odd = [char for char in text if char in _CASA_SYNTAX or not char.isprintable()]
        if odd:
            raise SettingError(
                f"{name} {text!r} holds {odd[0]!r}, which CASA and manifests cannot have in paths.",
                other_folder(name),
            )


def check_folders(paths: PathsConfig) -> None:
    """Raise `SettingError` for folders that cannot be made, named or written to; makes nothing.

    And `OSError` for one on a file system that can only be read, which no setting mends.

    No other folder may lie in scratch, and it must be on the output's file system.
    """
    check_folder_names(paths)
    for name in _WRITTEN:
        problem = broken_link(getattr(paths, name))
        if problem is not None:
            raise _unusable_folder(name, getattr(paths, name), problem)
    scratch, devices = paths.scratch_dir.resolve(), {}
    for name in ("input_dir", *_WRITTEN):
        folder: Path = getattr(paths, name)
        if name != "scratch_dir" and folder.resolve().is_relative_to(scratch):
            raise SettingError(
                f"{name} {folder} is scratch_dir {paths.scratch_dir} or lies in it, and what is in "
                "scratch is removed.",
                "Set scratch_dir to a folder of its own.",
            )
        parent = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        if name in _WRITTEN and os.statvfs(parent).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))
        if name in _WRITTEN and not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
            raise _unusable_folder(name, folder, f"{parent} is no folder that this user may change")
        devices[name] = os.lstat(parent).st_dev if name == "input_dir" else parent.stat().st_dev
    if devices["scratch_dir"] != devices["output_dir"]:
        raise SettingError(
            f"scratch_dir {paths.scratch_dir} and output_dir {paths.output_dir} are on "
            "different file systems, so products cannot be renamed into place.",
            "Put scratch_dir on the file system of output_dir.",
        )
    others = {paths.input_dir, *(getattr(paths, name) for name in _WRITTEN)}
    for path in linked_folders(paths.output_dir) if paths.output_dir.is_dir() else ():
        if path not in others and path.is_dir() and path.stat().st_dev != devices["output_dir"]:
            raise SettingError(
                f"{path} is a link to another file system, {os.readlink(path)}, so products cannot "
                "be renamed into place.",
                "Move it back, or move the whole output folder.",
            )


def prepare_folders(paths: PathsConfig) -> None:
    """Create the folders, after `check_folders`, and try to write into each."""
    check_folders(paths)
    if paths.publish_dir is None:  # another one may be a mount point, whose disk is away
        paths.published.mkdir(parents=True, exist_ok=True)
    for name in _WRITTEN:
        folder: Path = getattr(paths, name)
        try:
            if name == "state_dir":
                make_private(folder)
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise _unusable_folder(name, folder, str(error.strerror)) from error


def _unusable_folder(name: str, folder: Path, reason: str) -> SettingError:
    return SettingError(
        f"{name} {folder} cannot be written to: {reason}.",
        f"Mount its disk. Make it writable for this user. {other_folder(name)}",
    )
