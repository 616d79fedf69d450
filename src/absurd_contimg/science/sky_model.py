"""Model visibilities: point sources through a beam that drifts, which CASA's tasks cannot do.

Phases as pyuvdata writes them: ``exp(+2 pi i (u l + v m + w (n - 1)))``, UVW in wavelengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.config import BeamConfig, CalibrationConfig
from absurd_contimg.errors import OutputError
from absurd_contimg.products.outputs import MeasurementSet
from absurd_contimg.science.beam import SPEED_OF_LIGHT_M_S, BeamCentres, airy_power, source_response
from absurd_contimg.science.catalogue import SkySource, separation_rad, source_vectors, unit_vectors
from absurd_contimg.science.measurement_set import channel_frequencies, open_table, row_chunks


def field_sources(
    sources: Sequence[SkySource],
    ms: MeasurementSet,
    centres: BeamCentres,
    settings: CalibrationConfig,
    beam: BeamConfig,
) -> list[SkySource]:
    """Near and bright sources; without those of a quarter of the calibrator, gains are 4x worse."""
    centre = unit_vectors(np.radians([ms.ra_deg]), np.radians([ms.dec_deg]))
    distance_deg = np.degrees(separation_rad(source_vectors(sources), centre))
    near = distance_deg <= settings.model_radius_deg
    response = source_response(sources, centres, beam.dish_diameter_m)
    return [
        source
        for source, close, value in zip(sources, near, response, strict=True)
        if close and source.flux_jy * value >= settings.model_flux_min_jy
    ]


def direction_cosines(
    ras_deg: Sequence[float], decs_deg: Sequence[float], ra_deg: float, dec_deg: float
) -> NDArray[np.float64]:
    """l, m and n - 1 of directions around a phase centre, shape (directions, 3)."""
    ra = np.radians(np.asarray(ras_deg) - ra_deg)
    dec = np.radians(np.asarray(decs_deg))
    dec0 = math.radians(dec_deg)
    l = np.cos(dec) * np.sin(ra)  # noqa: E741 - the name in every textbook
    m = np.sin(dec) * math.cos(dec0) - np.cos(dec) * math.sin(dec0) * np.cos(ra)
    # n - 1 from l and m, because 1 - cos loses digits for small angles.
    squared = l**2 + m**2
    return np.stack([l, m, -squared / (1.0 + np.sqrt(1.0 - squared))], axis=-1)


def predict(
    uvw_m: NDArray[np.float64],
    integration: NDArray[np.int64],
    frequencies_hz: NDArray[np.float64],
    sources: Sequence[SkySource],
    cosines: NDArray[np.float64],
    centres: BeamCentres,
    centre_cosines: NDArray[np.float64],
    diameter_m: float,
) -> NDArray[np.complex64]:
    """Visibilities of shape (rows, channels), the same for XX and YY; channels are evenly spaced.

    `uvw_m` has the shape (rows, 3); `integration` says for each row which beam centre applies;
    `cosines` and `centre_cosines` are `direction_cosines` of sources and beam centres.
    """
    width = float(np.diff(frequencies_hz).mean()) if len(frequencies_hz) > 1 else 0.0
    tracked = np.einsum("rd,rd->r", uvw_m, centre_cosines[integration]) / SPEED_OF_LIGHT_M_S
    total = np.zeros((len(uvw_m), len(frequencies_hz)), np.complex128)
    for source, lmn, vector in zip(sources, cosines, source_vectors(sources), strict=True):
        rho = separation_rad(centres.vectors, vector)
        beam = airy_power(rho[:, None], frequencies_hz, diameter_m)
        flux = (beam * source.flux_at(frequencies_hz))[integration]
        turns_per_hz = uvw_m @ lmn / SPEED_OF_LIGHT_M_S
        # Bandwidth smearing: a wave's mean over a channel, around the tracked meridian.
        flux *= np.sinc((turns_per_hz - tracked) * width)[:, None]
        wave = np.empty(flux.shape, np.complex128)
        wave[:, 0] = np.exp(2j * math.pi * turns_per_hz * frequencies_hz[0])
        wave[:, 1:] = np.exp(2j * math.pi * turns_per_hz * width)[:, None]  # to the next channel
        np.multiply.accumulate(wave, axis=1, out=wave)
        total += flux * wave
    return total.astype(np.complex64)


def write_model(
    path: Path,
    ms: MeasurementSet,
    sources: Sequence[SkySource],
    centres: BeamCentres,
    beam: BeamConfig,
) -> float:
    """Fill MODEL_DATA of a working copy, or raise `OutputError`; the mean amplitude in Jy."""
    from casatools import calibrater

    tool = calibrater()
    tool.open(str(path), compress=False, addcorr=False, addmodel=True)
    tool.close()
    tool.done()
    frequencies = channel_frequencies(path)
    positions = [s.ra_deg for s in sources], [s.dec_deg for s in sources]
    cosines = direction_cosines(*positions, ms.ra_deg, ms.dec_deg)
    centre_cosines = direction_cosines(centres.ra_deg, centres.dec_deg, ms.ra_deg, ms.dec_deg)
    total = 0.0
    with open_table(path, writable=True) as main:
        if "MODEL_DATA" not in main.colnames():
            raise OutputError(f"CASA did not create MODEL_DATA in {path}.", "See its log.")
        n_rows = main.nrows()
        n_pols = main.getcell("DATA", 0).shape[0]
        for first, count in row_chunks(n_rows, 4 * n_pols * len(frequencies)):
            uvw = np.ascontiguousarray(main.getcol("UVW", first, count).T)
            integration = centres.indices(main.getcol("TIME", first, count) / 86400.0)
            field = (sources, cosines, centres, centre_cosines, beam.dish_diameter_m)
            model = predict(uvw, integration, frequencies, *field)
            total += float(np.abs(model).mean()) * count
            column = np.broadcast_to(model.T, (n_pols, *model.T.shape))
            main.putcol("MODEL_DATA", np.ascontiguousarray(column), first, count)
    if not total > 0:
        raise OutputError(f"the model written to {path} is empty.", "See the sky catalogue.")
    return float(total / n_rows)
