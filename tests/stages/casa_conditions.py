"""Run by `test_science_chain.py` in one CASA process: stages on damaged copies of real products.

Writes which exception each case raised, and its text, to ``raised.json``.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from casatasks import flagdata, split

from absurd_contimg.config import PipelineConfig
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.fallback import GENTLER_FLAGS, OTHER_CALIBRATION, with_fallbacks
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.products.outputs import CalibrateApplyOutputs, ConvertOutputs, to_json
from absurd_contimg.science.imagers import run_imager
from absurd_contimg.science.measurement_set import open_table, working_copy
from absurd_contimg.science.total_intensity import write_total_intensity
from absurd_contimg.stages.calibrate_apply import CalibrateApplyStage
from absurd_contimg.stages.calibrate_solve import CalibrateSolveStage
from absurd_contimg.stages.flag import FlagStage
from absurd_contimg.stages.image import ImageStage, read_whole
from absurd_contimg.stages.validate import ValidateStage

ROOT = Path(sys.argv[1])
REQUEST = json.loads((ROOT / "request.json").read_text())
CONFIG = PipelineConfig.model_validate(REQUEST["config"])
CALIBRATOR = PipelineContext.from_json(REQUEST["calibrator"], CONFIG)
SCIENCE = PipelineContext.from_json(REQUEST["science"], CONFIG)
raised: dict[str, tuple[str, str]] = {}


def attempt(case: str, stage: PipelineStage, context: PipelineContext) -> dict[str, Any]:
    """Run a stage; its outputs, or none with the error recorded under the case."""
    folder = ROOT / case.replace(": ", "-").replace(" ", "-")
    workspace = Workspace(folder / "product", folder / "tmp", ROOT / "casa.log", folder / "final")
    workspace.product.mkdir(parents=True)
    workspace.temporary.mkdir()
    try:
        stage.validate(context)
        outputs = stage.execute(context, workspace)
        stage.validate_outputs(context, workspace, outputs)
    except Exception as error:  # noqa: BLE001 - which one it is decides the test
        raised[case] = (type(error).__name__, str(error))
        return {}
    raised[case] = ("none", "")
    return to_json(outputs)


def damaged(
    context: PipelineContext, name: str, case: str, change: Callable[[Any, Path], None]
) -> PipelineContext:
    """The context with a changed copy of a Measurement Set."""
    described = dict(context.outputs[name])  # type: ignore[arg-type]
    copy = ROOT / f"{case}.ms"
    shutil.copytree(described["path"], copy)
    with open_table(copy, writable=True) as main:
        change(main, copy)
    return context.with_outputs({name: {**described, "path": str(copy)}})


def flag_all(main: Any, _path: Path) -> None:
    main.putcol("FLAG", np.ones_like(main.getcol("FLAG")))


def flag_antennas(main: Any, chosen: Callable[[np.ndarray], np.ndarray]) -> None:
    bad = chosen(main.getcol("ANTENNA1")) | chosen(main.getcol("ANTENNA2"))
    flags = main.getcol("FLAG")
    flags[:, :, bad] = True
    main.putcol("FLAG", flags)


def noise(main: Any, _path: Path) -> None:
    data = main.getcol("DATA")
    rng = np.random.default_rng(1)
    main.putcol("DATA", 5 * (rng.normal(size=data.shape) + 1j * rng.normal(size=data.shape)))


def zero(main: Any, _path: Path) -> None:
    main.putcol("DATA", np.zeros_like(main.getcol("DATA")))


def antenna(name: str, path: Path) -> int:
    with open_table(path / "ANTENNA") as antennas:
        return list(antennas.getcol("NAME")).index(name)


def solve_cases() -> None:
    solve = CalibrateSolveStage()
    name = "flagged_ms"
    case = "solve: all data flagged"
    attempt(case, solve, damaged(CALIBRATOR, name, "s1", flag_all))
    attempt("solve: noise only", solve, damaged(CALIBRATOR, name, "s2", noise))
    few = damaged(CALIBRATOR, name, "s3", lambda m, _: flag_antennas(m, lambda a: a > 2))
    loose = {"calibration": {**CONFIG.calibration.model_dump(), "reference_flagged_max": 1.0}}
    config = PipelineConfig.model_validate({**CONFIG.model_dump(), **loose})
    few = PipelineContext(config, few.inputs, few.outputs)
    attempt("solve: three antennas left", solve, few)
    elsewhere = PipelineContext(CONFIG, {**SCIENCE.inputs, "calibrator": "CAL0"}, SCIENCE.outputs)
    attempt("solve: named calibrator elsewhere", solve, elsewhere)
    unknown = PipelineContext(CONFIG, {**SCIENCE.inputs, "calibrator": "X"}, SCIENCE.outputs)
    attempt("solve: unknown calibrator", solve, unknown)

    def flag_preferred(main: Any, path: Path) -> None:
        number = antenna("DSA103", path)
        flag_antennas(main, lambda a: a == number)

    case = "solve: preferred reference flagged"
    result = attempt(case, solve, damaged(CALIBRATOR, name, "s4", flag_preferred))
    if result:
        raised[case] = ("none", str(result["caltables"]["refant"]))

    def drop_middle(main: Any, _path: Path) -> None:
        flags = main.getcol("FLAG")
        flags[:, 12:20] = True
        main.putcol("FLAG", flags)

    case = "solve: own solutions were refused"
    with_other_calibration = with_fallbacks(CALIBRATOR, [OTHER_CALIBRATION])
    result = attempt(case, solve, with_other_calibration)
    raised[case] = ("none", str(result["caltables"]))
    assert solve.parameters(with_other_calibration) != solve.parameters(CALIBRATOR)

    case = "solve: four middle sub-bands missing"
    result = attempt(case, solve, damaged(CALIBRATOR, name, "s5", drop_middle))
    if not result:
        return
    quality = result["caltables"]["quality"]
    raised[case] = ("none", json.dumps([quality.get(key) for key in FLAGGED_SOLUTIONS]))
    incomplete_solutions(result["caltables"]["tables"])


FLAGGED_SOLUTIONS = ("flagged_fraction", "flagged_with_data")


def incomplete_solutions(solved: list[dict[str, Any]]) -> None:
    """Applied to a whole group: whether just data without solutions are flagged, the rest's change.

    Then to a group that lacks another sub-band.
    """
    folder = ROOT / "solve-four-middle-sub-bands-missing" / "product"
    tables = [{**table, "path": str(folder / Path(table["path"]).name)} for table in solved]
    (bandpass,) = (Path(table["path"]) for table in tables if table["type"] == "BP")
    name = "DSA040"
    with open_table(bandpass, writable=True) as main:
        flags, weak = main.getcol("FLAG"), main.getcol("ANTENNA1") == antenna(name, bandpass)
        flags[:, 5, weak] = True
        main.putcol("FLAG", flags)
    chosen = dict(SCIENCE.outputs["calibration"])  # type: ignore[arg-type]
    context = SCIENCE.with_outputs({"calibration": {**chosen, "tables": tables}})
    case = "apply: sub-bands without solutions"
    result = attempt(case, CalibrateApplyStage(), context)
    ms = Path(SCIENCE.outputs_of(CalibrateApplyOutputs).calibrated_ms.path)
    usual = calibrated_visibilities(ms)
    applied = calibrated_visibilities(
        ROOT / case.replace(": ", "-").replace(" ", "-") / "product" / ms.name
    )
    as_expected, difference = True, 0.0
    for key, data in applied.items():
        lost = np.zeros(data.shape, dtype=bool)
        lost[:, 12:20] = True
        lost[:, 5] |= name in key
        as_expected &= bool(((data == 0) == (lost | (usual[key] == 0))).all())
        difference = max(difference, float(np.abs(np.where(lost, 0, data - usual[key])).max()))
    scatter = float(np.std(list(usual.values())))
    described = result["calibrated_ms"]
    without = [described.get(f"uncalibrated_{each}") for each in ("channels", "subbands")]
    raised[case] = ("none", json.dumps([as_expected, difference / scatter, *without]))
    flagged = dict(context.outputs["flagged_ms"]) | {"placeholder_subbands": [15]}  # type: ignore[arg-type]
    fewer = context.with_outputs({"flagged_ms": flagged})
    attempt("apply: too few sub-bands", CalibrateApplyStage(), fewer)


def one_is_no_number(main: Any, _path: Path) -> None:
    data, flags = main.getcol("DATA"), main.getcol("FLAG")
    data[0, 1, -1], flags[0, 1, -1] = np.nan, False
    main.putcol("DATA", data)
    main.putcol("FLAG", flags)


def apply_cases() -> None:
    apply = CalibrateApplyStage()
    attempt("apply: not a number", apply, damaged(SCIENCE, "flagged_ms", "a1", one_is_no_number))
    attempt("apply: all zero", apply, damaged(SCIENCE, "flagged_ms", "a2", zero))
    chosen = dict(SCIENCE.outputs["calibration"])  # type: ignore[arg-type]
    tables = []
    for table in chosen["tables"]:
        copy = ROOT / Path(table["path"]).name
        shutil.copytree(table["path"], copy)
        with open_table(copy, writable=True) as main:
            main.putcol("FLAG", np.ones_like(main.getcol("FLAG")))
        tables.append({**table, "path": str(copy)})
    context = SCIENCE.with_outputs({"calibration": {**chosen, "tables": tables}})
    attempt("apply: all solutions flagged", apply, context)
    tables = [{**table, "path": str(ROOT / "none")} for table in tables]
    context = SCIENCE.with_outputs({"calibration": {**chosen, "tables": tables}})
    attempt("apply: table missing", apply, context)


def without_antenna(context: PipelineContext, case: str, name: str) -> PipelineContext:
    """With the flagged set of a group in which an antenna has no data: one antenna fewer."""
    described = dict(context.outputs["flagged_ms"])  # type: ignore[arg-type]
    source, path = Path(described["path"]), ROOT / case / Path(described["path"]).name
    path.parent.mkdir()
    split(vis=str(source), outputvis=str(path), datacolumn="data", antenna=f"!{name}")
    gone = antenna(name, path)
    for table, columns in ((path, ("ANTENNA1", "ANTENNA2")), (path / "FEED", ("ANTENNA_ID",))):
        with open_table(table, writable=True) as main:
            for column in columns:
                numbers = main.getcol(column)
                main.putcol(column, np.where(numbers > gone, numbers - 1, numbers))
            if table == path:
                described |= {"path": str(path), "n_rows": main.nrows()}
            else:
                main.removerows(np.flatnonzero(numbers == gone).tolist())
    with open_table(path / "ANTENNA", writable=True) as antennas:
        antennas.removerows([gone])
    return context.with_outputs({"flagged_ms": described})


def calibrated_visibilities(path: Path) -> dict[tuple[str, str, float], np.ndarray]:
    """The unflagged ones by the names of their antennas and their time; flagged ones are 0."""
    with open_table(path / "ANTENNA") as antennas:
        names = [str(name) for name in antennas.getcol("NAME")]
    with open_table(path) as main:
        columns = (main.getcol(column) for column in ("ANTENNA1", "ANTENNA2", "TIME"))
        data = np.where(main.getcol("FLAG"), 0.0, main.getcol("DATA"))
        return {
            (names[a], names[b], float(time)): data[:, :, row]
            for row, (a, b, time) in enumerate(zip(*columns, strict=True))
        }


def absent_antenna_cases() -> None:
    """The largest difference to the data of all antennas, over their scatter; antennas flagged."""
    name = "DSA040"
    ms = Path(SCIENCE.outputs_of(CalibrateApplyOutputs).calibrated_ms.path)
    usual = calibrated_visibilities(ms)
    scatter = float(np.std(list(usual.values())))

    def apply(case: str, context: PipelineContext) -> None:
        result = attempt(case, CalibrateApplyStage(), context)
        if not result:
            return
        product = ROOT / case.replace(": ", "-").replace(" ", "-") / "product"
        applied = calibrated_visibilities(product / ms.name)
        rows = [key for key in applied if name not in key]
        difference = max(float(abs(applied[key] - usual[key]).max()) for key in rows) / scatter
        without_solutions = result["calibrated_ms"]["uncalibrated_antennas"]
        figures = len(applied) - len(usual), difference, without_solutions
        raised[case] = ("none", json.dumps(figures))

    apply("apply: antenna without data", without_antenna(SCIENCE, "g1", name))
    case = "solve: antenna without data"
    solved = attempt(case, CalibrateSolveStage(), without_antenna(CALIBRATOR, "g2", name))
    product = ROOT / case.replace(": ", "-").replace(" ", "-") / "product"
    tables = [
        {**table, "path": str(product / Path(table["path"]).name)}
        for table in solved["caltables"]["tables"]
    ]
    chosen = dict(SCIENCE.outputs["calibration"])  # type: ignore[arg-type]
    context = SCIENCE.with_outputs({"calibration": {**chosen, "tables": tables}})
    apply("apply: antenna without solutions", context)

    def rename(path: Path) -> None:
        with open_table(path / "ANTENNA", writable=True) as antennas:
            names = antennas.getcol("NAME")
            antennas.putcol("NAME", [f"X{each}" for each in names[:5]] + list(names[5:]))

    other = damaged(SCIENCE, "flagged_ms", "g3", lambda _main, path: rename(path))
    attempt("apply: other antennas", CalibrateApplyStage(), other)


def other_cases() -> None:
    attempt("flag: all zero", FlagStage(), damaged(SCIENCE, "measurement_set", "f1", zero))
    greedy = {"tfcrop_cutoff_sigma": 1.5, "flagged_fraction_max": 0.1}
    config = PipelineConfig.model_validate({**CONFIG.model_dump(), "flagging": greedy})
    science = PipelineContext(config, SCIENCE.inputs, SCIENCE.outputs)
    attempt("flag: greedy", FlagStage(), science)
    gentler = with_fallbacks(science, [GENTLER_FLAGS])
    result = attempt("flag: greedy, then gentler", FlagStage(), gentler)
    raised["flag: greedy, then gentler"] = ("none", str(result["flagged_ms"]["gentler"]))
    validated = attempt("validate: gentler flags", ValidateStage(), gentler.with_outputs(result))
    raised["validate: gentler flags"] = ("none", str(validated["validation"]["failed_gates"]))
    for stage, other in ((FlagStage(), science), (ValidateStage(), SCIENCE)):
        assert stage.parameters(gentler.with_outputs(result)) != stage.parameters(other)
    image, name = ImageStage(), "calibrated_ms"
    attempt("image: all flagged", image, damaged(SCIENCE, name, "i1", flag_all))
    described = dict(SCIENCE.outputs[name])  # type: ignore[arg-type]
    gone = SCIENCE.with_outputs({name: {**described, "path": str(ROOT / "gone.ms")}})
    attempt("image: data missing", image, gone)


def interference(main: Any, path: Path) -> None:
    """In a channel of some baselines, in an integration of others, here and there; nothing of one.

    Where it is, is in a file.
    """
    data, flags, first = (main.getcol(name) for name in ("DATA", "FLAG", "ANTENNA1"))
    times = main.getcol("TIME")
    rng = np.random.default_rng(1)
    flags[:, :, first == 3] = True
    data[:, :, (first == 4) & (times == times[0])] = 0.0
    where = rng.random(data.shape) < 0.002
    where[:, data.shape[1] // 3, first < 2] = True
    where[:, :, (first == 2) & (times == np.unique(times)[2])] = True
    where &= ~flags
    phases = np.exp(2j * np.pi * rng.random(where.sum()))
    data[where] += 8.0 * np.median(np.abs(data[~flags])) * phases
    main.putcol("DATA", data)
    main.putcol("FLAG", flags)
    np.save(path.with_suffix(".npy"), where)


def outliers_case(case: str, context: PipelineContext) -> None:
    """Shares: found of interference, flagged of all, flagged by one of CASA and the stage alone."""
    context = damaged(context, "measurement_set", case.replace(": ", "-"), interference)
    path = context.outputs_of(ConvertOutputs).measurement_set.path
    where = np.load(path.with_suffix(".npy"))
    result = attempt(case, FlagStage(), context)
    made = ROOT / case.replace(": ", "-").replace(" ", "-") / "product"
    common = {"vis": str(path), "flagbackup": False}
    flagdata(mode="clip", datacolumn="DATA", clipzeros=True, **common)
    cutoffs = {"timecutoff": 4.0, "freqcutoff": 4.0}
    flagdata(mode="tfcrop", datacolumn="DATA", extendflags=False, **cutoffs, **common)
    with open_table(path) as main:
        theirs = main.getcol("FLAG")
    with open_table(made / Path(result["flagged_ms"]["path"]).name) as main:
        ours = main.getcol("FLAG")
    figures = ours[where].mean(), ours.mean(), (ours != theirs).mean()
    raised[case] = ("none", json.dumps([float(each) for each in figures]))


def flag_one_hand(main: Any, _path: Path) -> None:
    """In half of the rows."""
    flags = main.getcol("FLAG")
    flags[1, :, ::2] = True
    main.putcol("FLAG", flags)


def total_intensity_case() -> None:
    """The largest difference between images of both hands and of their mean, over the peak."""
    context = damaged(SCIENCE, "calibrated_ms", "t1", flag_one_hand)
    path = context.outputs_of(CalibrateApplyOutputs).calibrated_ms.path
    planes = []
    for name, copier in (("hands", working_copy), ("total", write_total_intensity)):
        folder = ROOT / name
        folder.mkdir()
        image, _psf = run_imager(copier(path, folder), folder, CONFIG.imaging)
        planes.append(read_whole(image)[1])
    difference = float(np.abs(planes[0] - planes[1]).max() / planes[0].max())
    raised["image: total intensity"] = ("none", f"{difference:.1e}")


solve_cases()
apply_cases()
absent_antenna_cases()
other_cases()
outliers_case("flag: interference", SCIENCE)
outliers_case("flag: interference beside a calibrator", CALIBRATOR)
total_intensity_case()
(ROOT / "raised.json").write_text(json.dumps(raised))
