"""A night's products, registry and tasks made cheaply, with a defect where one is wanted.

Pixels are of a known sky; validation and photometry are those of the stages, so that a defect in
the pixels reaches the report as it would in production.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift
from sky_products import SHAPE, SkyField, commit, described_image, product_key

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.records import Json
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import Workspace
from absurd_contimg.operations.night_report import NightSite
from absurd_contimg.operations.night_report.facts import DataFigures
from absurd_contimg.products.outputs import (
    CalibrateApplyOutputs,
    CalibrateSolveOutputs,
    Caltable,
    ConvertOutputs,
    FlaggedMeasurementSet,
    FlagOutputs,
    ImageOutputs,
    MeasurementSet,
    SelectCalibrationOutputs,
    SelectedCalibration,
    SolutionQuality,
    SolvedCaltables,
    to_json,
)
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.disk_samples import DiskSample, store_samples
from absurd_contimg.science.noise import robust_rms
from absurd_contimg.stages.photometry import PhotometryStage
from absurd_contimg.stages.validate import ValidateStage

QUEUE = "dsa110-pipeline"
NIGHT = "2025-01-15"
ANTENNAS = tuple(f"DSA{number:03d}" for number in range(1, 21))
STEP_SECONDS = 309.24
_GROUP_SECONDS = 309.0
_FIRST = datetime(2025, 1, 15, 10, 0, tzinfo=UTC)
_MJD_OF_UNIX_EPOCH = 40587.0


@dataclass(frozen=True, slots=True)
class Defects:
    """What is wrong with the night; by default nothing."""

    flux_scale: float = 1.0
    shift_px: float = 0.0
    noise: float = 1.0
    """Times the usual noise."""
    bowl_jy: float = 0.0
    """Depth of a wide negative hole far from all sources."""
    stripes_jy: float = 0.0
    flagged_antenna: str = ""
    nothing_flagged: bool = False
    missing_subbands: tuple[int, ...] = ()
    unsolved: tuple[str, ...] = ()
    phases_deg: float = 0.0
    """Random changes of the antennas' phases."""
    failed_group: int | None = None
    late_seconds_a_group: float = 0.0


