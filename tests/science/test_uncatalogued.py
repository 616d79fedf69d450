"""Sources that are not in the catalogue are found, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from sky_images import (
    BEAM_ANGLE_DEG,
    BEAM_ARCSEC,
    CELL_ARCSEC,
    draw_noise,
    draw_sources,
    random_sources,
    sky_wcs,
)

from absurd_contimg.science.catalogue import SkySource
from absurd_contimg.science.cross_match import cross_match
from absurd_contimg.science.noise_map import NoiseMap
from absurd_contimg.science.photometry import PhotometryImage, measure_fluxes
from absurd_contimg.science.restoring_beams import RestoringBeam
from absurd_contimg.science.uncatalogued import find_uncatalogued, position_name

SHAPE = (600, 600)
RMS = 4e-3
BEAM_PX = BEAM_ARCSEC[0] / CELL_ARCSEC


def _search(
    sky: list[SkySource], catalogue: list[SkySource], seed: int = 1, count_max: int = 99
) -> list[SkySource]:
    wcs = sky_wcs(SHAPE, ra_deg=0.0)
    noise = draw_noise(np.random.default_rng(seed), SHAPE, RMS, width=1 / np.sqrt(2))
    pixels = noise + draw_sources(wcs, SHAPE, sky)
    pixels[:20] = np.nan
    noise_map = NoiseMap.measure(pixels, 30 * BEAM_PX, 2 * BEAM_PX)
    image = PhotometryImage(
        pixels, noise_map, None, wcs, RestoringBeam(*BEAM_ARCSEC, BEAM_ANGLE_DEG)
    )
    fluxes = measure_fluxes(image, catalogue, 2.5)
    return find_uncatalogued(image, catalogue, fluxes, 6.0, 0.2, count_max)


def test_a_new_source_is_found_beside_catalogue_sources() -> None:
    """Also one at two beams from a catalogue source of twice its flux; brightest first."""
    wcs = sky_wcs(SHAPE, ra_deg=0.0)
    catalogue = random_sources(np.random.default_rng(5), wcs, SHAPE, 30, (0.02, 1.0))
    near = [*(float(v) for v in wcs.wcs_pix2world(300.3, 300.4, 0))]
    catalogue = [s for s in catalogue if abs(s.dec_deg - near[1]) > 0.1]
    catalogue.append(SkySource("near", near[0], near[1], 0.2))
    new = [
        SkySource(
            "new", *(float(v) for v in wcs.wcs_pix2world(301.6, 300.4 + 2 * BEAM_PX, 0)), 0.1
        ),
        SkySource("newer", *(float(v) for v in wcs.wcs_pix2world(450.2, 301.0, 0)), 0.06),
    ]
    peaks = _search([*catalogue, *new], catalogue)
    matches = cross_match(peaks, new, 15.0)
    assert [match.matched for match in matches] == [0, 1]
    assert [peak.flux_jy for peak in peaks] == pytest.approx([0.1, 0.06], abs=0.015)
    assert len(_search([*catalogue, *new], catalogue, count_max=1)) == 1


def test_nothing_is_found_where_all_is_in_the_catalogue() -> None:
    """In noise alone, beside blank pixels and bright sources."""
    wcs = sky_wcs(SHAPE, ra_deg=0.0)
    catalogue = random_sources(np.random.default_rng(6), wcs, SHAPE, 40, (0.02, 3.0))
    for seed in range(3):
        assert _search(catalogue, catalogue, seed) == []


def test_errors_of_a_bright_source_are_no_sources() -> None:
    """A source of 10 Jy whose shape is not quite the beam leaves peaks that are left out."""
    wcs = sky_wcs(SHAPE, ra_deg=0.0)
    place = [float(v) for v in wcs.wcs_pix2world(300, 300, 0)]
    beside = [float(v) for v in wcs.wcs_pix2world(300, 300 + 3 * BEAM_PX, 0)]
    sky = [SkySource("bright", *place, 10.0), SkySource("artefact", *beside, 0.2)]
    assert _search(sky, sky[:1]) == []


@pytest.mark.parametrize(("flux_jy", "is_source"), [(0.1, False), (0.3, True)])
def test_sidelobes_of_a_source_beyond_the_rim_are_no_sources(
    flux_jy: float, is_source: bool
) -> None:
    """Nobody cleans it: with 28 antennas 20 ridges in one image counted as new sources."""
    wcs = sky_wcs(SHAPE, ra_deg=0.0)
    inside, outside = (
        [float(v) for v in wcs.wcs_pix2world(x, 300.0, 0)] for x in (500.0, SHAPE[1] + 50.0)
    )
    sidelobe = SkySource("sidelobe", *inside, flux_jy)
    assert bool(_search([sidelobe], [SkySource("outside", *outside, 1.0)])) is is_source


@pytest.mark.parametrize(
    ("ra_deg", "dec_deg", "name"),
    [
        (10.6847083, 41.26875, "J004244.3+411607"),
        (359.99999, -0.0001, "J235959.9-000000"),
        (0.0, 0.0, "J000000.0+000000"),
        (360.0, -89.99, "J000000.0-895924"),
    ],
)
def test_names_are_positions(ra_deg: float, dec_deg: float, name: str) -> None:
    """Truncated, never rounded up to 60 seconds."""
    assert position_name(ra_deg, dec_deg) == name
