"""A light curve as a PNG: fluxes with their errors over time, and the catalogue's flux."""

# matplotlib takes seconds to import and may be missing: imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from absurd_contimg.plotting import plain_text, plotting_libraries
from absurd_contimg.science.light_curves import LightCurve
from absurd_contimg.whole_files import replaced_file

_PNG = b"\x89PNG\r\n\x1a\n"
_INK = "#1b6ca8"
_RAW = "#b9b9b9"
_CATALOGUE = "#b5651d"
_EPOCH_OF_MJD = datetime(1858, 11, 17, tzinfo=UTC)


def utc_of(mjd: float) -> datetime:
    """The time of a modified Julian date."""
    return _EPOCH_OF_MJD + timedelta(days=mjd)


def write_light_curve(curve: LightCurve, path: Path) -> None:
    """Write the picture; equal input gives equal bytes.

    Raises `SettingError` without the plots extra, or if something else than a PNG is there.
    """
    with (
        plotting_libraries(path.parent, "matplotlib.dates"),
        replaced_file(path, "PNG", lambda head: head.startswith(_PNG)) as file,
    ):
        _draw(curve).savefig(file, format="png", metadata={"Software": None})


def _draw(curve: LightCurve) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.4), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    times: Any = [utc_of(point.mjd).replace(tzinfo=None) for point in curve.points]
    flux, error, raw = (
        1e3 * np.array([getattr(point, name) for point in curve.points])
        for name in ("flux_jy", "error_jy", "measured_jy")
    )
    axes.plot(times, raw, "o", ms=4, mfc="none", color=_RAW, label="before normalisation")
    axes.errorbar(
        times, flux, error, fmt="o", ms=5, lw=1.2, capsize=2, color=_INK, label="normalised"
    )
    if curve.catalogue_jy is not None:
        axes.axhline(1e3 * curve.catalogue_jy, color=_CATALOGUE, lw=1, ls="--", label="catalogue")
    low, high = (flux - error).min(), (flux + error).max()
    margin = 0.15 * (high - low) or 1.0
    axes.set_ylim(min(0.0, low - margin), high + margin)
    axes.set(ylabel="Flux density, mJy", xlabel="Time, UTC")
    axes.grid(color="#7a7a7a", alpha=0.28, linewidth=0.5)
    axes.legend(loc="lower right", fontsize=8, frameon=False, ncols=3)
    title = f"{plain_text(curve.source)}   {statistics_line(curve)}"
    axes.set_title(title, fontsize=10, loc="left")
    figure.autofmt_xdate(rotation=25)
    return figure


def statistics_line(curve: LightCurve) -> str:
    """The statistics of a light curve as a phrase."""
    statistics = curve.variability
    if statistics.pair is None or statistics.modulation is None or statistics.eta is None:
        return f"{statistics.n_epochs} epoch{'' if statistics.n_epochs == 1 else 's'}"
    verdict = "variable" if statistics.variable else "not variable"
    return (
        f"{statistics.n_epochs} epochs, V {statistics.modulation:.3f}, eta {statistics.eta:.2f}, "
        f"Vs {statistics.pair.vs:+.1f}, m {statistics.pair.m:+.2f}: {verdict}"
    )
