"""Run by `test_failure_catalogue.py` in one CASA process: CASA fails for real, case by case.

Writes the evidence of each case, as a stage's process and its parent would put it together, to
``evidence.json``. Arguments: an empty folder, a full file system, and a locked table; beside them
``request.json`` with the contexts of a small observation.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from casatasks import casalog, exportfits, gaincal, tclean
from casatools import table
from failing_stages import no_more_descriptors

from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.evidence import Evidence
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.logs import severe_messages
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.products.outputs import (
    ConvertOutputs,
    FlaggedMeasurementSet,
    FlagOutputs,
    to_json,
)
from absurd_contimg.science.measurement_set import open_table
from absurd_contimg.stages.calibrate_solve import CalibrateSolveStage
from absurd_contimg.stages.flag import FlagStage
from absurd_contimg.stages.image import read_whole

ROOT, FULL, LOCKED = (Path(item) for item in sys.argv[1:4])
REQUEST = json.loads((ROOT / "request.json").read_text())
CONTEXT = PipelineContext.from_json(
    REQUEST["context"], PipelineConfig.model_validate(REQUEST["config"])
)
MS = Path(REQUEST["ms"])
CASES: dict[str, Callable[[], Any]] = {}


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    CASES[function.__name__] = function
    return function


def copy(name: str) -> Path:
    return Path(shutil.copytree(MS, ROOT / f"{name}.ms"))


def solve(ms: object = MS, caltable: object = None, **more: Any) -> None:
    name = ROOT / "c.g" if caltable is None else caltable
    options = {"calmode": "p", "solint": "inf", "refant": "0", **more}
    gaincal(vis=str(ms), caltable=str(name), **options)


def image(name: str, **more: Any) -> None:
    options = {"imsize": 64, "cell": "24arcsec", "niter": 0, **more}
    tclean(vis=str(MS), imagename=str(ROOT / name), datacolumn="data", **options)


def export(target: Path) -> None:
    if not (ROOT / "made.psf").is_dir():
        image("made")
    exportfits(imagename=str(ROOT / "made.psf"), fitsimage=str(target), overwrite=False)


def run(stage: PipelineStage, name: str, context: PipelineContext) -> None:
    workspace = Workspace(ROOT / name, ROOT / f"{name}-tmp", ROOT / "casa.log", ROOT / name)
    workspace.product.mkdir()
    workspace.temporary.mkdir()
    stage.validate(context)
    stage.execute(context, workspace)


@case
def missing_path() -> None:
    solve(ROOT / "nope.ms")


@case
def bad_parameter() -> None:
    solve(calmode="zz")


@case
def selection() -> None:
    solve(spw="7")


@case
def image_parameters() -> None:
    image("bad", cell="nonsense")


@case
def leftover() -> None:
    export(ROOT / "made.fits")
    export(ROOT / "made.fits")


@case
def unwritable() -> None:
    solve(caltable="/proc/nowhere/c.g")


@case
def damaged() -> None:
    ms = copy("damaged")
    for tile in ms.glob("table.f*_TSM*"):
        tile.unlink()
    solve(ms)


@case
def full_disk() -> None:
    solve(caltable=FULL / "c.g")


@case
def full_disk_in_silence() -> None:
    export(FULL / "x.fits")
    read_whole(FULL / "x.fits")


@case
def descriptors() -> None:
    with no_more_descriptors():
        solve()


@case
def locked() -> None:
    tool = table()
    tool.open(str(LOCKED), nomodify=False, lockoptions={"option": "permanent"})


def flagged_context() -> PipelineContext:
    described = asdict(CONTEXT.outputs_of(ConvertOutputs).measurement_set)
    ms = CONTEXT.config.paths.output_dir / "flagged.ms"
    if not ms.is_dir():
        with open_table(shutil.copytree(MS, ms), writable=True) as main:
            main.putcol("FLAG", np.ones_like(main.getcol("FLAG")))
    flagged = FlaggedMeasurementSet(**{**described, "path": ms})
    return CONTEXT.with_outputs(to_json(FlagOutputs(flagged)))


@case
def refused() -> None:
    run(CalibrateSolveStage(), "refused", flagged_context())


@case
def unknown_calibrator() -> None:
    context = flagged_context()
    inputs = {**context.inputs, "calibrator": "X"}
    run(CalibrateSolveStage(), "unknown", PipelineContext(context.config, inputs, context.outputs))


@case
def over_flagged() -> None:
    greedy = {"tfcrop_cutoff_sigma": 1.5, "flagged_fraction_max": 0.1}
    config = PipelineConfig.model_validate({**CONTEXT.config.model_dump(), "flagging": greedy})
    run(FlagStage(), "greedy", PipelineContext(config, CONTEXT.inputs, CONTEXT.outputs))


records = {}
for name, provoke in CASES.items():
    log = ROOT / f"{name}.log"
    casalog.setlogfile(str(log))
    try:
        provoke()
        evidence = Evidence()
    except Exception as error:  # noqa: BLE001 - which one it is decides the test
        evidence = Evidence.of(error)
    records[name] = replace(evidence, log_messages=severe_messages(log)).to_json()
(ROOT / "evidence.json").write_text(json.dumps(records))
