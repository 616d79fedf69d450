"""The environment of processes that use CASA, made without it: offline, one log file."""

from __future__ import annotations

import importlib.util
import struct
from datetime import UTC, date, datetime
from pathlib import Path

from absurd_contimg.errors import SettingError
from absurd_contimg.whole_files import copy_folder

_SITE_CONFIG = """\
# Written by absurd-contimg; CASA executes it when it is imported.
import os as _os

measurespath = {measures!r}
datapath = [{measures!r}]
cachedir = {cache!r}
data_auto_update = False
measures_auto_update = False
skipnetworkcheck = True
nologger = True
nogui = True
agg = True
logfile = _os.environ["CASALOGFILE"]
"""

_ASTROPY_CONFIG = """\
[utils.iers.iers]
auto_download = False
"""


def casa_environment(folder: Path, log: Path, today: date | None = None) -> dict[str, str]:
    """Prepare the new `folder` for a process that uses CASA; returns environment variables.

    CASA logs to `log`; the caller sets OMP_NUM_THREADS; `today` is for tests. Raises
    `SettingError` when CASA's data package is not installed, or lacks leap seconds of the IERS.
    """
    folder = folder.absolute()
    for name in ("home", "cache", "matplotlib", "config/astropy", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    measures = measures_overlay(folder / "measures", today or datetime.now(UTC).date())
    site = folder / "casasiteconfig.py"
    site.write_text(_SITE_CONFIG.format(measures=str(measures), cache=str(folder / "cache")))
    (folder / "config/astropy/astropy.cfg").write_text(_ASTROPY_CONFIG)
    return {
        # CASA 6.7.6 leaves a .casarc there, and every CASA reads ~/.casa/config.py.
        "HOME": str(folder / "home"),
        "CASASITECONFIG": str(site),
        "CASALOGFILE": str(log.absolute()),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "MPLBACKEND": "Agg",
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "TMPDIR": str(folder / "tmp"),
        "CASA_TMPDIR": str(folder / "tmp"),
        "HDF5_USE_FILE_LOCKING": "FALSE",
        # pyuvdata numbers baselines with numba, which compiles for 2 s in each process what numpy
        # does in a millisecond for a group of full size; nothing else here uses it.
        "NUMBA_DISABLE_JIT": "1",
        "PYTHONHASHSEED": "0",
        # CASA's packages need their docstrings; an empty value counts as none.
        "PYTHONOPTIMIZE": "",
    }


def measures_overlay(folder: Path, today: date) -> Path:
    """CASA's data as links, with a copy of the leap-second table that has today's date.

    CASA rejects a table whose date is half a year old, even if it equals the list of the IERS;
    the date is at most that of the list's expiry.
    """
    source = _package_folder("casadata") / "__data__"
    if not (source / "geodetic" / "TAI_UTC").is_dir():
        raise SettingError(
            f"CASA's data package at {source} has no leap-second table geodetic/TAI_UTC.",
            "Install it again: pip install --force-reinstall casadata.",
        )
    geodetic = folder / "geodetic"
    geodetic.mkdir(parents=True, exist_ok=True)
    for entry in (*source.iterdir(), *(source / "geodetic").iterdir()):
        if entry.name not in ("geodetic", "TAI_UTC"):
            (folder / entry.relative_to(source)).symlink_to(entry)
    table = source / "geodetic" / "TAI_UTC"
    expires = _check_leap_seconds(table)
    _copy_with_date(table, geodetic / "TAI_UTC", min(today, expires))
    return folder


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SettingError(
            f"the package {name} is not installed, so CASA cannot run.",
            "Install the CASA extra: pip install 'absurd-contimg[casa]'.",
        )
    return Path(spec.origin).parent


def _iers_leap_seconds() -> tuple[list[tuple[float, float]], date]:
    """All (MJD, TAI - UTC in seconds) of the IERS list, and the day on which it expires."""
    listing = _package_folder("astropy_iers_data") / "data" / "Leap_Second.dat"
    lines = listing.read_text(encoding="ascii").splitlines()
    expiry = next(line for line in lines if "expires on" in line).split("expires on")[1].strip()
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    expires = datetime.strptime(expiry, "%d %B %Y").replace(tzinfo=UTC).date()
    return [(float(r[0]), float(r[4])) for r in rows], expires


def _check_leap_seconds(table: Path) -> date:
    """The expiry of the IERS list; `SettingError` if the table lacks one of its last seconds.

    casacore stores plain doubles of either byte order, so their bytes are searched.
    """
    leaps, expires = _iers_leap_seconds()
    content = b"".join(p.read_bytes() for p in sorted(table.glob("table.f*")))
    for mjd, seconds in leaps[-3:]:
        for value in (mjd, seconds):
            if struct.pack(">d", value) not in content and struct.pack("<d", value) not in content:
                raise SettingError(
                    f"CASA's leap-second table {table} lacks the leap second of MJD {mjd:.0f} "
                    f"(TAI - UTC = {seconds:.0f} s).",
                    "Install a newer casadata; times would be wrong by a second.",
                )
    return expires


def _copy_with_date(table: Path, target: Path, day: date) -> None:
    """Copy a casacore table and set its keyword VS_DATE, which has the form of VS_CREATE."""
    text = (table / "table.dat").read_bytes()
    # VS_CREATE and VS_DATE are the first two values after the names of the keywords, each
    # "YYYY/MM/DD/hh:mm"; both get the same day.
    start = text.index(b"VS_DATE")
    slash = text.index(b"/", start)
    old = text[slash - 4 : slash + 6]
    new = day.strftime("%Y/%m/%d").encode()
    copy_folder(table, target)
    (target / "table.dat").write_bytes(text.replace(old, new))
