"""Tasks that an earlier release began are finished: its recorded checkpoints are replayed.

``recorded/`` holds tasks of real runs (``compare_strategies.py --casa --record``), one file for
each release that changed a workflow. A new version adds a file and keeps the earlier ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from group_stages import QUEUE, Site

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.runner import StageResult
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.workflows.assembly import pipeline_stages

RECORDED = sorted((Path(__file__).parent / "recorded").glob("*.json"))


class RecordedRunner:
    """Gives the recorded result of each stage, and notes which were asked for."""

    def __init__(self, site: Site, results: Mapping[str, Any]) -> None:
        self.config = site.config
        self.files = site.runner.files
        self.in_thread = site.runner.in_thread
        self.results = results
        self.stages: list[str] = []

    async def run(
        self, stage: PipelineStage, _context: PipelineContext, **_: object
    ) -> StageResult:
        self.stages.append(stage.name)
        saved, log = self.results[stage.name], Path("none")
        product = None if saved["product"] is None else Path(saved["product"])
        return StageResult(
            stage.name, saved["outputs"], saved["adopted"], saved["seconds"], product, log, log
        )


def recorded_tasks() -> list[Any]:
    return [
        pytest.param(path, strategy, id=f"{path.stem}-{strategy}")
        for path in RECORDED
        for strategy in json.loads(path.read_text())["runs"]
    ]


def load(path: Path, strategy: str, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recorded task as if it had been made in this folder, and the results of its stages."""
    document = json.loads(path.read_text())
    document = json.loads(json.dumps(document).replace(document["root"], str(root)))
    results = {
        name: state
        for name, state in document["runs"]["group"]["checkpoints"].items()
        if not name.startswith("$")
    }
    return document["runs"][strategy], results


def with_task_id(task: Mapping[str, Any], task_id: str) -> dict[str, Any]:
    """The checkpoints, with another task in the names of the events of its stage tasks."""
    return {
        re.sub(r"(ended:.*:)[0-9a-f]{12}(:\d+)$", rf"\g<1>{task_id[-12:]}\g<2>", name): state
        for name, state in task["checkpoints"].items()
    }


@pytest.mark.parametrize(("path", "strategy"), recorded_tasks())
@pytest.mark.parametrize("headers", ["recorded", "none"])
async def test_recorded_task_is_finished_from_each_of_its_checkpoints(
    tmp_path: Path, path: Path, strategy: str, headers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stage runs that has a checkpoint; the result is the recorded one.

    Without headers it is a task of a release that had no versions.
    """
    site = Site(tmp_path, MemoryBackend(MemoryDatabase()))
    monkeypatch.setattr(site.registry, "calibration_exists", lambda _: True)
    task, results = load(path, strategy, tmp_path)
    site.stages = pipeline_stages(site.registry)
    await site.make_queues()
    total = len(task["checkpoints"])
    # A stage task that was spawned and has not ended is not in the recording.
    for kept in (
        {0, 2, 2 * (total // 4), total} if strategy == "stages" else {0, 1, total // 2, total}
    ):
        runner: Any = RecordedRunner(site, results)
        site.runner = runner
        options = SpawnOptions(headers=task["headers"] if headers == "recorded" else None)
        spawned = await site.backend.spawn_task(QUEUE, task["task_name"], task["params"], options)
        checkpoints = with_task_id(task, str(spawned.task_id))
        (claimed,) = await site.backend.claim_task(QUEUE, "earlier", 60)
        for name, state in list(checkpoints.items())[:kept]:
            await site.backend.set_task_checkpoint_state(
                QUEUE, spawned.task_id, name, state, claimed.run_id
            )
        now = await site.backend.current_time()
        await site.backend.schedule_run(QUEUE, claimed.run_id, now)
        await site.work()
        result = await site.backend.get_task_result(QUEUE, spawned.task_id)
        assert result is not None
        assert result.state == "completed", result.failure_reason
        expected, actual = task["result"], result.result
        assert isinstance(actual, dict)
        assert actual["outputs"] == expected["outputs"]
        assert actual["verdict"] == expected["verdict"]
        assert len(runner.stages) == len(set(runner.stages))
        if kept == total:
            assert runner.stages == []
    site.close()
