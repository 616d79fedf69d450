"""A mosaic of three adjacent groups against its synthetic sky, through every stage and CASA.

    python tests/end_to_end/mosaic_truth.py --work DIR [--declination 54] [--ra0] [--seed 11]

Synthesises a calibrator's group and three science groups (28 antennas, 16 x 6 channels), runs every
stage as the pipeline does, makes the mosaic and prints each source's recovered over injected flux.
With --ra0 the middle group transits at right ascension 0 h. Exit code 1 if, for sources above 100
sigma, the mean flux errs by more than 1 %, their scatter is above 2 %, a median position is off by
more than 0.5 arcsec, two tiles differ by more than 3 %, or the noise by more than 10 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import numpy as np

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.execution.context import MosaicInputs, PipelineContext
from absurd_contimg.execution.executor import IsolatedStageExecutor
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.products.mosaic_outputs import MosaicImage, MosaicOutputs
from absurd_contimg.products.outputs import SourceTable, from_json, to_json
from absurd_contimg.registry import Registry
from absurd_contimg.stages.mosaic import MosaicStage
from absurd_contimg.synthesis import SynthesisConfig, SynthesisResult, synthesize
from absurd_contimg.synthesis.frames import group_times_jd, meridian_icrs_deg
from absurd_contimg.workflows.orchestrator import PipelineOrchestrator, standard_imaging_stages

SNR_MIN = 100.0
MIDDLE_GROUP = 2
SIDEREAL_DEG_PER_SECOND = 15.041067 / 3600.0


async def make_mosaic(observation: SynthesisResult, config: PipelineConfig) -> MosaicImage:
    """Process each group, then make the mosaic of the science groups."""
    with (
        closing(
            Registry(
                config.paths.state_dir / "registry.sqlite3", output_dir=config.paths.output_dir
            )
        ) as registry,
        ScratchOwner(config.paths.scratch_dir, "mosaic-truth") as owner,
    ):
        runner = StageRunner(config, IsolatedStageExecutor(casa_environment), registry, owner)
        for group in observation.groups:
            began = time.monotonic()
            inputs = {
                "group_id": group.group_id,
                "input_files": [str(path) for path in group.files],
                "catalog_path": str(observation.catalog),
                "calibrator": "auto",
            }
            orchestrator = PipelineOrchestrator(standard_imaging_stages(registry), runner)
            await orchestrator.run(PipelineContext(config, inputs))
            print(f"{group.group_id}: {time.monotonic() - began:.0f} s", flush=True)
        groups = [group.group_id for group in observation.groups if not group.calibrator]
        window = MosaicInputs(
            window_id="window", members=tuple(groups), catalog_path=observation.catalog
        )
        members = to_json(registry.mosaic_members(groups))
        context = PipelineContext(config, window.model_dump(mode="json"), members)
        result = await runner.run(MosaicStage(), context, attempt="1")
        print(f"mosaic: {result.seconds:.1f} s")
        return context.with_outputs(result.outputs).outputs_of(MosaicOutputs).mosaic


def judge(mosaic: MosaicImage) -> bool:
    """Print the figures and whether all are within the limits."""
    checks = json.loads(mosaic.checks_path.read_text(encoding="utf-8"))
    rows = [
        row for row in from_json(SourceTable, checks).sources if row.snr >= SNR_MIN and row.isolated
    ]
    for row in rows:
        print(
            f"{row.name:8} {row.flux_jy:7.3f} Jy  snr {row.snr:5.0f}  "
            f"ratio {row.flux_ratio or 0.0:.4f}  {row.position_error_arcsec or 0.0:.2f} arcsec"
        )
    ratios = np.array([row.flux_ratio or np.nan for row in rows])
    errors = np.array([row.position_error_arcsec or np.nan for row in rows])
    pairs = checks["pairs"]
    for pair in pairs:
        print(f"tiles {pair['first']} and {pair['second']}: {pair}")
    worst_pair = max((abs(pair["ratio"] - 1.0) for pair in pairs), default=np.nan)
    figures = {
        "mean flux ratio - 1": (abs(ratios.mean() - 1.0), 0.01),
        "scatter": (ratios.std(), 0.02),
        "median position error, arcsec": (np.median(errors), 0.5),
        "worst pair of tiles": (worst_pair, 0.03),
        "noise over 1/sqrt(W) - 1": (abs(mosaic.noise_ratio - 1.0), 0.1),
    }
    print(
        f"{len(rows)} sources above {SNR_MIN:.0f} sigma, positions up to {errors.max():.2f} arcsec"
    )
    print(
        f"{mosaic.width_px} x {mosaic.height_px} px, noise {1e3 * mosaic.noise_jy:.2f} mJy, ",
        end="",
    )
    print(f"{mosaic.verdict} {', '.join(mosaic.failed_gates)}")
    good = len(rows) > 0
    for name, (value, limit) in figures.items():
        within = bool(value <= limit)
        good &= within
        print(f"{name}: {value:.4f} (limit {limit}){'' if within else '  TOO FAR'}")
    return good


def at_0_h(sky: SynthesisConfig) -> SynthesisConfig:
    """The same observation, later, so that the middle group transits at 0 h."""
    times = group_times_jd(sky, MIDDLE_GROUP)
    ra, _ = meridian_icrs_deg(np.array([times.mean()]), sky.declination_deg)
    wait = timedelta(seconds=((360.0 - float(ra[0])) % 360.0) / SIDEREAL_DEG_PER_SECOND)
    return sky.model_copy(update={"start": sky.start + wait})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--declination", type=float, default=16.0)
    parser.add_argument("--ra0", action="store_true")
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
        declination_deg=arguments.declination,
        n_antennas=arguments.antennas,
        channels_per_subband=6,
        science_groups=3,
        random_sources=14,
    )
    observation = synthesize(config.paths.input_dir, at_0_h(sky) if arguments.ra0 else sky)
    return 0 if judge(asyncio.run(make_mosaic(observation, config))) else 1


if __name__ == "__main__":
    sys.exit(main())
