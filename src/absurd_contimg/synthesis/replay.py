"""Writing finished sub-band files again as the correlator does: all at once, at its pace.

Files of a group grow integration by integration under names that end in ``_incomplete.hdf5`` and
are renamed when they are whole. For tests of what reads beside the writer.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from absurd_contimg.errors import InputError
from absurd_contimg.owned_folders import Mark, temporary_folder
from absurd_contimg.science.raw_file import RawHeader, read_raw_header
from absurd_contimg.synthesis.config import SynthesisConfig
from absurd_contimg.synthesis.observe import SynthesisResult, prepare_folder, synthesize

_GROWING = (
    *(f"Header/{key}" for key in ("ant_1_array", "ant_2_array", "time_array")),
    *(f"Header/{key}" for key in ("integration_time", "uvw_array")),
    *(f"Data/{key}" for key in ("visdata", "flags", "nsamples")),
)

_MARK = Mark("synthesis", "contimg synth")
_APART_SECONDS = 0.1
"""The 16 nodes are not in step: so long from one renaming to the next."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast files are written. The clock can be replaced by a test."""

    speed: float
    """Seconds of observation for each second of writing."""
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def synthesize_at_pace(output_dir: Path, config: SynthesisConfig, pace: Pace) -> SynthesisResult:
    """As `synthesize`; the files appear one group after the other, at this pace."""
    prepare_folder(output_dir)
    with temporary_folder(output_dir, _MARK) as folder:
        made = synthesize(folder / "files", config)
        placed = {path: Path(shutil.copy2(path, output_dir)) for path in (made.catalog, made.truth)}
        replay([group.files for group in made.groups], output_dir, pace)
    groups = (
        replace(group, files=tuple(output_dir / path.name for path in group.files))
        for group in made.groups
    )
    return SynthesisResult(output_dir, placed[made.catalog], placed[made.truth], tuple(groups))


def replay(groups: Iterable[Sequence[Path]], output_dir: Path, pace: Pace) -> None:
    """Write each group's files into a folder, when their data say, in seconds divided by the speed.

    A file that is no sub-band in the writer's form is copied at the end of its group.
    """
    first_jd: float | None = None
    begin = pace.now()
    for paths in groups:
        copies = [_open(path, output_dir) for path in paths]
        files = [copy for copy in copies if copy is not None]
        ends = sorted({end for file in files for end in file.ends_jd})
        for end in ends:
            first_jd = end if first_jd is None else first_jd
            due = begin + (end - first_jd) * 86400.0 / pace.speed
            pace.sleep(max(0.0, due - pace.now()))
            for file in files:
                file.grow_to(end)
        for path, copy in zip(paths, copies, strict=True):
            pace.sleep(_APART_SECONDS / pace.speed)
            if copy is None:
                shutil.copy2(path, output_dir)
            else:
                copy.finish(output_dir / path.name)


def _open(path: Path, output_dir: Path) -> _GrowingCopy | None:
    try:
        header = read_raw_header(path)
    except InputError:
        return None
    return _GrowingCopy(header, output_dir / f"{path.stem}_incomplete.hdf5")


class _GrowingCopy:
    """A copy of a file that has as many integrations as were told."""

    def __init__(self, header: RawHeader, path: Path) -> None:
        number, middles = header.integrations()
        self.ends_jd = [round(float(middle), 6) for middle in middles]
        self._n_rows = [int(np.count_nonzero(number <= n)) for n in range(len(middles))]
        self._path = path
        self._source: Any = h5py.File(header.path, "r")
        self._copy: Any = h5py.File(path, "w")
        header_group = self._copy.create_group("Header")
        for key in self._source["Header"]:
            if f"Header/{key}" not in _GROWING:
                self._source.copy(f"Header/{key}", header_group)
        for name in _GROWING:
            values, cell = self._source[name], self._source[name].shape[1:]
            self._copy.create_dataset(
                name, (0, *cell), values.dtype, maxshape=(None, *cell), chunks=values.chunks or True
            )

    def grow_to(self, end_jd: float) -> None:
        """Append the integration that ends then, if there is one."""
        if end_jd not in self.ends_jd:
            return
        n_rows = self._n_rows[self.ends_jd.index(end_jd)]
        for name in _GROWING:
            copy = self._copy[name]
            before = copy.shape[0]
            copy.resize(n_rows, axis=0)
            copy[before:] = self._source[name][before:n_rows]
        self._copy["Header/Nblts"][()] = n_rows
        self._copy.flush()  # so that what reads beside it sees it grow

    def finish(self, path: Path) -> None:
        """Close the copy and give it its name."""
        self._source.close()
        self._copy.close()
        self._path.rename(path)
