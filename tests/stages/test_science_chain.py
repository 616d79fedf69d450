"""The whole chain on small real data, each stage in its own CASA process: images and their errors.

Two groups are processed once, and the tests check the results. The calibrator group solves, and
its tables calibrate the science group.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time

from absurd_contimg.config import PathsConfig, PipelineConfig, ValidationConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import IsolatedStageExecutor
from absurd_contimg.execution.runner import StageRunner, prepare_folders
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.execution.stage import Workspace
from absurd_contimg.ingest.reprocessing import plan_reprocessing
from absurd_contimg.ingest.selection import Selection, read_groups, select_groups
from absurd_contimg.products.outputs import (
    SourceCheck,
    SourceTable,
    ValidateOutputs,
    Validation,
    from_json,
)
from absurd_contimg.products.photometry_table import read_photometry
from absurd_contimg.registry import Registry
from absurd_contimg.registry.models import CaltableSetRow, MeasurementSetRow
from absurd_contimg.stages.image import ImageStage
from absurd_contimg.stages.photometry import PhotometryStage
from absurd_contimg.stages.validate import ValidateStage
from absurd_contimg.synthesis import SynthesisResult, compare_gains, compare_sources
from absurd_contimg.workflows.assembly import make_stage_server, pipeline_stages
from absurd_contimg.workflows.orchestrator import PipelineOrchestrator, standard_imaging_stages

pytestmark = pytest.mark.timeout(200)


@dataclass(frozen=True)
class Chain:
    """Both groups, processed."""

    root: Path
    home: Path
    calibrator: PipelineContext
    science: PipelineContext

    def sources(self, context: PipelineContext) -> tuple[SourceCheck, ...]:
        report = context.outputs_of(ValidateOutputs).validation.report
        return read_sources(report)


def read_sources(report: Path) -> tuple[SourceCheck, ...]:
    return from_json(SourceTable, json.loads(report.read_text())).sources


def output(context: PipelineContext, name: str) -> dict[str, Any]:
    value = context.outputs[name]
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="module")
def chain(tiny: SynthesisResult, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Both groups, processed with a home folder of their own, which must stay empty."""
    root, home = tmp_path_factory.mktemp("chain"), tmp_path_factory.mktemp("home")
    config = PipelineConfig.tiny(PathsConfig.below(root))
    prepare_folders(config.paths)
    before = os.environ["HOME"]
    os.environ["HOME"] = str(home)
    try:
        done = asyncio.run(_process(tiny, config, Registry(root / "registry.sqlite3")))
    finally:
        os.environ["HOME"] = before
    yield Chain(root, home, *done)
    shutil.rmtree(root)


async def _process(
    tiny: SynthesisResult, config: PipelineConfig, registry: Registry
) -> list[PipelineContext]:
    done = []
    with (
        ScratchOwner(config.paths.scratch_dir, "test") as owner,
        make_stage_server(config, registry, owner) as server,
    ):
        executor = IsolatedStageExecutor(casa_environment, server=server)
        runner = StageRunner(config, executor, registry, owner)
        for group in tiny.groups:
            context = PipelineContext(
                config,
                {
                    "group_id": group.group_id,
                    "input_files": [str(f) for f in group.files],
                    "catalog_path": str(tiny.catalog),
                    "calibrator": "auto",
                },
            )
            orchestrator = PipelineOrchestrator(standard_imaging_stages(registry), runner)
            done.append((await orchestrator.run(context)).context)
    return done


def test_gains_are_those_that_were_injected(chain: Chain, tiny: SynthesisResult) -> None:
    """Per channel within 1 % and 0.5 deg, the flux scale within 0.2 %."""
    solved = output(chain.calibrator, "caltables")
    assert solved["solved"] is True
    assert solved["calibrator"] == "CAL0"
    assert solved["refant"] == "DSA103"
    comparison = compare_gains(tiny.truth, Path(solved["gains"]))
    assert comparison.within(0.01, 0.5)
    assert comparison.amplitude_mean == pytest.approx(1.0, abs=2e-3)
    assert comparison.flagged_fraction == 0.0


