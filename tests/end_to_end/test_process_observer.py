"""The campaign's observer records each process of a stage; a missed one would hide overlaps."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from campaign_sites import PROCESS_OBSERVER, read_process_starts
from stage_executors import isolated_by
from toy_stages import Make

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import ScratchOwner


@pytest.mark.parametrize("start", ["process", "server"])
def test_stage_that_the_runner_starts_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """Under its name, whatever the layout of scratch."""
    folder = tmp_path / "observed"
    folder.mkdir()
    monkeypatch.setenv("OBSERVER_FOLDER", str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{PROCESS_OBSERVER}:{os.environ.get('PYTHONPATH', '')}")
    config = PipelineConfig(paths=PathsConfig.below(tmp_path))
    prepare_folders(config.paths)
    source = tmp_path / "source"
    source.write_bytes(b"data")
    context = PipelineContext(config, {"group_id": "G-1", "source": str(source), "do": "work"})
    with ScratchOwner(config.paths.scratch_dir, "worker-1") as owner:
        runner = StageRunner(config, isolated_by(start, tmp_path), None, owner)
        asyncio.run(runner.run(Make(), context, attempt="1"))
    (process,) = read_process_starts(folder)
    assert (process.stage, process.overlaps) == (Make.name, False)
