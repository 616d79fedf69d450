"""The parts of imaging that need no data."""

from __future__ import annotations

import numpy as np
import pytest

from absurd_contimg.config import ImagingConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.science.imagers import check_imager
from absurd_contimg.stages.image import robust_rms


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
