"""The settings of mosaics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from absurd_contimg.config.section import Section

MosaicTier = Literal["quicklook", "nightly", "deep"]
"""What a mosaic is made of: one window, the groups of one night, those of many nights."""


class TierLimits(Section):
    """The limits of a mosaic's tier, relative to the noise that is expected of its own tiles.

    The telescope's earlier limits in Jy (10, 1 and 0.5 mJy) are below the noise of every image
    (8 to 12 mJy), so that two of three tiers would have selected nothing.
    """

    tile_noise_max: float = Field(gt=0)
    """A tile whose noise is this many times the median of all tiles is refused."""
    noise_error_max: float = Field(gt=0)
    """Largest relative difference of the mosaic's noise from 1/sqrt(weight)."""


class MosaicConfig(Section):
    """Mosaics: which tiles are used, the size of the canvas, and the gates."""

    pixels_max: int = Field(8192**2, ge=1)
    """Of a canvas (the telescope's own cap). One of 10 tiles of 1280 x 8 arcsec has 9 million."""
    tiles_min: int = Field(2, ge=1)
    """With fewer usable tiles there is no mosaic."""
    tiles_fraction_min: float = Field(0.5, ge=0, le=1)
    """Used tiles over members, below which a mosaic is degraded."""
    refused_gates: tuple[str, ...] = ("flux", "position", "noise")
    """A tile that failed one of these gates of its own validation is refused: a calibration of
    another strip gave fluxes 16 times too low (the telescope's own notes)."""
    tile_completeness_min: float = Field(0.5, ge=0, le=1)
    """Share of the catalogue sources expected in a tile that must be where the catalogue has them:
    otherwise the tile is refused, and a mosaic with it is degraded. Not the 0.9 that an image needs
    to be clean: of 16 sources two that are missing fail that, and spoil no mosaic. With a wrong
    clock or declination nearly none is there (0 of 16 at 60 s, measured), nor with fluxes below 0.3
    of the catalogue's, where flux and position have nothing to measure. Half is far from both."""
    tile_sources_min: int = Field(2, ge=1)
    """With fewer expected sources a tile is not judged by them: a single source may be variable,
    or resolved."""
    beam_tolerance: float = Field(0.02, ge=0)
    """Restoring beams whose widths differ by less are taken for equal; others are convolved to a
    common beam."""
    beam_area_ratio_max: float = Field(1.5, gt=1)
    """A tile whose restoring beam has an area this many times larger or smaller than the median is
    refused: it would cost all others their resolution."""
    tile_snr_min: float = Field(30.0, gt=0)
    """Sources above this in both of two tiles are compared between them."""
    tile_ratio_error_max: float = Field(0.03, gt=0)
    """Largest difference of a source's flux between two tiles, beyond twice the error of noise."""
    negative_sigma: float = Field(6.0, gt=0)
    """Spots below minus this times the noise count as negative sources."""
    negative_fraction_max: float = Field(0.2, ge=0)
    """Largest number of negative sources over that of positive ones."""
    quicklook: TierLimits = TierLimits(tile_noise_max=3.0, noise_error_max=0.3)
    """Limits for the mosaic of one window, against the expected noise."""
    nightly: TierLimits = TierLimits(tile_noise_max=2.0, noise_error_max=0.2)
    """For the groups of one night."""
    deep: TierLimits = TierLimits(tile_noise_max=1.5, noise_error_max=0.2)
    """For those of many nights."""

    def recognises(self, n_matched: int, n_expected: int) -> bool:
        """Whether so many of the expected catalogue sources allow to use a tile."""
        if n_expected < self.tile_sources_min:
            return True
        return n_matched >= self.tile_completeness_min * n_expected

    def limits(self, tier: MosaicTier) -> TierLimits:
        """The limits of a tier."""
        limits: TierLimits = getattr(self, tier)
        return limits
