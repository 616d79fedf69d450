"""Mosaics around transits of calibrators (strategy 3), one or many, across days if need be.

`create_mosaic` finds the transits that were observed, selects one, has the groups around it
processed, spawns the mosaic of those that went well and may wait until that is published.
`batch_mosaic` spawns one such task for each transit and collects how they ended. Neither holds a
slot while it waits: it sleeps, and looks at its children in between.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar, cast

from absurd_sdk import TimeoutError as EventTimeout
from pydantic import BaseModel, Field

from absurd_contimg.config import PathsConfig
from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.failure_handling import RetryDecision
from absurd_contimg.core.records import TERMINAL_STATES, ClaimedTask, Json, SpawnOptions
from absurd_contimg.errors import MosaicNotMadeError, SettingError
from absurd_contimg.execution.context import GroupInputs, MosaicInputs
from absurd_contimg.products.outputs import from_json
from absurd_contimg.registry import GroupStatus
from absurd_contimg.science.transits import Transit
from absurd_contimg.workflows import group, mosaic
from absurd_contimg.workflows.publication import published_event
from absurd_contimg.workflows.task_paths import catalogue_here
from absurd_contimg.workflows.transits import Choice, TransitFinder, TransitSearch, select_transit
from absurd_contimg.workflows.versions import version_headers

CREATE_TASK, BATCH_TASK = "create_mosaic", "batch_mosaic"
VERSION = 1
"""Raise it when the names, the order or the results of the steps change."""

_TRANSITS_MAX = 500
"""Of one batch: each is a task, and the result has a line for each."""
_LOOK_FIRST_SECONDS, _LOOK_LIMIT_SECONDS = 5.0, 300.0
"""Between two looks at children, doubled each time."""

_WITH_IMAGE = frozenset({GroupStatus.DONE, GroupStatus.DEGRADED})
"""Of groups that need no task any more."""


class TransitMosaicInputs(TransitSearch):
    """The parameters of a `create_mosaic` task."""

    group_id: str | None = None
    """Only the transits in this group."""
    choice: Choice = "latest"
    wait_for_published: bool = False
    """End only when the mosaic is published, and fail after the deadline."""


class BatchMosaicInputs(TransitSearch):
    """The parameters of a `batch_mosaic` task."""

    transits_max: int = Field(_TRANSITS_MAX, ge=1, le=_TRANSITS_MAX)
    """The most recent so many."""
    wait_for_published: bool = False

    def child(self, transit: Mapping[str, Json]) -> TransitMosaicInputs:
        """The parameters of the task of one transit."""
        common = {name: getattr(self, name) for name in TransitSearch.model_fields}
        return TransitMosaicInputs.model_validate(
            {
                **common,
                "calibrator": transit["calibrator"],
                "group_id": transit["group_id"],
                "wait_for_published": self.wait_for_published,
            }
        )


def spawn_options(task_name: str, inputs: BaseModel) -> SpawnOptions:
    """One task for the same parameters."""
    text = json.dumps(inputs.model_dump(mode="json"), sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
    return SpawnOptions(headers=version_headers(VERSION), idempotency_key=f"{task_name}:{digest}")


@dataclass(frozen=True, slots=True)
class _Workflow:
    """What both workflows are made of."""

    finder: TransitFinder
    look_first_seconds: float = _LOOK_FIRST_SECONDS

    async def note_failure(
        self, claimed: ClaimedTask, decision: RetryDecision, reason: Mapping[str, Json]
    ) -> None:
        """These failures are no group's: their own tasks have them."""

    async def _ended(
        self,
        ctx: TaskContext,
        task_ids: Sequence[str],
        deadline_seconds: float,
        check: Callable[[Mapping[str, Json]], None] = lambda _ended: None,
    ) -> dict[str, Json]:
        """How these tasks have ended, by id; those that have not by the deadline are left out.

        `check` raises where that is not enough. Then it is no checkpoint, so that a retry looks
        again.
        """
        waited, delay = 0.0, self.look_first_seconds

        async def look() -> list[Mapping[str, Json]]:
            ended = await _look(ctx, task_ids)
            if len(ended) == len(set(task_ids)) or waited >= deadline_seconds:
                check(_by_task(ended))
            return ended

        while True:
            ended = await ctx.step("children", look)
            if len(ended) == len(set(task_ids)) or waited >= deadline_seconds:
                return _by_task(ended)
            delay = min(delay, deadline_seconds - waited)
            await ctx.sleep_for("children.wait", delay)
            waited += delay
            delay = min(2.0 * delay, max(_LOOK_LIMIT_SECONDS, self.look_first_seconds))


