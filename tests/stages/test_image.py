"""The parts of imaging that need no data."""

from __future__ import annotations

import numpy as np
import pytest

from absurd_contimg.config import ImagingConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.science.catalogue import SkySource
from absurd_contimg.science.imagers import bright_residuals, check_imager, clean_regions
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