@dataclass(slots=True)
class SyntheticNight:
    """A site with one night of groups in the folder `root`."""

    root: Path
    defects: Defects = Defects()
    n_groups: int = 2
    first: datetime = _FIRST
    now: datetime = _FIRST + timedelta(hours=2)
    data: dict[Path, DataFigures] = field(default_factory=dict)
    """Of each calibrated Measurement Set, as the reader of flags would find them."""
    site: NightSite = field(init=False)
    registry: Registry = field(init=False)
    backend: MemoryBackend = field(init=False)
    tasks: dict[str, str] = field(default_factory=dict)

    @property
    def groups(self) -> list[str]:
        return [f"{self._start(n):%Y-%m-%dT%H:%M:%S}" for n in range(self.n_groups)]

    def _start(self, number: int) -> datetime:
        return self.first + timedelta(seconds=STEP_SECONDS * number)

    def _mid_mjd(self, number: int) -> float:
        middle = self._start(number) + timedelta(seconds=_GROUP_SECONDS / 2)
        return middle.timestamp() / 86400.0 + _MJD_OF_UNIX_EPOCH

    async def make(self) -> SyntheticNight:
        """Make everything; returns itself."""
        sky = SkyField(self.root)
        config: PipelineConfig = sky.config
        config.paths.state_dir.mkdir(parents=True, exist_ok=True)
        self.registry = Registry(
            config.paths.state_dir / "registry.sqlite3", output_dir=config.paths.output_dir
        )
        database = MemoryDatabase(clock=lambda: self.now)
        self.backend = MemoryBackend(database)
        self.site = NightSite(self.backend, self.registry.database, config, QUEUE)
        await self.backend.create_queue(QUEUE)
        end = self.now
        for number, group in enumerate(self.groups):
            self._enter_files(group)
            failed = number == self.defects.failed_group
            if not failed:
                self._make_products(sky, number, group)
            await self._run_task(number, group, failed=failed)
        self.now = end
        disk = str(config.paths.output_dir)
        store_samples(
            self.registry.database,
            [
                DiskSample("host", disk, end.timestamp() - 3600.0 * hours, 1e12, 2e12)
                for hours in (2, 1)
            ],
        )
        return self

    def _enter_files(self, group: str) -> None:
        folder = self.root / "incoming"
        present = [n for n in range(16) if n not in self.defects.missing_subbands]
        self.registry.register_files([folder / f"{group}_sb{n:02d}.hdf5" for n in present])

    def _make_products(self, sky: SkyField, number: int, group: str) -> None:
        defects, mid_mjd = self.defects, self._mid_mjd(number)
        flagged = 0.0 if defects.nothing_flagged else 0.06
        output_dir = sky.config.paths.output_dir
        ms = MeasurementSet(
            path=output_dir / f"ms/{group}.ms",
            beam_centres=output_dir / f"ms/{group}.json",
            n_rows=1,
            n_channels=16,
            channel_width_hz=1e6,
            n_antennas=len(ANTENNAS),
            start_mjd=mid_mjd - _GROUP_SECONDS / 2 / 86400,
            end_mjd=mid_mjd + _GROUP_SECONDS / 2 / 86400,
            mid_mjd=mid_mjd,
            ra_deg=0.0,
            dec_deg=16.0,
            declination_deg=16.0,
            placeholder_subbands=defects.missing_subbands,
            flagged_fraction=min(flagged, 0.02),
        )
        self._commit(sky, "convert", group, ConvertOutputs(ms))
        dead = (defects.flagged_antenna,) if defects.flagged_antenna else ()
        columns = {name: getattr(ms, name) for name in MeasurementSet.__slots__}
        columns["flagged_fraction"] = flagged
        after = FlaggedMeasurementSet(**columns, dead_antennas=dead)
        self._commit(sky, "flag", group, FlagOutputs(after))
        calibrated = replace(ms, path=output_dir / f"cal/{group}.ms", flagged_fraction=flagged)
        self._commit(sky, "calibrate_apply", group, CalibrateApplyOutputs(calibrated))
        self.data[calibrated.path] = _data_figures(dead)
        if number == 0:
            self._solve(sky, group, mid_mjd, sky.sources[0].name)
        image = self._image(sky, number, group, mid_mjd)
        outputs: Mapping[str, Json] = {
            **to_json(FlagOutputs(after)), **to_json(ImageOutputs(image)),
            "catalog": {
                "path": str(self.root / "incoming/catalog.csv"), "declination_deg": 16.0,
                "n_sources": len(sky.sources),
            },
        }  # fmt: skip
        inputs: dict[str, Json] = {
            "group_id": group,
            "catalog_path": str(self.root / "incoming/catalog.csv"),
        }
        context = PipelineContext(sky.config, inputs, outputs)
        for stage in (ValidateStage(), PhotometryStage()):
            scratch = self.root / "made" / f"{stage.name}-{group}"
            for name in ("product", "temporary"):
                (scratch / name).mkdir(parents=True)
            key = product_key(f"{stage.name} {group}", 1)
            folder = output_dir / f"{stage.name}/{group}-{key[:10]}"
            workspace = Workspace(
                scratch / "product", scratch / "temporary", scratch / "log", folder
            )
            made: Any = stage.execute(context, workspace)
            product = commit(
                scratch / "product", output_dir, stage.name, group, key, to_json(made), 1
            )
            self.registry.register(product.folder, product.manifest)
        status = GroupStatus.DONE
        self.registry.set_group_status(group, status)

    def _commit(self, sky: SkyField, stage: str, group: str, outputs: Any, **files: Any) -> None:
        key = product_key(f"{stage} {group}", 1)
        scratch = self.root / "made" / f"{stage}-{group}"
        scratch.mkdir(parents=True, exist_ok=True)
        (scratch / "notes.txt").write_text(stage)
        product = commit(
            scratch, sky.config.paths.output_dir, stage, group, key, to_json(outputs), 1
        )
        self.registry.register(product.folder, product.manifest)

    def _solve(self, sky: SkyField, group: str, mid_mjd: float, calibrator: str) -> None:
        output_dir = sky.config.paths.output_dir
        key = product_key(f"calibrate_solve {group}", 1)
        folder = output_dir / f"calibrate_solve/{group}-{key[:10]}"
        scratch = self.root / "made" / f"calibrate_solve-{group}"
        scratch.mkdir(parents=True)
        random = np.random.default_rng(5)
        frequencies = np.linspace(1.311e9, 1.498e9, 48)
        phases = random.uniform(-np.pi, np.pi, len(ANTENNAS))
        phases += np.radians(np.random.default_rng(6).normal(0, 1, len(ANTENNAS))) * (
            self.defects.phases_deg
        )
        delays = random.uniform(-3e-9, 3e-9, len(ANTENNAS))
        turns = 2 * np.pi * delays[:, None] * (frequencies - frequencies.mean())
        gains = np.exp(1j * (phases[:, None] + turns))[:, :, None] * np.ones((1, 1, 2))
        flags = np.zeros(gains.shape, dtype=bool)
        for name in self.defects.unsolved:
            flags[ANTENNAS.index(name)] = True
        np.savez(
            scratch / "gains.npz", antennas=np.array(ANTENNAS), frequencies_hz=frequencies,
            gains=gains, flags=flags,
        )  # fmt: skip
        solved = SolvedCaltables(
            set_name=f"{group}_{mid_mjd:.6f}",
            tables=(Caltable(folder / "bpcal", "BP", 30, "nearest"),),
            calibrator=calibrator,
            refant="DSA103",
            mid_mjd=mid_mjd,
            declination_deg=16.0,
            valid_start_mjd=mid_mjd - 0.5,
            valid_end_mjd=mid_mjd + 0.5,
            gains=folder / "gains.npz",
            beam_response=0.95,
            model_sources=20,
            model_mean_jy=2.0,
            quality=SolutionQuality(
                len(ANTENNAS) - len(self.defects.unsolved), 0.0, 0.01, 1.0, self.defects.unsolved
            ),
        )
        outputs = to_json(CalibrateSolveOutputs(solved))
        # The manifest of a solve names the Measurement Set that it is from.
        product = commit(
            scratch, output_dir, "calibrate_solve", group, key, outputs, 1,
            input_paths=[output_dir / f"ms/{group}.ms"],
        )  # fmt: skip
        self.registry.register(product.folder, product.manifest)

    def _image(self, sky: SkyField, number: int, group: str, mid_mjd: float) -> Any:
        """The image of the sky with the defects, as a committed product."""
        pixels = self._pixels(sky)
        sky.context(pixels, sky.sources)
        key = product_key(f"image {group}", 1)
        output_dir = sky.config.paths.output_dir
        scratch = self.root / "made" / f"image-{group}"
        scratch.mkdir(parents=True)
        for kind in ("image", "beam"):
            (output_dir / f"work/{kind}.fits").replace(scratch / f"{kind}.fits")
        rms, peak = robust_rms(pixels), float(pixels.max())
        image = replace(
            described_image(output_dir / f"images/{group}-{key[:10]}", mid_mjd),
            rms_jy=rms,
            peak_jy=peak,
            dynamic_range=peak / rms,
        )
        product = commit(scratch, output_dir, "image", group, key, to_json(ImageOutputs(image)), 1)
        self.registry.register(product.folder, product.manifest)
        return image

    def _pixels(self, sky: SkyField) -> NDArray[np.float64]:
        defects, pixels = self.defects, sky.pixels()
        if defects.noise > 1.0:
            # The noise of the sky is reproducible, so it is scaled by adding more of the same.
            bare = _noise_of(sky)
            pixels = pixels + (defects.noise - 1.0) * bare
        pixels = pixels * defects.flux_scale
        if defects.shift_px:
            pixels = shift(pixels, (defects.shift_px, 0.0), order=3, mode="nearest")
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
        if defects.bowl_jy:
            x, y = _emptiest_place(sky)
            pixels = pixels - defects.bowl_jy * np.exp(
                -((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6.0**2)
            )
        if defects.stripes_jy:
            cell_rad = np.radians(8.0 / 3600.0)
            pixels = pixels + defects.stripes_jy * np.sin(
                2 * np.pi * 1150.0 * cell_rad * (0.8 * columns + 0.6 * rows)
            )
        return np.asarray(pixels)

    async def _run_task(self, number: int, group: str, *, failed: bool) -> None:
        """The task of the group, claimed and ended as a worker would."""
        middle = self._start(number) + timedelta(seconds=_GROUP_SECONDS / 2)
        self.now = middle + timedelta(seconds=600.0 + number * self.defects.late_seconds_a_group)
        spawned = await self.backend.spawn_task(QUEUE, "pipeline", {"group_id": group})
        self.tasks[group] = str(spawned.task_id)
        (claimed,) = await self.backend.claim_task(QUEUE, "worker-1", 600)
        saved = self.backend.set_task_checkpoint_state
        for step in ("convert", "flag", "image"):
            began = {
                "start": 1, "attempt": 1, "run_id": str(claimed.run_id), "worker": "worker-1",
                "started_at": self.now.isoformat(), "outcome": None,
            }  # fmt: skip
            await saved(QUEUE, claimed.task_id, f"$start:{step}", {"starts": [began]},
                        claimed.run_id)  # fmt: skip
            if failed:
                break
            self.now += timedelta(seconds=20.0)
            await saved(QUEUE, claimed.task_id, step, {"outputs": {}}, claimed.run_id)
        if failed:
            reason: Json = {
                "name": "StageFailed", "message": "sub-band <sb03> holds NaN", "kind": "permanent",
                "rule": "bad-input", "advice": "Replace the file.", "step": "convert",
                "action": "failed",
            }  # fmt: skip
            await self.backend.fail_run_permanently(QUEUE, claimed.run_id, reason)
            self.registry.set_group_status(group, GroupStatus.FAILED, "sub-band <sb03> holds NaN")
            return
        mid_mjd = self._mid_mjd(0)
        chosen = SelectedCalibration(
            f"{self.groups[0]}_{mid_mjd:.6f}", "key", self.groups[0], "CAL", "DSA103",
            (self._mid_mjd(number) - mid_mjd) * 24, True, None, (),
        )  # fmt: skip
        state: Json = {"outputs": to_json(SelectCalibrationOutputs(chosen))}
        await saved(QUEUE, claimed.task_id, "select_calibration", state, claimed.run_id)
        await self.backend.complete_run(QUEUE, claimed.run_id, {"verdict": "clean"})

    def read_data(self, paths: Sequence[Path]) -> Mapping[Path, DataFigures]:
        """What the reader of flags would find in Measurement Sets."""
        return {path: self.data[path] for path in paths}


def _data_figures(dead: tuple[str, ...]) -> DataFigures:
    n = len(ANTENNAS)
    left = n - len(dead)
    return DataFigures(
        flagged_by_antenna=dict.fromkeys(ANTENNAS, 0.05) | dict.fromkeys(dead, 1.0),
        flagged_by_subband=(0.05,) * 16,
        baselines=n * (n - 1) // 2,
        unflagged_baselines=left * (left - 1) // 2,
        longest_wavelengths=4000.0,
        gap_wavelengths=400.0,
        uv_wavelengths=tuple((100.0 * k, 50.0 * k) for k in range(1, 20)),
    )


def _noise_of(sky: SkyField) -> NDArray[np.float64]:
    sources, sky.sources = sky.sources, []
    try:
        return sky.pixels()
    finally:
        sky.sources = sources


def _emptiest_place(sky: SkyField) -> tuple[float, float]:
    """Where the nearest source is furthest, inside a margin."""
    places = np.array([sky.wcs.wcs_world2pix(s.ra_deg, s.dec_deg, 0) for s in sky.sources])
    grid = [(x, y) for x in range(60, 341, 10) for y in range(60, 341, 10)]
    return max(grid, key=lambda p: float(np.hypot(*(places - p).T).min()))
