"""The comparison of recovered sources with injected ones."""

from __future__ import annotations

from dataclasses import replace

from absurd_contimg.products.outputs import SourceCheck
from absurd_contimg.synthesis import compare_sources


def test_a_missing_or_wrong_source_fails_the_comparison() -> None:
    """The demo's gate: every source of 0.5 Jy within 6 % and 1.5 arcsec."""
    good = SourceCheck("a", 0.0, 16.0, 1.0, 0.9, 50.0, True, 1.03, position_error_arcsec=0.5)
    assert compare_sources([good]).within()
    assert compare_sources([good, replace(good, flux_jy=0.1)]).n_sources == 1
    assert not compare_sources([replace(good, measured_jy=1.07)]).within()
    assert not compare_sources([replace(good, position_error_arcsec=1.6)]).within()
    missing = replace(good, measured_jy=None, position_error_arcsec=None)
    assert not compare_sources([good, missing]).within()
    assert not compare_sources([]).within()
