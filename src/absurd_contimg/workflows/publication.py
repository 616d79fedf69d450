"""Publication of a product: as a task of its own, and as a step of the task that made it.

The copy on disk decides, not the row in the registry: a death at any moment leaves a row that the
next attempt finishes or repeats. A task that waits for the event of a mosaic is woken once, and one
that comes later finds the event: Absurd keeps the first payload of a name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, cast

from absurd_contimg.config import PipelineConfig
from absurd_contimg.config.publication import PublicationConfig
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import LeaseLost
from absurd_contimg.core.failure_handling import RetryDecision
from absurd_contimg.core.records import ClaimedTask, Json, SpawnOptions
from absurd_contimg.errors import (
    AwayError,
    InputError,
    OutputError,
    PublicationFailedError,
    SettingError,
)
from absurd_contimg.execution.processes import InThread, uninterrupted
from absurd_contimg.products.filesystem import LOCAL, FileSystem
from absurd_contimg.products.manifest import Manifest
from absurd_contimg.products.outputs import is_within
from absurd_contimg.products.publication import StagedCopy, require_publish_dir
from absurd_contimg.products.verdicts import DEGRADED, GOOD
from absurd_contimg.registry.publications import Publication, PublicationState
from absurd_contimg.workflows.versions import version_headers

TASK_NAME = "publication"
"""The task that publishes one product."""

VERSION = 1
"""Raise it when the names, the order or the results of the steps change."""
STEP_NAME = "publication"


def spawn_options(product_key: str) -> SpawnOptions:
    """One task for each product."""
    key = f"{TASK_NAME}:{product_key}"
    return SpawnOptions(headers=version_headers(VERSION), idempotency_key=key)


def published_event(window_id: str) -> str:
    """The event of the first publication of a window's mosaic."""
    return f"mosaic.published:{window_id}"


class PublicationRegistry(Protocol):
    """The part of the registry that publication uses; called in a thread."""

    def begin(self, product_key: str, kind: str, source: Path, destination: Path) -> Publication:
        """Enter a publication as staging; a known one keeps its state."""

    def start_attempt(self, product_key: str, is_lost: bool = False) -> Publication:
        """Note that a copy begins, or with `is_lost` that a published one is made again."""

    def finish(self, product_key: str, published_at: str) -> Publication:
        """Note that the copy is complete."""

    def postpone(
        self, product_key: str, reason: str, attempts_max: int | None = None
    ) -> Publication:
        """Back to staging unless published; with `attempts_max` this counts, the last one fails."""

    def fail(self, product_key: str, reason: str) -> Publication:
        """Note why there is no copy, for good, unless it is published."""

    def unfinished(self) -> list[Publication]:
        """Those that are neither published nor failed."""

    def copies(self) -> list[Path]:
        """Where the copies are that were published, also of those that are made again."""

    def product_folder(self, product_key: str) -> Path:
        """Where a product lies."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes products of one output folder."""

    config: PipelineConfig
    registry: PublicationRegistry
    files: FileSystem = LOCAL
    in_thread: InThread = uninterrupted
    now: Callable[[], str] = _now
    """The time for the registry, ISO 8601."""

    async def publish(self, ctx: TaskContext, product: Path) -> dict[str, Json]:
        """One tracked step, then the event; the step's result.

        ``published`` is False, with a ``reason``, for a product whose quality does not allow it.
        Raises what `StagedCopy` raises, and `PublicationFailedError` after too many attempts.
        """
        result = await ctx.tracked_step(STEP_NAME, lambda _start: self._attempt(ctx, product))
        window_id = result["window_id"]
        if result["published"] and window_id is not None:
            names = ("product_key", "destination")
            payload: dict[str, Json] = {name: result[name] for name in names}
            await ctx.emit_event(published_event(str(window_id)), payload)
        return result

    async def _attempt(self, ctx: TaskContext, product: Path) -> dict[str, Json]:
        if not is_within(product, [self.config.paths.output_dir]):
            raise InputError(
                f"{product} is in no folder of products, so it is not published.",
                "Run the task that makes it again.",
            )
        result, copy = await self.in_thread(self._begin, product)
        if copy is None:
            return result
        clock = asyncio.get_running_loop().time
        try:
            await self.in_thread(self._prepare, copy)
            await ctx.fence()
            if clock() >= ctx.fence.deadline:
                raise LeaseLost("the lease ran out before the copy could be renamed")
            await self.in_thread(self._commit, copy)
        finally:
            await self.in_thread(copy.close)
        await self.in_thread(self._finish, copy)
        return {**result, "published": True}

    def publish_now(self, product: Path) -> dict[str, Json]:
        """Publish in this thread, without a task."""
        result, copy = self._begin(product)
        if copy is None:
            return result
        with closing(copy):
            self._prepare(copy)
            self._commit(copy)
        self._finish(copy)
        return {**result, "published": True}

    def _begin(self, product: Path) -> tuple[dict[str, Json], StagedCopy | None]:
        """The result, final if there is no copy to make."""
        copy = StagedCopy(product, self.config.paths.published, self.files)
        manifest, key = copy.manifest, copy.manifest.key
        row = self.registry.begin(key, manifest.stage, product, copy.destination)
        result: dict[str, Json] = {
            "product_key": key,
            "window_id": manifest.group_id if manifest.stage == "mosaic" else None,
            "published": False,
            "destination": str(copy.destination),
            "reason": reason_against(manifest, self.config.publication),
        }
        if result["reason"] is not None:
            self.registry.fail(key, str(result["reason"]))
            return result, None
        is_lost = row.state is PublicationState.PUBLISHED
        if is_lost and copy.is_in_place():
            return {**result, "published": True}, None
        self.registry.start_attempt(key, is_lost)
        return result, copy

    def _prepare(self, copy: StagedCopy) -> None:
        with self._noting_failure(copy.manifest.key):
            self.require_folder()
            copy.prepare()

    def require_folder(self) -> None:
        """Raise `DestinationAwayError` where the disk of the folder for publications is away."""
        require_publish_dir(self.config.paths.published, self.registry.copies, self.files)

    def _commit(self, copy: StagedCopy) -> None:
        with self._noting_failure(copy.manifest.key):
            copy.commit()

    def _finish(self, copy: StagedCopy) -> None:
        """Last of all: nobody looks for the leftovers of a published product."""
        self.registry.finish(copy.manifest.key, self.now())

    @contextmanager
    def _noting_failure(self, key: str) -> Iterator[None]:
        try:
            yield
        except AwayError as error:  # it is waited for, which costs no attempt
            self.registry.postpone(key, error.problem)
            raise
        except (InputError, SettingError) as error:  # the same happens again
            self.registry.fail(key, str(error))
            raise
        except (OutputError, OSError) as error:
            row = self.registry.postpone(key, str(error), self.config.publication.attempts_max)
            if row.state is not PublicationState.FAILED:
                raise
            raise PublicationFailedError(
                f"Product {key} could not be published in {row.attempts} attempts: {error}"
            ) from None


