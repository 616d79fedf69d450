"""Checks of CASA, its data and pyuvdata, each imported in a process like a stage's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from absurd_contimg.errors import UserError
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.execution.logs import severe_messages
from absurd_contimg.operations.console import one_line
from absurd_contimg.owned_folders import Mark, temporary_folder
from absurd_contimg.secrets import without_secrets
from absurd_contimg.shadowed_modules import pythonpath_problem

_MARK = Mark("doctor", "contimg doctor")
PROBE_SECONDS = 60.0
"""CASA imports in 2 to 4 s from a warm disk, and in far longer from a cold one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check. `remedy`, a command or a sentence, matters unless `ok`."""

    ok: bool
    check: str
    finding: str
    remedy: str = ""


_CASA_PROBE = """\
import json, os
import casatasks
import casatools
from importlib.metadata import version
measures = casatools.measures()
now = measures.epoch("UTC", "today")
measures.measure(now, "TAI")
known = measures.obslist()
table = casatools.table()
table.open(os.environ["CONTIMG_MEASURES"] + "/geodetic/IERSpredict")
last = float(table.getcol("MJD")[-1])
table.close()
print(json.dumps({
    "versions": {name: version(name) for name in ("casatasks", "casatools", "casadata")},
    "earth_orientation_until_mjd": last,
    "telescope": "OVRO_MMA" in known,
}), flush=True)
os._exit(0)
"""

_PYUVDATA_PROBE = """\
import json
import casacore.tables
import pyuvdata
from importlib.metadata import version
names = ("pyuvdata", "python-casacore", "astropy", "numpy")
print(json.dumps({"versions": {name: version(name) for name in names}}), flush=True)
"""


def stage_software(folders: Sequence[Path]) -> list[Finding]:
    """Import the software of the stages, in the first writable folder or else the system's own."""
    parent = next((folder for folder in folders if os.access(folder, os.W_OK | os.X_OK)), None)
    try:
        with temporary_folder(parent or Path(tempfile.gettempdir()), _MARK) as folder:
            return _import_software(folder)
    except UserError as error:
        return [Finding(False, "CASA", error.problem, error.remedy)]
    except OSError as error:
        remedy = "Free space on the disk of this folder, or make it writable."
        return [Finding(False, "CASA", f"Cannot be tried: {one_line(error, 300)}.", remedy)]


def _import_software(folder: Path) -> list[Finding]:
    """CASA and pyuvdata each contain a casacore, so each has its own process."""
    log = folder / "casa.log"
    environment = without_secrets(os.environ)
    try:
        environment |= casa_environment(folder, log)
    except UserError as error:
        shadowed = pythonpath_problem()
        remedy = error.remedy if shadowed is None else shadowed[1]
        pyuvdata = _probe(_PYUVDATA_PROBE, folder, environment)
        return [Finding(False, "CASA", error.problem, remedy), _imports("pyuvdata", pyuvdata)]
    environment["CONTIMG_MEASURES"] = str(folder / "measures")
    with ThreadPoolExecutor(2) as pool:
        programs = (_CASA_PROBE, _PYUVDATA_PROBE)
        casa, pyuvdata = pool.map(lambda text: _probe(text, folder, environment), programs)
    findings = [_imports("CASA", casa)]
    if not isinstance(casa, str):
        until = date(1858, 11, 17) + timedelta(days=int(casa["earth_orientation_until_mjd"]))
        text = (
            f"CASA's tables end on {until}. pyuvdata computes the phases, with astropy's newer "
            "tables; CASA's are used only for directions that CASA computes."
        )
        findings += [_times(log), Finding(True, "Earth orientation", text), _telescope(casa)]
    return [*findings, _imports("pyuvdata", pyuvdata)]


def _probe(
    program: str, folder: Path, environment: Mapping[str, str], seconds: float = PROBE_SECONDS
) -> dict[str, Any] | str:
    """The JSON that the program printed, or a sentence that says why there is none."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", program],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"still importing after {seconds:.0f} s"
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if lines:
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    return f"exit code {done.returncode}: {errors[-1] if errors else 'no message'}"


def shadowed_software() -> list[Finding]:
    """A finding where PYTHONPATH puts other modules before those of this installation."""
    problem = pythonpath_problem()
    return [] if problem is None else [Finding(False, "PYTHONPATH", *problem)]


def _imports(name: str, answer: dict[str, Any] | str) -> Finding:
    if isinstance(answer, str):
        return Finding(
            False,
            name,
            f"Does not import: {answer[:300]}.",
            f"{sys.executable} -m pip install --force-reinstall 'absurd-contimg[casa]'; if it "
            "only took too long, check the disk and the load (uptime), then repeat."
            if (shadowed := pythonpath_problem()) is None
            else shadowed[1],
        )
    versions = ", ".join(f"{package} {version}" for package, version in answer["versions"].items())
    return Finding(True, name, f"Imports in its own process: {versions}.")


def _times(log: Path) -> Finding:
    """CASA reports a table of leap seconds that looks old in its log only."""
    messages = severe_messages(log)
    text = (
        "CASA's table holds the whole IERS list; stages set its date to today, because CASA "
        "reports an older one."
    )
    return Finding(
        not messages,
        "leap seconds",
        f"CASA logs: {messages[0][:300]}" if messages else text,
        f"{sys.executable} -m pip install --upgrade casadata astropy-iers-data",
    )


def _telescope(answer: Mapping[str, Any]) -> Finding:
    return Finding(
        answer["telescope"],
        "observatory",
        "CASA knows OVRO_MMA."
        if answer["telescope"]
        else "CASA's list of observatories lacks OVRO_MMA, so CASA cannot compute directions.",
        f"{sys.executable} -m pip install --force-reinstall casadata",
    )