class CreateMosaicWorkflow(_Workflow):
    """The handler of `create_mosaic` tasks."""

    async def __call__(self, params: object, ctx: TaskContext) -> dict[str, Json]:
        """Find, select, process, make and, if asked for, wait for the publication."""
        inputs = parse_params(TransitMosaicInputs, params, CREATE_TASK, self.finder.config.paths)
        transits = await ctx.step("find_transits", lambda: self._find(inputs))
        selected = await ctx.step("select_transit", lambda: self._select(inputs, transits))
        transit = cast(Mapping[str, Json], selected["transit"])
        used, left_out = await self._process_groups(inputs, selected, ctx)
        window = MosaicInputs(
            window_id=_window_id(transit, (*used, *left_out)),
            members=tuple(used),
            left_out=left_out,
            catalog_path=inputs.catalog_path,
        )
        task_id = await ctx.spawn(
            mosaic.TASK_NAME, window.model_dump(mode="json"), options=mosaic.spawn_options(window)
        )

        def check(ended: Mapping[str, Json]) -> None:
            if (reason := _why_not(ended, task_id)) is not None:
                raise MosaicNotMadeError(
                    f"The mosaic {window.window_id} was not made: {reason}.",
                    f"Look at its task {task_id}: contimg status.",
                )

        await self._ended(ctx, [task_id], inputs.deadline_seconds, check)
        published = None
        if inputs.wait_for_published:
            published = await _published(ctx, window.window_id, inputs.deadline_seconds)
        return {
            "window_id": window.window_id,
            "transit": transit,
            "members": used,
            "left_out": left_out,
            "mosaic_task": task_id,
            "published": published,
        }

    async def _find(self, inputs: TransitMosaicInputs) -> list[dict[str, Json]]:
        transits = await asyncio.to_thread(self.finder.require, inputs, inputs.group_id)
        return [asdict(transit) for transit in transits[:_TRANSITS_MAX]]

    async def _select(
        self, inputs: TransitMosaicInputs, transits: Sequence[Mapping[str, Json]]
    ) -> dict[str, Json]:
        """The transit, and the groups around it: with an image, to be processed, or neither."""
        candidates = [from_json(Transit, transit) for transit in transits]
        transit = select_transit(candidates, inputs.choice)
        groups = await asyncio.to_thread(self.finder.groups_of, transit, inputs.response_min)
        with_image = [each.group_id for each in groups if each.status in _WITH_IMAGE]
        others = [each for each in groups if each.status not in _WITH_IMAGE]
        return {
            "transit": asdict(transit),
            "with_image": with_image,
            "without_files": [each.group_id for each in others if not each.files],
            "to_process": [
                GroupInputs(
                    group_id=each.group_id,
                    input_files=each.files,
                    catalog_path=inputs.catalog_path,
                ).model_dump(mode="json")
                for each in others
                if each.files
            ],
        }

    async def _process_groups(
        self, inputs: TransitMosaicInputs, selected: Mapping[str, Json], ctx: TaskContext
    ) -> tuple[list[str], dict[str, str]]:
        """Spawn the tasks of all groups, or find them, and wait for their end.

        Returns the groups with an image, and why the others have none.
        """
        used = [str(group_id) for group_id in cast(Sequence[Json], selected["with_image"])]
        without = cast(Sequence[Json], selected["without_files"])
        left_out = {str(group_id): "its files are not known" for group_id in without}
        tasks: dict[str, str] = {}
        for params in cast(Sequence[Mapping[str, Json]], selected["to_process"]):
            group_id = str(params["group_id"])
            options = group.spawn_options(group_id)
            tasks[group_id] = await ctx.spawn(group.TASK_NAME, params, options=options)
        n_needed = max(0, inputs.groups_min - len(used))

        def check(ended: Mapping[str, Json]) -> None:
            reasons = {group_id: _why_not(ended, task_id) for group_id, task_id in tasks.items()}
            failed = {group_id: reason for group_id, reason in reasons.items() if reason}
            if len(tasks) - len(failed) < n_needed:
                raise MosaicNotMadeError(
                    f"Only {len(used) + len(tasks) - len(failed)} groups around the transit have "
                    f"an image, and {inputs.groups_min} are needed: "
                    f"{_listed({**left_out, **failed})}.",
                    "Process them again (contimg retry), then retry this task.",
                )

        ended = await self._ended(ctx, list(tasks.values()), inputs.deadline_seconds, check)
        for group_id, task_id in tasks.items():
            if (reason := _why_not(ended, task_id)) is None:
                used.append(group_id)
            else:
                left_out[group_id] = reason
        return sorted(used), left_out


