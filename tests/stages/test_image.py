"""The parts of imaging that need no data."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from absurd_contimg.config import ImagingConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.science.catalogue import SkySource
from absurd_contimg.science.imagers import (
    bright_residuals,
    check_imager,
    clean_regions,
    run_imager,
)
from absurd_contimg.science.noise import robust_rms


def test_noise_is_measured_between_sources() -> None:
    """A bright source and blank pixels do not count."""
    values = np.random.default_rng(1).normal(0, 0.01, 100_000)
    values[:100], values[100:200] = 50.0, np.nan
    assert robust_rms(values) == pytest.approx(0.01, rel=0.02)
    assert robust_rms(np.array([np.nan])) == 0.0


def test_an_imager_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is done, with both ways out."""
    monkeypatch.setenv("PATH", "/nowhere")
    check_imager(ImagingConfig())
    with pytest.raises(SettingError, match=r"no wsclean on the PATH.*apt-get.*tclean"):
        check_imager(ImagingConfig(imager="wsclean"))


def test_tclean_cleans_deep_within_a_mask_and_gently_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a calibrator of 10 Jy deep cleaning without a mask ended at 933 Jy (measured)."""
    calls: list[dict[str, Any]] = []

    class Stop(Exception):
        pass

    def tclean(**options: Any) -> None:
        calls.append(options)
        raise Stop

    tasks = SimpleNamespace(tclean=tclean, exportfits=None)
    monkeypatch.setitem(sys.modules, "casatasks", tasks)
    for regions in (["circle[[1deg, 2deg], 60arcsec]"], []):
        with pytest.raises(Stop):
            run_imager(tmp_path / "a.ms", tmp_path, ImagingConfig(), regions)
    keys = "mask", "cyclefactor", "minpsffraction", "gain"
    masked, without = ([call[key] for key in keys] for call in calls)
    assert masked == [str(tmp_path / "mask.crtf"), 0.04, 0.01, 0.3]
    assert without == ["", 0.3, 0.05, 0.1]


def test_clean_regions_are_the_bright_sources_inside_the_image() -> None:
    """Across RA 0 h; not the one behind the telescope, whose direction cosines are small too."""
    settings = ImagingConfig(size_px=900, cell_arcsec=8.0)
    places = [(359.9, 16.0, 1.0), (0.2, 15.2, 0.02), (0.2, 15.2, 0.004), (0.0, 16.99, 1.0)]
    places += [(1.3, 16.0, 1.0), (180.0, -16.0, 1.0)]
    sources = [SkySource(f"S{n}", *place, -0.7) for n, place in enumerate(places)]
    regions = clean_regions(sources, 0.0, 16.0, settings)
    assert regions == [
        "circle[[359.9000000deg, 16.0000000deg], 60.0arcsec]",
        "circle[[0.2000000deg, 15.2000000deg], 60.0arcsec]",
    ]
    assert clean_regions(sources, 0.0, 16.0, ImagingConfig(mask_radius_arcsec=0)) == []
    assert clean_regions([], 0.0, 16.0, settings) == []


def test_a_source_outside_the_mask_is_added_and_a_sidelobe_is_not() -> None:
    """Sidelobes are as deep as high; a blank or empty image has no source."""
    residual = np.random.default_rng(1).normal(0, 0.01, (100, 100))
    mask = np.zeros((100, 100), dtype=bool)
    mask[45:55, 45:55], residual[50, 50] = True, 5.0
    residual[20, 20], residual[30, 30] = 0.2, -0.18
    assert not bright_residuals(residual, mask, 3.0).any()
    residual[70, 20], residual[10, 80] = 1.0, 0.6
    added = bright_residuals(residual, mask, 3.0)
    assert added[67:74, 20].all()
    assert added[10, 80]
    assert added.sum() == 2 * 29
    for empty in (np.zeros((100, 100)), np.full((100, 100), np.nan)):
        assert not bright_residuals(empty, mask, 3.0).any()
