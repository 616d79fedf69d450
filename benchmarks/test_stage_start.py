"""What a stage server saves: CPU and time of small groups with and without it, in one run.

    pytest benchmarks/test_stage_start.py -s

Nothing is asserted: figures are for people to read.
"""

from __future__ import annotations

import asyncio
import resource
import time
from pathlib import Path

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import IsolatedStageExecutor
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.registry import Registry
from absurd_contimg.synthesis import SynthesisConfig, SynthesisResult, synthesize
from absurd_contimg.workflows.assembly import make_stage_server
from absurd_contimg.workflows.orchestrator import PipelineOrchestrator, standard_imaging_stages


def processor_seconds() -> float:
    """Of the children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def process(observation: SynthesisResult, root: Path, *, forks: bool) -> tuple[float, float]:
    """CPU seconds and seconds of all groups through the plain orchestrator."""
    config = PipelineConfig.tiny(PathsConfig.below(root))
    prepare_folders(config.paths)
    registry = Registry(root / "registry.sqlite3")
    began, used = time.perf_counter(), processor_seconds()
    with (
        ScratchOwner(config.paths.scratch_dir, "benchmark") as owner,
        make_stage_server(config, registry, owner) as server,
    ):
        executor = IsolatedStageExecutor(casa_environment, server=server if forks else None)
        runner = StageRunner(config, executor, registry, owner)
        for group in observation.groups:
            inputs = {
                "group_id": group.group_id,
                "input_files": [str(path) for path in group.files],
                "catalog_path": str(observation.catalog),
                "calibrator": "auto",
            }
            orchestrator = PipelineOrchestrator(standard_imaging_stages(registry), runner)
            asyncio.run(orchestrator.run(PipelineContext(config, inputs)))
    registry.close()
    return processor_seconds() - used, time.perf_counter() - began


def test_stages_of_a_server_beside_processes_of_their_own(tmp_path: Path) -> None:
    """Two groups of the smallest size, whose stages do least."""
    observation = synthesize(tmp_path / "input", SynthesisConfig.tiny())
    alone = process(observation, tmp_path / "alone", forks=False)
    forked = process(observation, tmp_path / "forked", forks=True)
    print()
    for name, (cpu, seconds) in (("processes of their own", alone), ("forked", forked)):
        print(f"{name:24} {cpu:6.1f} s of CPU {seconds:6.1f} s")
    print(f"{'ratio':24} {forked[0] / alone[0]:6.2f}          {forked[1] / alone[1]:6.2f}")
