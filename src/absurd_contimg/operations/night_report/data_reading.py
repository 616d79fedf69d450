"""Reads the flags of Measurement Sets in a process of its own: CASA may hang or crash there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import TypeAdapter, ValidationError

from absurd_contimg.errors import UserError
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.operations.night_report.facts import DataFigures

_SECONDS_START = 60.0
_SECONDS_EACH = 60.0
_ADAPTER = TypeAdapter(DataFigures)


def data_reader(scratch_dir: Path) -> Callable[[Sequence[Path]], Mapping[Path, DataFigures]]:
    """Reads the flags of Measurement Sets, with temporary files in a folder."""
    return partial(read_data, scratch_dir=scratch_dir)


def read_data(paths: Sequence[Path], scratch_dir: Path) -> Mapping[Path, DataFigures]:
    """The figures of these Measurement Sets; what hinders is the problem of each.

    The process is killed after a minute for each of them; what it has read until then counts.
    """
    there = [path for path in paths if "\n" not in str(path) and (path / "table.dat").is_file()]
    read = _read_there(there, scratch_dir) if there else {}
    gone = {
        path: DataFigures(problem=f"the Measurement Set {path} is no longer there")
        for path in paths
        if path not in there
    }
    return {**gone, **read}


def _read_there(paths: Sequence[Path], scratch_dir: Path) -> Mapping[Path, DataFigures]:
    scratch_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=scratch_dir, prefix=".night-report-") as folder:
        try:
            environment = casa_environment(Path(folder, "casa"), Path(folder, "casa.log"))
        except UserError as error:
            return {path: DataFigures(problem=str(error)) for path in paths}
        try:
            ran = subprocess.run(
                [sys.executable, "-m", "absurd_contimg.science.flag_figures"],
                input="".join(f"{path}\n" for path in paths).encode(errors="surrogateescape"),
                capture_output=True,
                timeout=_SECONDS_START + _SECONDS_EACH * len(paths),
                check=False,
                env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
            )
            output, ended = ran.stdout, f"ended with code {ran.returncode}"
        except subprocess.TimeoutExpired as error:
            output, ended = error.stdout or b"", f"did not end within {error.timeout:.0f} s"
    read = dict(zip(paths, _answers(output), strict=False))
    lost = DataFigures(problem=f"the process that reads flags {ended}")
    return {path: read.get(path, lost) for path in paths}


def _answers(output: bytes) -> list[DataFigures]:
    """One for each line of JSON; CASA writes lines of its own, and the last one may be cut off."""
    answers = []
    for line in output.splitlines():
        if line.startswith(b"{"):
            try:
                answers.append(_ADAPTER.validate_json(line))
            except ValidationError:
                break
    return answers
