"""The calibrator that is chosen for a group."""

from __future__ import annotations

import pytest
from drift_scan import drift
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.config import BeamConfig, CalibrationConfig
from absurd_contimg.errors import NoCalibratorError
from absurd_contimg.science.calibrators import candidates, choose_calibrator
from absurd_contimg.science.catalogue import SkySource

CALIBRATION, BEAM = CalibrationConfig(), BeamConfig()


@given(st.floats(0, 359.99), st.floats(-0.64, 0.64))
def test_transiting_calibrator_is_chosen_at_any_right_ascension(ra: float, offset: float) -> None:
    """Across 0 h as anywhere."""
    there = SkySource("C", (ra + offset) % 360, 16.2, 5.0, calibrator=True)
    chosen = choose_calibrator("auto", [there], drift(ra), CALIBRATION, BEAM)
    assert chosen is not None
    assert chosen.source is there


def test_brightest_calibrator_through_the_beam_is_chosen() -> None:
    """A brighter source that is no calibrator, and a brighter one off the axis, do not count."""
    good = SkySource("good", 150.1, 16.1, 3.0, calibrator=True)
    others = [
        SkySource("plain", 150.0, 16.0, 50.0),
        SkySource("faint", 150.0, 16.0, 0.1, calibrator=True),
        SkySource("off", 150.0, 16.95, 3.2, calibrator=True),
        SkySource("later", 151.5, 16.0, 90.0, calibrator=True),
    ]
    chosen = choose_calibrator("auto", [*others, good], drift(150.0), CALIBRATION, BEAM)
    assert chosen is not None
    assert chosen.source is good
    assert choose_calibrator("auto", others[:2], drift(150.0), CALIBRATION, BEAM) is None
    assert candidates(others, drift(150.0), BEAM)[0].source.name == "later"
    with pytest.raises(NoCalibratorError, match="does not transit during the group"):
        choose_calibrator("later", others, drift(150.0), CALIBRATION, BEAM)
    with pytest.raises(NoCalibratorError, match="calibrator_flux_min_jy"):
        choose_calibrator("faint", others, drift(150.0), CALIBRATION, BEAM)
