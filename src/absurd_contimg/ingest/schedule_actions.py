"""What schedules start: a task, the mosaics of a night, or a batch that processes groups again."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)

from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import TERMINAL_STATES, SpawnOptions
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.execution.context import MosaicInputs
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.ingest.batches import FeedRules, create_batch, reprocessing_queue
from absurd_contimg.ingest.reprocessing import batch_items, plan_reprocessing
from absurd_contimg.ingest.schedule_times import Slot
from absurd_contimg.ingest.selection import (
    GroupFacts,
    Selection,
    mjd_of,
    read_groups,
    select_groups,
)
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.batches import Batches, BatchState
from absurd_contimg.workflows import group, mosaic
from absurd_contimg.workflows.task_versions import headers_of

_HOURS_PER_DAY = 24.0
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_WITH_IMAGE = {GroupStatus.DONE, GroupStatus.DEGRADED}


class _Action(BaseModel):
    # The registry could not hold an infinite number: its JSON has none.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TaskAction(_Action):
    """Spawn a task."""

    kind: Literal["task"] = "task"
    task: str = Field(min_length=1)
    params: dict[str, Any] = Field(default_factory=dict)
    queue: str | None = None
    """None: the queue of the settings."""

    @field_validator("params")
    @classmethod
    def _check_params(cls, params: dict[str, Any]) -> dict[str, Any]:
        """Refuse what the database would refuse at each slot."""
        try:
            text = json.dumps(params, ensure_ascii=False, allow_nan=False)
            text.encode()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no database takes this as JSON ({error})") from error
        if _ESCAPED_NUL.search(text):
            raise ValueError("no database takes the character NUL")
        return params


class MosaicAction(_Action):
    """Make one mosaic of each declination strip, of the last hours before the slot."""

    kind: Literal["mosaic"] = "mosaic"
    tier: Literal["nightly", "deep"] = "nightly"
    hours: float = Field(_HOURS_PER_DAY, gt=0)


class ReprocessAction(_Action):
    """Process again what a selection gives, in a batch."""

    kind: Literal["reprocess"] = "reprocess"
    selection: Selection = Selection()
    hours: float | None = Field(None, gt=0)
    """Only groups of the last hours before the slot."""
    ahead: int = Field(20, ge=1)
    cap: int = Field(200, ge=1)
    newest_first: bool = True


Action = Annotated[TaskAction | MosaicAction | ReprocessAction, Field(discriminator="kind")]
_ACTIONS: TypeAdapter[TaskAction | MosaicAction | ReprocessAction] = TypeAdapter(Action)


def parse_action(action: Mapping[str, Any]) -> TaskAction | MosaicAction | ReprocessAction:
    """An action as the registry holds it; raises `SettingError` that names what is wrong."""
    try:
        return _ACTIONS.validate_python(dict(action))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        )
        raise SettingError(f"The action of the schedule is not valid: {problems}.") from error


@dataclass(frozen=True, slots=True)
class ActionStarter:
    """Starts the actions of schedules; see `schedules.Starter`."""

    backend: Backend
    registry: Registry
    config: PipelineConfig
    stages: Sequence[PipelineStage]
    queue_name: str
    find_catalog: Callable[[], Path]

    async def start(self, action: Mapping[str, Any], key: str, slot: Slot) -> str:
        """See `schedules.Starter`."""
        match parse_action(action):
            case TaskAction(task=task, params=params, queue=queue):
                options = SpawnOptions(headers=headers_of(task) or None, idempotency_key=key)
                return await self._spawn(queue or self.queue_name, [(task, params, options)])
            case MosaicAction() as wanted:
                return await self._start_mosaics(wanted, slot)
            case ReprocessAction() as wanted:
                await asyncio.to_thread(self._create_batch, wanted, key, slot)
                return f"batch {key}"

    async def is_running(self, run: str) -> bool:
        """See `schedules.Starter`."""
        kind, *names = run.split()
        if kind == "batch":
            return await asyncio.to_thread(self._batch_goes_on, names[0])
        for task_id in names[1:]:
            result = await self.backend.get_task_result(names[0], UUID(task_id))
            if result is not None and result.state not in TERMINAL_STATES:
                return True
        return False

    async def _spawn(self, queue: str, tasks: Sequence[tuple[str, Any, SpawnOptions]]) -> str:
        if queue not in await self.backend.list_queues():
            raise MissingInputError(f"There is no queue {queue!r}.", "contimg queue list")
        spawned = [await self.backend.spawn_task(queue, *task) for task in tasks]
        return " ".join(("task", queue, *(str(task.task_id) for task in spawned)))

    async def _start_mosaics(self, wanted: MosaicAction, slot: Slot) -> str:
        groups = await asyncio.to_thread(self._recent_groups, wanted.hours, slot)
        groups = [each for each in groups if each.status in _WITH_IMAGE]
        strips = declination_strips(groups, self.config.streaming.declination_tolerance_deg)
        if not strips:
            raise MissingInputError(
                f"No group of the {wanted.hours:g} h before {slot.name} has an image.",
                "contimg groups shows the groups.",
            )
        tasks = []
        for declination, members in strips.items():
            inputs = MosaicInputs(
                window_id=f"{slot.at:%Y-%m-%dT%H:%M}{declination:+06.2f}",
                tier=wanted.tier,
                members=tuple(member.group_id for member in members),
                catalog_path=self.find_catalog(),
            )
            options = mosaic.spawn_options(inputs)
            tasks.append((mosaic.TASK_NAME, inputs.model_dump(mode="json"), options))
        return await self._spawn(self.queue_name, tasks)

    def _recent_groups(self, hours: float, slot: Slot) -> list[GroupFacts]:
        until = mjd_of(slot.at)
        since = until - hours / _HOURS_PER_DAY
        return select_groups(
            read_groups(self.registry), Selection(since_mjd=since, until_mjd=until), {}
        )

    def _create_batch(self, wanted: ReprocessAction, key: str, slot: Slot) -> None:
        batches, catalog = Batches(self.registry.database), self.find_catalog()
        known = [batch.batch_id for batch in batches.batches()]
        if key in known:
            return  # by a daemon that died before it noted this
        selection = wanted.selection
        if wanted.hours is not None:
            until = mjd_of(slot.at)
            limits = {"since_mjd": until - wanted.hours / _HOURS_PER_DAY, "until_mjd": until}
            selection = selection.model_copy(update=limits)
        versions = {stage.name: stage.version for stage in self.stages}
        plan = plan_reprocessing(
            self.registry,
            self.config,
            self.stages,
            select_groups(read_groups(self.registry), selection, versions),
            catalog,
            batches.open_names(),
            [],
        )
        if not plan.included:
            raise MissingInputError("No group of the selection needs to be processed again.")
        create_batch(
            batches,
            key,
            "reprocess",
            reprocessing_queue(self.queue_name),
            FeedRules(task=group.TASK_NAME, ahead=wanted.ahead, cap=wanted.cap),
            batch_items(plan, catalog, wanted.newest_first),
            slot.at,
            {"selection": selection.model_dump(mode="json", exclude_defaults=True)},
            known,
        )

    def _batch_goes_on(self, batch_id: str) -> bool:
        return any(
            batch.batch_id == batch_id and batch.state in (BatchState.ACTIVE, BatchState.PAUSED)
            for batch in Batches(self.registry.database).batches()
        )


def declination_strips(
    groups: Sequence[GroupFacts], tolerance_deg: float
) -> dict[float, list[GroupFacts]]:
    """Groups by the declination of their strip, to which each is within the tolerance."""
    strips: dict[float, list[GroupFacts]] = {}
    for member in groups:
        if member.declination_deg is None:
            continue
        near = (d for d in strips if abs(d - member.declination_deg) <= tolerance_deg)
        strips.setdefault(next(near, member.declination_deg), []).append(member)
    return strips