class BatchMosaicWorkflow(_Workflow):
    """The handler of `batch_mosaic` tasks."""

    async def __call__(self, params: object, ctx: TaskContext) -> dict[str, Json]:
        """One `create_mosaic` task for each transit; a failed one does not stop the others."""
        inputs = parse_params(BatchMosaicInputs, params, BATCH_TASK, self.finder.config.paths)
        transits = await ctx.step("find_transits", lambda: self._find(inputs))
        tasks = []
        for transit in transits:
            child = inputs.child(transit)
            options = spawn_options(CREATE_TASK, child)
            tasks.append(
                await ctx.spawn(CREATE_TASK, child.model_dump(mode="json"), options=options)
            )
        # Its groups, its mosaic and the publication may take the deadline each.
        ended = await self._ended(ctx, tasks, 3 * inputs.deadline_seconds)
        results: list[dict[str, Json]] = []
        for transit, task_id in zip(transits, tasks, strict=True):
            outcome = cast(Mapping[str, Json], ended.get(task_id, {"state": "not ended"}))
            names = ("calibrator", "group_id", "transit_mjd")
            results.append(
                {**{name: transit[name] for name in names}, "task_id": task_id, **outcome}
            )
        completed = sum(result["state"] == "completed" for result in results)
        return {"count": len(results), "completed": completed, "results": results}

    async def _find(self, inputs: BatchMosaicInputs) -> list[dict[str, Json]]:
        transits = await asyncio.to_thread(self.finder.matching, inputs)
        return [asdict(transit) for transit in transits[: inputs.transits_max]]


_Inputs = TypeVar("_Inputs", bound=TransitSearch)


def parse_params(
    kind: type[_Inputs], params: object, task_name: str, paths: PathsConfig
) -> _Inputs:
    """The parameters of a task; raises `SettingError` that names the problems."""
    try:
        inputs = from_json(kind, cast(Mapping[str, Json], params))
    except ValueError as error:
        raise SettingError(
            f"The parameters of this {task_name} task are not valid: {error}.",
            "Spawn it again: contimg transits --create or --batch",
        ) from error
    catalogue = catalogue_here(inputs.catalog_path, paths)
    return inputs.model_copy(update={"catalog_path": catalogue})


async def _look(ctx: TaskContext, task_ids: Sequence[str]) -> list[Mapping[str, Json]]:
    """How those of the tasks have ended that have."""
    ended: list[Mapping[str, Json]] = []
    for task_id in task_ids:
        outcome = await ctx.task_result(task_id, ctx.queue_name)
        if outcome is None:
            ended.append({"task_id": task_id, "state": "gone", "reason": "it was removed."})
        elif outcome.state in TERMINAL_STATES:
            reason = outcome.failure_reason
            message = reason.get("message") if isinstance(reason, Mapping) else None
            result = outcome.result if isinstance(outcome.result, Mapping) else {}
            ended.append(
                {
                    "task_id": task_id,
                    "state": outcome.state,
                    "reason": None if message is None else str(message)[:500],
                    "window_id": result.get("window_id"),
                }
            )
    return ended


def _by_task(ended: Sequence[Mapping[str, Json]]) -> dict[str, Json]:
    return {str(outcome["task_id"]): outcome for outcome in ended}


async def _published(ctx: TaskContext, window_id: str, deadline_seconds: int) -> Json:
    """The payload of the event of the publication."""
    try:
        return cast(
            Json, await ctx.await_event(published_event(window_id), timeout=deadline_seconds)
        )
    except EventTimeout:
        raise MosaicNotMadeError(
            f"The mosaic {window_id} was not published in {deadline_seconds} s.",
            "See why: contimg publish list",
        ) from None


def _window_id(transit: Mapping[str, Json], group_ids: Sequence[str]) -> str:
    """The same transit and groups give the same window, and so the same mosaic."""
    digest = hashlib.blake2b("\0".join(sorted(group_ids)).encode(), digest_size=4).hexdigest()
    name = re.sub(r"[^A-Za-z0-9+-]", "_", str(transit["calibrator"]))
    return f"transit-{name}-{transit['group_id']}-{digest}"


def _why_not(ended: Mapping[str, Json], task_id: str) -> str | None:
    """Why a task has no result; None if it has completed."""
    outcome = cast(Mapping[str, Json], ended.get(task_id, {"state": "not at its end"}))
    if outcome["state"] == "completed":
        return None
    return f"its task is {outcome['state']}: {outcome.get('reason') or 'no reason known'}"


def _listed(left_out: Mapping[str, str]) -> str:
    return "; ".join(f"{group_id}: {reason}" for group_id, reason in left_out.items())[:1000]
