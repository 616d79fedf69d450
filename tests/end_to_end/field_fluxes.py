"""Fluxes of random sources, beside a calibrator of 10 Jy and in a science group.

    python tests/end_to_end/field_fluxes.py --work DIR [--seed 11] [--antennas 28]

Synthesises both groups (16 x 6 channels), runs every stage as the pipeline does, and prints each
source's recovered over injected flux. Exit code 1 if a source above 50 sigma errs by more than
2 % or a median position by more than 0.5 arcsec.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from contextlib import closing
from pathlib import Path

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import IsolatedStageExecutor
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.products.outputs import SourceTable, ValidateOutputs, from_json
from absurd_contimg.registry import Registry
from absurd_contimg.synthesis import SynthesisConfig, SynthesisResult, synthesize
from absurd_contimg.workflows.orchestrator import PipelineOrchestrator, standard_imaging_stages

SNR_MIN = 50.0
FLUX_ERROR_MAX = 0.02
POSITION_ERROR_MAX_ARCSEC = 0.5


async def process(observation: SynthesisResult, config: PipelineConfig) -> list[SourceTable]:
    """The source table of each group's image."""
    tables = []
    with (
        closing(Registry(config.paths.state_dir / "registry.sqlite3")) as registry,
        ScratchOwner(config.paths.scratch_dir, "field-fluxes") as owner,
    ):
        runner = StageRunner(config, IsolatedStageExecutor(casa_environment), registry, owner)
        for group in observation.groups:
            inputs = {
                "group_id": group.group_id,
                "input_files": [str(path) for path in group.files],
                "catalog_path": str(observation.catalog),
                "calibrator": "auto",
            }
            orchestrator = PipelineOrchestrator(standard_imaging_stages(registry), runner)
            done = await orchestrator.run(PipelineContext(config, inputs))
            report = done.context.outputs_of(ValidateOutputs).validation.report
            tables.append(from_json(SourceTable, json.loads(report.read_text(encoding="utf-8"))))
    return tables


def judge(table: SourceTable) -> bool:
    """Print the group's sources and whether all are within the limits."""
    good, positions = True, []
    for row in table.sources:
        ratio, error = row.flux_ratio, row.position_error_arcsec
        if row.snr < SNR_MIN or not row.isolated:
            continue
        within = ratio is not None and abs(ratio - 1.0) <= FLUX_ERROR_MAX
        good &= within
        positions.append(error if error is not None else float("inf"))
        print(
            f"{row.name:8} {row.flux_jy:7.3f} Jy  beam {row.beam_response:.2f}  "
            f"snr {row.snr:5.0f}  ratio {ratio or 0.0:.4f}  {error or 0.0:.2f} arcsec"
            f"{'' if within else '  TOO FAR'}"
        )
    median = statistics.median(positions) if positions else float("inf")
    print(f"{len(positions)} sources, median position error {median:.2f} arcsec\n")
    return good and median <= POSITION_ERROR_MAX_ARCSEC


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--antennas", type=int, default=28)
    arguments = parser.parse_args()
    root = arguments.work.absolute()
    config = PipelineConfig(paths=PathsConfig.below(root))
    if root.exists() and any(root.iterdir()):
        parser.error(f"{root} is not empty")
    prepare_folders(config.paths)
    sky = SynthesisConfig(
        seed=arguments.seed,
        n_antennas=arguments.antennas,
        channels_per_subband=6,
        science_groups=1,
        random_sources=14,
    )
    observation = synthesize(config.paths.input_dir, sky)
    tables = asyncio.run(process(observation, config))
    verdicts = [judge(table) for table in tables]  # prints every group's table
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
