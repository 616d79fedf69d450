"""The images that a mosaic is made of, and the outputs of its stage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from absurd_contimg.products.outputs import ContinuumImage


@dataclass(frozen=True, slots=True)
class MosaicMember:
    """A group whose image a mosaic is made of, and what its own validation found."""

    group_id: str
    image: ContinuumImage
    failed_gates: tuple[str, ...] = ()
    n_expected: int = 0
    """Catalogue sources that the image should show; 0, too, where nothing validated it."""
    n_matched: int = 0
    """Those of them that it shows."""


@dataclass(frozen=True, slots=True)
class MissingMember:
    """A member of a window that is in no mosaic of it, and why."""

    group_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class MosaicMembers:
    """The images for a mosaic, in the order of time, and the members without one."""

    tiles: tuple[MosaicMember, ...]
    missing: tuple[MissingMember, ...] = ()


@dataclass(frozen=True, slots=True)
class MosaicTile:
    """A tile of a mosaic, as in its table."""

    group_id: str
    mid_mjd: float
    ra_deg: float
    dec_deg: float
    noise_jy: float
    """As used for the weights: after convolution."""
    n_pixels: int
    """Of the mosaic, to which it contributes."""
    convolved: bool
    """To the common restoring beam."""
    n_expected: int | None = None
    """Catalogue sources that this tile should show; None in earlier versions."""
    n_matched: int | None = None
    """Those of them that it shows where the catalogue has them."""


@dataclass(frozen=True, slots=True)
class TileTable:
    """The file `MosaicImage.tiles_path`."""

    used: tuple[MosaicTile, ...]
    refused: tuple[MissingMember, ...]


@dataclass(frozen=True, slots=True)
class MosaicImage:
    """A mosaic, its weights and its checks; None: there was nothing to compare."""

    path: Path
    """Corrected for the primary beam; blank where there is no tile."""
    weight_path: Path
    """Inverse variance, Jy^-2; 0 where there is no tile."""
    tiles_path: Path
    """JSON file of `TileTable`."""
    checks_path: Path
    """JSON file with figures, pairs of tiles and a row for each source (`SourceTable`)."""
    window_id: str
    tier: str
    verdict: str
    """``accepted`` or ``degraded``."""
    failed_gates: tuple[str, ...]
    n_tiles: int
    n_refused: int
    n_convolved: int
    start_mjd: float
    """Middle of the first tile's observation; likewise the end."""
    end_mjd: float
    mid_mjd: float
    ra_deg: float
    dec_deg: float
    width_px: int
    height_px: int
    cell_arcsec: float
    bmaj_arcsec: float
    bmin_arcsec: float
    bpa_deg: float
    frequency_hz: float
    covered_deg2: float
    covered_once_fraction: float
    """The part of it that only one tile covers."""
    noise_jy: float
    """1/sqrt(weight), median over the covered pixels."""
    noise_ratio: float
    """Measured noise over 1/sqrt(weight)."""
    peak_jy: float
    dynamic_range: float
    """Largest pixel times the square root of its weight."""
    positive_sources: int
    negative_sources: int
    n_tile_pairs: int
    tile_ratio_worst: float | None
    """Mean flux ratio of the sources in two tiles, for the pair that differs most."""
    n_compared: int
    """Catalogue sources for flux and position."""
    flux_ratio_median: float | None
    flux_ratio_scatter: float | None
    position_error_median_arcsec: float | None
    east_offset_arcsec: float | None
    north_offset_arcsec: float | None
    tile_excess_worst: float | None = None
    """How far that ratio is from 1 beyond twice its error; None, too, in earlier versions."""
    completeness_worst: float | None = None
    """The smallest share of its expected catalogue sources that a tile shows, of the tiles with
    enough of them to be judged; None, too, in earlier versions."""


@dataclass(frozen=True, slots=True)
class MosaicOutputs:
    """The outputs of the stage ``mosaic``."""

    mosaic: MosaicImage