@dataclass(frozen=True, slots=True)
class PublicationWorkflow:
    """The handler of publication tasks."""

    publisher: Publisher

    async def note_failure(
        self, claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        """For `Worker.on_failure`: a publication whose task failed waits for an operator."""
        key = _product_key(claimed.params)
        if key is not None:
            publisher = self.publisher
            await publisher.in_thread(publisher.registry.fail, key, str(reason.get("message")))

    async def __call__(self, params: object, ctx: TaskContext) -> dict[str, Json]:
        """Publish the product with the key of the parameters."""
        key = _product_key(params)
        if key is None:
            raise SettingError(
                f"The parameters of this {TASK_NAME} task have no product_key.",
                "Spawn it with: contimg publish retry KEY",
            )
        publisher = self.publisher
        product = await publisher.in_thread(publisher.registry.product_folder, key)
        result = await publisher.publish(ctx, product)
        if not result["published"]:
            raise PublicationFailedError(f"Product {key} is not published: {result['reason']}")
        return result


def _product_key(params: object) -> str | None:
    key = params.get("product_key") if isinstance(params, Mapping) else None
    return key if isinstance(key, str) else None


def reason_against(manifest: Manifest, settings: PublicationConfig) -> str | None:
    """Why the quality of a product does not allow to publish it; None if it does."""
    verdict = quality_verdict(manifest)
    if verdict is None:
        return _NOT_MEASURED
    if verdict in GOOD and _n_compared(manifest) == 0:
        return _NOT_COMPARED
    if verdict in GOOD or (verdict == DEGRADED and settings.degraded):
        return None
    hint = f" {_DEGRADED_HINT}" if verdict == DEGRADED else ""
    return f"{_CHECKED}{verdict}{hint}."


_NOT_MEASURED = "its quality was not measured."
_NOT_COMPARED = "it was not checked: no catalogue source could be compared with it."
_CHECKED = "its checks found it "
_DEGRADED_HINT = "(publication.degraded is false)"


def publication_advice(product_key: str, reason: str) -> str:
    """What to do about a product that is not published, for this reason."""
    retry = f"contimg publish retry {product_key}"
    if _DEGRADED_HINT in reason:
        return (
            "To publish what is degraded: publication.degraded = true in the settings file of the "
            f"workers, which are then started again, and of: {retry}"
        )
    if any(text in reason for text in (_CHECKED, _NOT_MEASURED, _NOT_COMPARED)):
        return "It stays unpublished: only what passed its checks is published."
    return retry


def quality_verdict(manifest: Manifest) -> str | None:
    """What the product's own checks found; None if it has none."""
    return cast("str | None", _checks(manifest).get("verdict"))


def _n_compared(manifest: Manifest) -> Json:
    """How many catalogue sources were looked for in an image or compared with a mosaic."""
    checks = _checks(manifest)
    return checks.get("n_expected", checks.get("n_compared"))


def _checks(manifest: Manifest) -> Mapping[str, Json]:
    """The outputs with a verdict; empty if there are none."""
    for outputs in manifest.outputs.values():
        if isinstance(outputs, Mapping) and isinstance(outputs.get("verdict"), str):
            return outputs
    return {}