def test_group_without_calibrator_gives_the_reason_and_uses_other_tables(chain: Chain) -> None:
    """Not an error: the registry has the calibrator group's tables."""
    assert output(chain.science, "caltables") == {
        "solved": False,
        "reason": "no calibrator transits during this group",
    }
    selected, solved = output(chain.science, "calibration"), output(chain.calibrator, "caltables")
    assert selected["set_name"] == solved["set_name"]


def test_sources_have_the_injected_positions_and_fluxes(chain: Chain) -> None:
    """Everything of 0.5 Jy or more, in a coarse image of ten antennas."""
    comparison = compare_sources(chain.sources(chain.science))
    assert comparison.n_sources == 3
    assert comparison.within(0.06, 3.0)
    assert output(chain.science, "validation")["verdict"] == "clean"
    calibrator = compare_sources(chain.sources(chain.calibrator), flux_min_jy=5.0)
    assert calibrator.within(0.02, 1.0)


def test_cleaning_ends_at_its_threshold(chain: Chain) -> None:
    """Not at a limit: beside 10 Jy an early end leaves sidelobes (see `field_fluxes.py`)."""
    for context in (chain.calibrator, chain.science):
        (log,) = chain.root.glob(f"state/logs/{context.group_id}/image-*.casa.log")
        lines = log.read_text(encoding="utf-8").splitlines()
        (end,) = [line for line in lines if "global stopping criterion" in line]
        assert "n-sigma" in end, end
        assert any("mask='" in line and "mask.crtf'" in line for line in lines)


def test_the_corrected_image_is_the_image_over_the_response(chain: Chain) -> None:
    """And blank where the response is below the cutoff."""
    image = output(chain.science, "image")
    plain, corrected, response = (
        fits.getdata(image[k]) for k in ("path", "pb_corrected_path", "beam_path")
    )
    assert plain.shape == (1, 1, 256, 256)
    inside = response >= 0.2
    assert corrected[inside] == pytest.approx(plain[inside] / response[inside], rel=1e-5)
    assert np.isnan(corrected[~inside]).all()
    assert 0.97 < response.max() < 1.0
    header = fits.getheader(image["path"])
    assert header["CTYPE1"] == "RA---SIN"
    assert header["BUNIT"] == "Jy/beam"
    # The Earth moves at 1e-4 of light's speed, and CASA grids as if it stood still.
    assert 1e-6 < abs(header["ABSCALE"] - 1.0) < 1.1e-4
    assert 1e-6 < abs(header["DOPSCALE"] - 1.0) < 1.7e-4
    assert "DATE" not in header
    # By the FITS standard both are the same moment.
    start_mjd = output(chain.science, "measurement_set")["start_mjd"]
    assert header["MJD-OBS"] == pytest.approx(start_mjd, abs=1e-9)
    assert Time(header["DATE-OBS"]).mjd == pytest.approx(start_mjd, abs=1e-10)


def test_wrong_image_fails_its_gate(chain: Chain, tmp_path: Path) -> None:
    """An image with fluxes 30 % low, then one shifted by a pixel, then one without sources."""
    image = output(chain.science, "image")
    for name, change, gate in (
        ("low", lambda data: data * 0.7, "flux"),
        ("shifted", lambda data: np.roll(data, 1, axis=-1), "position"),
        ("empty", lambda data: data[..., ::-1, ::-1], "completeness"),
    ):
        path = chain.science.config.paths.output_dir / f"{name}.fits"
        fits.writeto(path, change(fits.getdata(image["path"])), fits.getheader(image["path"]))
        context = chain.science.with_outputs({"image": {**image, "path": str(path)}})
        folders = Workspace(tmp_path / name, tmp_path, tmp_path / "log", tmp_path / "final")
        folders.product.mkdir()
        result = ValidateStage().execute(context, folders).validation
        assert result.verdict == "degraded"
        assert gate in result.failed_gates
        assert not compare_sources(read_sources(next(folders.product.iterdir()))).within()


