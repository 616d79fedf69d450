"""The folders and variables of a site that has one raw file and no registry yet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def prepare_site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the folders below this one and set the variables; all others of this package go."""
    for name in list(os.environ):
        if name.startswith(("ABSURD_", "PIPELINE_", "CONTIMG_")):
            monkeypatch.delenv(name)
    for name in ("input", "output", "scratch", "state"):
        monkeypatch.setenv(f"PIPELINE_{name.upper()}_DIR", str(folder / name))
    for name in ("input", "output"):
        (folder / name).mkdir()
    monkeypatch.setenv("COLUMNS", "400")
    catalogue = folder / "input" / "catalog.csv"
    catalogue.write_text("name,ra_deg,dec_deg,flux_jy,spectral_index,calibrator\na,1,2,3,0,1\n")
    (folder / "input" / "2026-01-01T00:00:00_sb00.hdf5").touch()
