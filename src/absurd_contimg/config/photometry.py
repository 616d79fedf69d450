"""The settings of photometry."""

from __future__ import annotations

from pydantic import Field

from absurd_contimg.config.section import Section


class PhotometryConfig(Section):
    """Forced photometry at the positions of catalogue sources."""

    response_min: float = Field(0.2, gt=0, lt=1)
    """Sources with a smaller mean beam are not measured, as images end there (pblimit 0.2)."""
    joint_fit_beams: float = Field(2.5, ge=1.5, le=5)
    """Sources within this many major axes are fitted together. VAST's 1.5 leaves 4 % of a
    neighbour's flux in a source 1.5 beams away; 2.5 leaves 2e-4 (computed)."""
    noise_box_beams: float = Field(30.0, ge=10)
    """The local noise is measured in boxes of this many major axes: to 4 % each (measured)."""
    ratio_snr_min: float = Field(20.0, gt=0)
    """Sources above this signal-to-noise make the median ratio to the catalogue."""