def test_noise_of_bad_data_fails_its_gate_and_sidelobes_do_not(
    chain: Chain, tmp_path: Path
) -> None:
    """Noise hides the sources that are wrong; the calibrator agrees with its own model."""

    settings = chain.science.config.model_copy(update={"validation": ValidationConfig()})

    def validate(done: PipelineContext, rms_jy: float) -> Validation:
        outputs = {**done.outputs, "image": {**output(done, "image"), "rms_jy": rms_jy}}
        folders = Workspace(tmp_path / f"{rms_jy}", tmp_path, tmp_path / "log", tmp_path / "final")
        folders.product.mkdir()
        context = PipelineContext(settings, done.inputs, outputs)
        return ValidateStage().execute(context, folders).validation

    stuck = validate(chain.calibrator, 0.134)  # four sub-bands of a test pattern
    assert stuck.failed_gates == ("noise",)
    assert (stuck.n_expected, stuck.n_hidden) == (1, 4)
    assert stuck.noise_limit_jy == pytest.approx(9.94 / 300, rel=2e-3)
    assert "noise" in validate(chain.science, 0.0437).failed_gates
    for fine in (validate(chain.calibrator, 10 / 656), validate(chain.science, 0.012)):
        assert "noise" not in fine.failed_gates  # noise of the telescope's own images
        assert fine.n_hidden == 0
    assert output(chain.calibrator, "validation")["verdict"] == "clean"


def test_the_same_data_give_the_same_image_to_the_bit(chain: Chain, tmp_path: Path) -> None:
    """In another place, at another time and in a process that imports CASA itself."""
    paths = PathsConfig.below(tmp_path).model_copy(update={"input_dir": chain.root})
    config = PipelineConfig.tiny(paths)
    prepare_folders(config.paths)
    context = PipelineContext(config, chain.science.inputs, chain.science.outputs)

    async def again() -> dict[str, Any]:
        with ScratchOwner(config.paths.scratch_dir, "test") as owner:
            runner = StageRunner(config, IsolatedStageExecutor(casa_environment), None, owner)
            result = await runner.run(ImageStage(), context, attempt="1")
        return dict(result.outputs["image"])  # type: ignore[arg-type]

    first, second = output(chain.science, "image"), asyncio.run(again())
    for kind in ("path", "pb_corrected_path", "beam_path"):
        assert first[kind] != second[kind]
        assert Path(first[kind]).read_bytes() == Path(second[kind]).read_bytes()


def test_photometry_of_a_real_image_gives_the_injected_fluxes(chain: Chain, tmp_path: Path) -> None:
    """Beside the peaks of the validation; the header tells how sources are smeared."""
    workspace = Workspace(tmp_path, tmp_path, tmp_path / "log", tmp_path)
    PhotometryStage().execute(chain.science, workspace)
    (table,) = tmp_path.glob("*.ecsv")
    rows = [row for row in read_photometry(table) if row.catalogue_jy is not None]
    bright = [row for row in rows if row.flux_jy and row.flux_jy > 30 * (row.error_jy or 0)]
    assert len(bright) >= 2
    for row in bright:
        assert row.flux_jy == pytest.approx(row.catalogue_jy, rel=0.04)
    header = fits.getheader(output(chain.science, "image")["path"])
    assert 1e-4 < header["SMEARING"] < 0.05


def test_wsclean_gives_the_same_fluxes_or_is_reported_missing(chain: Chain, tmp_path: Path) -> None:
    """The other imager; no package of PyPI contains it."""
    imaging = {**chain.science.config.imaging.model_dump(), "imager": "wsclean"}
    paths = PathsConfig.below(tmp_path).model_copy(update={"input_dir": chain.root})
    config = PipelineConfig.model_validate(
        {**chain.science.config.model_dump(), "imaging": imaging, "paths": paths.model_dump()}
    )
    prepare_folders(paths)
    context = PipelineContext(config, chain.science.inputs, chain.science.outputs)
    if shutil.which("wsclean") is None:
        with pytest.raises(SettingError, match="apt-get install wsclean"):
            ImageStage().validate(context)
        return

    async def image_and_validate() -> PipelineContext:
        done = context
        with ScratchOwner(paths.scratch_dir, "test") as owner:
            runner = StageRunner(config, IsolatedStageExecutor(casa_environment), None, owner)
            for stage in (ImageStage(), ValidateStage()):
                done = done.with_outputs((await runner.run(stage, done, attempt="1")).outputs)
        return done

    made = asyncio.run(image_and_validate())
    assert output(made, "image")["imager"] == "wsclean"
    assert compare_sources(chain.sources(made)).within(0.06, 3.0)


