"""Reads the flags of Measurement Sets in a process of its own: CASA may hang or crash there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from absurd_contimg.errors import UserError
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.operations.night_report.facts import DataFigures
from absurd_contimg.owned_folders import Mark, temporary_folder

_MARK = Mark("night report", "contimg report")
_SECONDS_START = 60.0
_SECONDS_EACH = 60.0
_LOOK_SECONDS = 0.5
_ADAPTER = TypeAdapter(DataFigures)


def data_reader(scratch_dir: Path) -> Callable[[Sequence[Path]], Mapping[Path, DataFigures]]:
    """Reads the flags of Measurement Sets, with temporary files in a folder."""
    return partial(read_data, scratch_dir=scratch_dir)


def read_data(
    paths: Sequence[Path], scratch_dir: Path, is_stopped: Callable[[], bool] = lambda: False
) -> Mapping[Path, DataFigures]:
    """The figures of these Measurement Sets; what hinders is the problem of each.

    The process is killed after a minute for each of them, or half a second after `is_stopped`;
    what it has read until then counts.
    """
    there = [path for path in paths if "\n" not in str(path) and (path / "table.dat").is_file()]
    read = _read_there(there, scratch_dir, is_stopped) if there else {}
    gone = {
        path: DataFigures(problem=f"the Measurement Set {path} is no longer there")
        for path in paths
        if path not in there
    }
    return {**gone, **read}


def _read_there(
    paths: Sequence[Path], scratch_dir: Path, is_stopped: Callable[[], bool]
) -> Mapping[Path, DataFigures]:
    scratch_dir.mkdir(parents=True, exist_ok=True)
    with temporary_folder(scratch_dir, _MARK) as folder:
        try:
            environment = casa_environment(folder / "casa", folder / "casa.log")
        except UserError as error:
            return {path: DataFigures(problem=str(error)) for path in paths}
        process = subprocess.Popen(
            [sys.executable, "-m", "absurd_contimg.science.flag_figures"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        )
        output, ended = _output_of(process, paths, is_stopped)
    read = dict(zip(paths, _answers(output), strict=False))
    lost = DataFigures(problem=f"the process that reads flags {ended}")
    return {path: read.get(path, lost) for path in paths}


def _output_of(
    process: subprocess.Popen[bytes], paths: Sequence[Path], is_stopped: Callable[[], bool]
) -> tuple[bytes, str]:
    """What the process says about the paths, and how it ended."""
    text: bytes | None = "".join(f"{path}\n" for path in paths).encode(errors="surrogateescape")
    seconds = _SECONDS_START + _SECONDS_EACH * len(paths)
    until = time.monotonic() + seconds
    while True:
        try:
            output, _ = process.communicate(text, timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            text = None  # it is kept by the process object
        else:
            return output, f"ended with code {process.returncode}"
        if is_stopped() or time.monotonic() > until:
            process.kill()
            output, _ = process.communicate()
            return output, "was stopped" if is_stopped() else f"did not end within {seconds:.0f} s"


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
