"""CASA's environment: offline, honest about leap seconds, nothing outside its folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from casacore.tables import table

from absurd_contimg.errors import SettingError
from absurd_contimg.execution import casa_environment as casa


def test_the_environment_names_files_below_its_folder(tmp_path: Path) -> None:
    """And CASA is not imported by preparing it: the worker does that."""
    already = {name for name in sys.modules if name.startswith("casatools")}
    environment = casa.casa_environment(tmp_path / "scratch", tmp_path / "logs/casa.log")
    assert environment["CASALOGFILE"] == str(tmp_path / "logs/casa.log")
    for name in ("CASASITECONFIG", "MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TMPDIR"):
        assert Path(environment[name]).exists()
        assert Path(environment[name]).is_relative_to(tmp_path / "scratch")
    settings: dict[str, object] = {}
    text = Path(environment["CASASITECONFIG"]).read_text()
    exec(text.replace('_os.environ["CASALOGFILE"]', "'log'"), settings)
    assert settings["data_auto_update"] is False
    assert Path(str(settings["measurespath"]), "geodetic/Observatories").is_dir()
    assert {name for name in sys.modules if name.startswith("casatools")} == already


def test_baselines_are_numbered_without_a_compiler(tmp_path: Path) -> None:
    """Numba's takes 2 s in each process; the numbers are those of UVH5."""
    environment = casa.casa_environment(tmp_path, tmp_path / "casa.log")
    code = (
        "import numba; from pyuvdata.utils import antnums_to_baseline as number;"
        "print(numba.config.DISABLE_JIT, number([1, 2], [3, 117], Nants_telescope=118).tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split(maxsplit=1) == [
        "1",
        f"[{2048 + 3 + 65536}, {2 * 2048 + 117 + 65536}]\n",
    ]


def test_docstrings_are_kept_whatever_the_worker_runs_with(tmp_path: Path) -> None:
    """CASA's packages do not work without them and without assertions (PYTHONOPTIMIZE)."""
    environment = casa.casa_environment(tmp_path, tmp_path / "casa.log")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; print(sys.flags.optimize)"],
        env={**os.environ, "PYTHONOPTIMIZE": "2", **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout == "0\n"


def test_the_leap_second_table_is_current_and_otherwise_unchanged(tmp_path: Path) -> None:
    """Only its version date differs from the package's."""
    folder = casa.measures_overlay(tmp_path, date(2026, 1, 5))
    with table(str(folder / "geodetic/TAI_UTC"), ack=False) as overlaid:
        assert overlaid.getkeyword("VS_DATE").startswith("2026/01/05")
        assert overlaid.getcol("dUTC")[-1] == 37.0
    assert {p.name for p in (folder / "geodetic").iterdir() if not p.is_symlink()} == {"TAI_UTC"}


def test_a_leap_second_table_that_lacks_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the IERS announces another, CASA's times would be wrong by a second."""
    known, expires = casa._iers_leap_seconds()
    monkeypatch.setattr(casa, "_iers_leap_seconds", lambda: ([*known, (62000.0, 38.0)], expires))
    with pytest.raises(SettingError, match="lacks the leap second of MJD 62000"):
        casa.measures_overlay(tmp_path, date(2026, 1, 1))


def test_an_expired_list_vouches_for_no_later_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its expiry the date stays there, and CASA warns again in time."""
    known, _ = casa._iers_leap_seconds()
    monkeypatch.setattr(casa, "_iers_leap_seconds", lambda: (known, date(2026, 6, 28)))
    folder = casa.measures_overlay(tmp_path, date(2030, 1, 1))
    with table(str(folder / "geodetic/TAI_UTC"), ack=False) as overlaid:
        assert overlaid.getkeyword("VS_DATE").startswith("2026/06/28")


def test_a_missing_data_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(SettingError, match=r"casadata is not installed.*pip install"):
        casa.casa_environment(tmp_path, tmp_path / "log")
    shutil.rmtree(tmp_path)