def test_nothing_is_written_outside_the_given_folders(chain: Chain) -> None:
    """CASA, matplotlib and astropy all like to write into the home folder."""
    assert list(chain.home.rglob("*")) == []
    assert {p.name for p in chain.root.iterdir()} <= {
        *("products", "scratch", "state", "incoming"),
        *("registry.sqlite3", "registry.sqlite3-wal", "registry.sqlite3-shm"),
        "registry.sqlite3.lock",
    }


def test_silent_failures_of_casa_are_errors(chain: Chain, tmp_path: Path) -> None:
    """All in one CASA process, on damaged copies; see `casa_conditions.py` for each case."""
    config = chain.science.config.model_dump(mode="json")
    config["paths"]["input_dir"] = str(tmp_path)  # of the damaged copies
    request = {
        "root": str(tmp_path),
        "config": config,
        "calibrator": chain.calibrator.to_json(),
        "science": chain.science.to_json(),
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    script = Path(__file__).parent / "casa_conditions.py"
    environment = casa_environment(tmp_path / "casa", tmp_path / "casa.log")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    raised = json.loads((tmp_path / "raised.json").read_text())
    expected = {
        "solve: all data flagged": ("SolutionsRefusedError", "no antenna can serve as reference"),
        "solve: noise only": ("SolutionsRefusedError", "found no solutions"),
        "solve: three antennas left": ("SolutionsRefusedError", "made no table"),
        "solve: named calibrator elsewhere": ("NoCalibratorError", "does not transit"),
        "solve: unknown calibrator": ("NoCalibratorError", "not among the calibrators"),
        "apply: all solutions flagged": ("DataQualityError", "flagged after calibration"),
        "apply: not a number": ("OutputError", "are not finite"),
        "apply: all zero": ("OutputError", "are all zero"),
        "apply: table missing": ("MissingInputError", "missing or has no table.dat"),
        "apply: other antennas": ("DataQualityError", "for 5 of the 10 antennas"),
        "apply: too few sub-bands": ("DataQualityError", "only 11 of 16 sub-bands"),
        "flag: greedy": ("OverFlaggedError", "before the search for outliers"),
        "flag: all zero": ("DataQualityError", "is flagged, more than"),
        "image: all flagged": ("OutputError", "point spread function"),
        "image: data missing": ("MissingInputError", "has no table.dat"),
    }
    for case, (kind, text) in expected.items():
        assert raised[case][0] == kind, (case, raised[case])
        assert text in raised[case][1]
    fine = {
        "solve: preferred reference flagged",
        "solve: four middle sub-bands missing",
        "solve: own solutions were refused",
        "solve: antenna without data",
        "apply: sub-bands without solutions",
        "apply: antenna without data",
        "apply: antenna without solutions",
        "flag: greedy, then gentler",
        "validate: gentler flags",
        "flag: interference",
        "flag: interference beside a calibrator",
        "image: total intensity",
    }
    assert set(raised) == {*expected, *fine}
    assert "'solved': False" in raised["solve: own solutions were refused"][1]
    assert "were refused" in raised["solve: own solutions were refused"][1]
    assert raised["solve: four middle sub-bands missing"] == ["none", "[0.25, 0.0]"]
    # CASA takes solutions of other channels where it has none, unless it is told otherwise.
    as_expected, difference, *without = json.loads(raised["apply: sub-bands without solutions"][1])
    assert (as_expected, without) == (True, [8, [6, 7, 8, 9]])
    assert difference < 0.1
    # Each antenna has its own solutions, though all behind the absent one have other numbers.
    missing, difference, uncalibrated = json.loads(raised["apply: antenna without data"][1])
    assert (missing < 0, difference < 1e-6, uncalibrated) == (True, True, []), difference
    missing, difference, uncalibrated = json.loads(raised["apply: antenna without solutions"][1])
    assert (missing, uncalibrated) == (0, ["DSA040"])
    assert difference < 0.1
    assert raised["flag: greedy, then gentler"] == ["none", "True"]
    assert "flagging" in raised["validate: gentler flags"][1]
    for case in ("flag: interference", "flag: interference beside a calibrator"):
        caught, flagged, differing = json.loads(raised[case][1])
        assert caught > 0.3, case
        assert flagged < 0.5, case
        assert differing < 1e-5, (case, differing)
    assert float(raised["image: total intensity"][1]) < 1e-5
    # The next of the default list that is among these ten antennas.
    assert raised["solve: preferred reference flagged"] == ["none", "DSA107"]
    # Committed products are as they were: every task worked on a copy.
    flagged = Path(output(chain.calibrator, "flagged_ms")["path"])
    assert not any("MODEL" in p.name for p in flagged.rglob("*"))


def test_plan_of_a_reprocessing_says_which_products_stay(
    chain: Chain, tiny: SynthesisResult
) -> None:
    """By the manifests of real products: settings, files and calibration decide."""
    registry = Registry(chain.root / "registry.sqlite3")
    registry.register_files([path for group in tiny.groups for path in group.files])
    config, ids = chain.science.config, [group.group_id for group in tiny.groups]

    def runs(new: PipelineConfig = config, **selection: Any) -> dict[str, tuple[str, ...]]:
        stages = pipeline_stages(registry)
        versions = {stage.name: stage.version for stage in stages}
        groups = select_groups(read_groups(registry), Selection(**selection), versions)
        plan = plan_reprocessing(registry, new, stages, groups, tiny.catalog, {}, [])
        return {each.group.group_id: each.runs for each in plan.groups}

    assert runs() == dict.fromkeys(ids, ())
    catalogue = tiny.catalog.read_bytes()
    tiny.catalog.write_bytes(catalogue + b"far,1.0,-80.0,9.0,0.0,0\n")
    of_catalogue = {"catalog_setup", "calibrate_solve", "image", "validate"}
    assert all(of_catalogue <= {*stages} for stages in runs().values())
    tiny.catalog.write_bytes(catalogue)
    imaging = config.imaging.model_copy(update={"niter": 7})
    of_image = ("image", "validate")
    changed = config.model_copy(update={"imaging": imaging})
    assert runs(changed) == dict.fromkeys(ids, of_image)
    calibration = config.calibration.model_copy(update={"minsnr": 4.0})
    solves = ("calibrate_solve", "calibrate_apply", *of_image)
    changed = config.model_copy(update={"calibration": calibration})
    assert runs(changed)[chain.calibrator.group_id] == solves

    assert set(runs(verdict="clean")) == set(ids)
    assert runs(verdict="none") == {}
    (solved,) = registry.rows(CaltableSetRow)
    assert set(runs(caltables=solved["set_name"])) == set(ids)
    assert set(runs(caltables=solved["product_key"])) == set(ids)
    assert runs(caltables="another") == {}
    assert set(runs(pipeline_version=version("absurd-contimg"))) == set(ids)
    first, second = (row["start_mjd"] for row in registry.rows(MeasurementSetRow)[::3])
    assert set(runs(since_mjd=max(first, second) - 1e-3)) == {ids[1]}

    registry.retire_set(solved["product_key"], "bad night")
    applies = ("calibrate_apply", *of_image)
    assert runs() == dict.fromkeys(ids, applies)
    late = tiny.groups[1].files[0].with_name(f"{ids[1]}_sb99.hdf5")
    late.touch()
    registry.register_files([late])
    assert runs()[ids[1]] == ("convert", "flag", "calibrate_solve", *applies)
    late.unlink()
