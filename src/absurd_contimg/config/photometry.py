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
    uncatalogued_sigma_min: float = Field(6.0, ge=4)
    """A peak of the residual image above this many times the noise is measured as a source that is
    not in the catalogue. An image has 3e4 beams: noise alone gives 3e-5 of them."""
    uncatalogued_max: int = Field(200, ge=0)
    """At most this many in an image."""


class VariabilityConfig(Section):
    """Light curves: their normalisation, and the gates of variables and new sources."""

    vs_min: float = Field(4.3, gt=0)
    """Two epochs differ when |Vs| reaches this (VAST, Mooley et al. 2016: 4.3)."""
    m_min: float = Field(0.26, ge=0, lt=2)
    """And when |m| exceeds this (the same: 0.26, a change by 30 %)."""
    neighbour_radius_deg: float = Field(1.0, gt=0, le=5)
    """The flux scale at a source is that of its neighbours within this distance."""
    neighbours_min: int = Field(5, ge=1)
    """With fewer stable neighbours a flux is not normalised."""
    neighbour_snr_min: float = Field(10.0, gt=0)
    """Fainter neighbours do not count."""
    relative_error: float = Field(0.02, ge=0)
    """Added to all errors: fluxes in single images scatter by 2 % (measured), for the beam and
    cleaning."""
    new_sigma_min: float = Field(5.0, gt=0)
    """A source is new if an earlier image would have shown it with this many sigma."""
    before_sigma_max: float = Field(3.0, gt=0)
    """And if its position has less than this in all of them."""
    earlier_images_max: int = Field(50, ge=1)
    """At most this many earlier images are searched for a new source, the latest first."""
