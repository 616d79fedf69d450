"""Mutants of how the stage runner makes, publishes and registers a product."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from absurd_contimg.execution import product_builder
from absurd_contimg.execution import runner as runner_module
from absurd_contimg.execution.runner import StageRunner
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.owned_folders import Mark
from absurd_contimg.products.manifest import read_manifest, write_manifest
from absurd_contimg.products.store import Published, publish

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]

_run = StageRunner.run
_commit = StageRunner._commit
_product_location = product_builder.product_location


class _UncheckedFence:
    """Knows until when the lease lasts, and does not check it."""

    def __init__(self, fence: Any) -> None:
        self._fence = fence

    @property
    def deadline(self) -> float:
        return self._fence.deadline

    async def __call__(self) -> None:
        return None


def no_fence(patch: Patch) -> None:
    async def run(self: Any, *args: Any, fence: Any = None, **options: Any) -> Any:
        return await _run(self, *args, fence=_UncheckedFence(fence), **options)

    patch.setattr(StageRunner, "run", run)


def no_fence_nor_clock(patch: Patch) -> None:
    async def run(self: Any, *args: Any, fence: Any = None, **options: Any) -> Any:
        return await _run(self, *args, fence=None, **options)

    patch.setattr(StageRunner, "run", run)


def no_clock(patch: Patch) -> None:
    def commit(self: Any, report: Any, leased: Any, clock: Any) -> Any:
        return _commit(self, report, None, clock)

    patch.setattr(StageRunner, "_commit", commit)


def renames_first(patch: Patch) -> None:
    waiting: dict[Path, Any] = {}

    def keep(product: Path, manifest: Any, files: Any) -> None:
        waiting[product] = manifest

    def rename(product: Path, committed: Path, files: Any) -> Published:
        files.ensure_folder(committed.parent)
        files.rename(product, committed)
        write_manifest(committed, waiting[product], files)
        return Published(committed, waiting[product], adopted=False)

    patch.setattr(product_builder, "write_manifest", keep)
    patch.setattr(runner_module, "publish", rename)


def overwrites(patch: Patch) -> None:
    def force(product: Path, committed: Path, files: Any) -> Published:
        files.remove_tree(committed, Mark("scratch", ""))
        return publish(product, committed, files)

    patch.setattr(runner_module, "publish", force)
    patch.setattr(product_builder, "find_committed", lambda *_args, **_options: None)


def never_adopts(patch: Patch) -> None:
    def overwrite(product: Path, committed: Path, files: Any) -> Published:
        manifest = read_manifest(product, files)
        files.ensure_folder(committed.parent)
        files.rename(product, committed)
        return Published(committed, manifest, adopted=False)

    patch.setattr(runner_module, "publish", overwrite)
    patch.setattr(product_builder, "find_committed", lambda *_args, **_options: None)


def registers_first(patch: Patch) -> None:
    def commit(self: Any, report: Any, leased: Any, clock: Any) -> Any:
        if report.product is not None:
            manifest = read_manifest(report.product, self.files)
            self.registry.register(report.committed, manifest)
        return _commit(self, report, leased, clock)

    patch.setattr(StageRunner, "_commit", commit)


def forgets_to_register_adopted(patch: Patch) -> None:
    def commit(self: Any, report: Any, leased: Any, clock: Any) -> Any:
        registry = self.registry
        self.registry = None if report.adopted else registry
        try:
            return _commit(self, report, leased, clock)
        finally:
            self.registry = registry

    patch.setattr(StageRunner, "_commit", commit)


def names_by_attempt(patch: Patch) -> None:
    numbers = itertools.count()

    def location(*args: Any) -> Any:
        key, committed = _product_location(*args)
        return key, committed.with_name(f"{committed.name}-{next(numbers)}")

    patch.setattr(product_builder, "product_location", location)


def leaves_in_scratch(patch: Patch) -> None:
    def forget(product: Path, committed: Path, files: Any) -> Published:
        return Published(committed, read_manifest(product, files), adopted=False)

    patch.setattr(runner_module, "publish", forget)


def sweeps_the_living(patch: Patch) -> None:
    async def run(self: Any, *args: Any, **options: Any) -> Any:
        for folder in self.files.matching(self.config.paths.scratch_dir, "*"):
            self.files.remove_tree(folder, Mark("scratch", ""))
        return await _run(self, *args, **options)

    patch.setattr(StageRunner, "run", run)


def changes_afterwards(patch: Patch) -> None:
    def touch(product: Path, committed: Path, files: Any) -> Published:
        published = publish(product, committed, files)
        files.write_json(committed / "late", 1)
        return published

    patch.setattr(runner_module, "publish", touch)


def manifest_without_files(patch: Patch) -> None:
    patch.setattr(product_builder, "file_entries", lambda *_args: ())


def key_without_inputs(patch: Patch) -> None:
    def location(stage: Any, context: Any, _inputs: Any) -> Any:
        key, committed = _product_location(stage, context, ())
        return key, committed.with_name(stage.name)

    patch.setattr(product_builder, "product_location", location)


def scratch_is_kept(patch: Patch) -> None:
    patch.setattr(ScratchOwner, "remove_path", lambda _self, _path: None)


def nothing_is_reserved(patch: Patch) -> None:
    patch.setattr(runner_module, "reserve", lambda *_args: None)


def adopts_without_a_look(patch: Patch) -> None:
    def find(folder: Path, key: str, *, deep: bool = False, files: Any) -> Any:
        return read_manifest(folder, files) if files.exists(folder) else None

    patch.setattr(product_builder, "find_committed", find)


PRODUCTS: dict[str, Mutant] = {
    "no fence before the rename": no_fence,
    "neither a fence nor a look at the clock": no_fence_nor_clock,
    "renamed before the manifest": renames_first,
    "loser overwrites the winner": overwrites,
    "finished product is not adopted": never_adopts,
    "registered before it is there": registers_first,
    "adopted product is not registered": forgets_to_register_adopted,
    "product named by the attempt": names_by_attempt,
    "product left in scratch": leaves_in_scratch,
    "scratch of the living is swept": sweeps_the_living,
    "product changed after its commit": changes_afterwards,
}
"""By what is wrong."""
