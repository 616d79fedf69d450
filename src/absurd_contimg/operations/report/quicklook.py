"""Quick-look: one FITS image as a PNG that an astronomer can judge at a glance.

Meant for the image that is *not* corrected for the primary beam: its noise is even, so that
faint sources, residual sidelobes and calibration errors look alike everywhere. The correction
would lift the noise at the edge by a factor of five and draw the eye there. Catalogue fluxes and
measured ones, which are corrected, stand beside the sources, and contours show the beam.

Knows FITS and matplotlib; knows no task, no stage and no registry. Needs the plots extra.
"""

# matplotlib and astropy take seconds to import and may be missing: where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

import io
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import CorruptInputError, MissingInputError, SettingError
from absurd_contimg.stages.image import robust_rms

BYTES_MAX = 300_000
"""Larger pictures lose shades of grey until they fit: a report holds one for each group."""

_GREYS = (112, 80, 64, 48, 32, 16)
"""Noise does not compress, so its price is the number of shades that it is drawn in."""
_STRETCH_SIGMA = 4.0
"""The asinh stretch is linear up to here: noise stays visible, yet does not dominate."""
_FLOOR_SIGMA = -5.0
_ZOOMS = 3
_ZOOM_BEAMS = 12.0
_INK = "#1b6ca8"
_MISSED = "#c1121f"
_CONTOUR = "#b5651d"
_BLANK = "#e8e0cc"


@dataclass(frozen=True, slots=True)
class SourceMark:
    """A catalogue source to mark; `measured_jy` is None when it was not found in the image."""

    name: str
    ra_deg: float
    dec_deg: float
    flux_jy: float
    measured_jy: float | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> SourceMark:
        """From a row of the validation table (`SourceCheck` as JSON)."""
        measured = row.get("measured_jy")
        return cls(
            str(row["name"]),
            float(row["ra_deg"]),
            float(row["dec_deg"]),
            float(row["flux_jy"]),
            None if measured is None else float(measured),
        )

    @property
    def label(self) -> str:
        """Name with the flux found, or the one that was not found."""
        if self.measured_jy is None:
            return f"{self.name}\n({_flux(self.flux_jy)})"
        return f"{self.name}\n{_flux(self.measured_jy)}"


def write_quicklook(
    fits_path: Path,
    png_path: Path,
    *,
    title: str,
    sources: Sequence[SourceMark] = (),
    beam_path: Path | None = None,
    rms_jy: float | None = None,
) -> None:
    """Write a picture of a FITS image, at most `BYTES_MAX` bytes; the same input, the same bytes.

    Grey scale with an asinh stretch in units of the image's noise, axes in RA and Dec (ICRS),
    a circle at each of `sources`, close-ups of the brightest with the synthesised beam, and
    contours of the primary beam if `beam_path` names its FITS image (same pixels). `rms_jy` is
    the noise in Jy/beam where it is known better than from all pixels.

    Raises `MissingInputError` or `CorruptInputError` when an image cannot be read, `SettingError`
    when the plots extra is not installed.
    """
    with _plotting_libraries(png_path.parent):
        sky = _Sky.read(fits_path, beam_path, rms_jy)
        picture = _draw(sky, title, sorted(sources, key=lambda one: -one.flux_jy))
    partial = png_path.with_name(f".{png_path.name}.partial")
    partial.write_bytes(picture)
    partial.replace(png_path)


@contextmanager
def _plotting_libraries(folder: Path) -> Iterator[None]:
    """Import matplotlib and astropy with their caches in a folder that is removed again.

    Left alone they write to the home folder; and a matplotlibrc there could change the picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    # It reports every list of fonts that it makes, and here it always makes one.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(dir=folder.absolute(), prefix=".plots-") as private:
        os.environ.update(dict.fromkeys(names, private))
        try:
            import matplotlib

            import_module("astropy.visualization.wcsaxes")
            import_module("matplotlib.font_manager")  # where the caches are written
            with matplotlib.rc_context():
                matplotlib.rcdefaults()
                matplotlib.rcParams.update({"font.size": 9.0, "axes.linewidth": 0.7})
                yield
        except ImportError as error:
            raise SettingError(
                f"Pictures need the plots extra, and {error.name} is not installed.",
                "Install it: pip install 'absurd-contimg[plots]'",
            ) from error
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


@dataclass(frozen=True, slots=True)
class _Sky:
    """The pixels in mJy/beam, their noise, coordinates, and the beams."""

    pixels: NDArray[np.float64]
    rms: float
    wcs: Any
    cell_deg: float
    major_deg: float
    minor_deg: float
    angle_deg: float
    frequency_hz: float | None
    primary_beam: NDArray[np.float64] | None

    @classmethod
    def read(cls, path: Path, beam_path: Path | None, rms_jy: float | None) -> _Sky:
        from astropy.wcs import WCS

        header, plane = _read_plane(path)
        finite = plane[np.isfinite(plane)]
        if finite.size == 0:
            raise CorruptInputError(f"{path} has no finite pixel.", "Image again.")
        # An image of zeros has no noise, but shall be shown all the same.
        rms = rms_jy or robust_rms(finite) or float(np.ptp(finite)) / 100.0 or 1e-3
        wcs = WCS(header).celestial
        return cls(
            1e3 * plane,
            1e3 * rms,
            wcs,
            float(np.mean(np.abs(wcs.wcs.cdelt))),
            float(header.get("BMAJ", 0.0)),
            float(header.get("BMIN", 0.0)),
            float(header.get("BPA", 0.0)),
            float(header["CRVAL3"]) if header.get("CTYPE3") == "FREQ" else None,
            None if beam_path is None else _read_plane(beam_path)[1],
        )

    def place(self, source: SourceMark) -> tuple[float, float] | None:
        """The pixel of a source; None outside the image."""
        x, y = (float(v) for v in self.wcs.wcs_world2pix(source.ra_deg, source.dec_deg, 0))
        height, width = self.pixels.shape
        inside = 0 <= x <= width - 1 and 0 <= y <= height - 1
        return (x, y) if inside else None  # not-a-number, beyond the horizon, is outside


def _read_plane(path: Path) -> tuple[Any, NDArray[np.float64]]:
    from astropy.io import fits

    try:
        with fits.open(path, memmap=False) as hdus:
            header, data = hdus[0].header, hdus[0].data
    except FileNotFoundError as error:
        raise MissingInputError(f"The image {path} is no longer there.") from error
    except (OSError, TypeError, ValueError) as error:  # cut off: astropy reports any of them
        raise CorruptInputError(f"The image {path} cannot be read: {error}.") from error
    if data is None or data.ndim < 2:
        raise CorruptInputError(f"The file {path} holds no image.")
    return header, np.asarray(data, dtype=float).reshape(data.shape[-2:])


# Drawing.


def _draw(sky: _Sky, title: str, sources: Sequence[SourceMark]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import AsinhNorm
    from matplotlib.figure import Figure

    placed = [(one, place) for one in sources if (place := sky.place(one)) is not None]
    figure = Figure(figsize=(10.6, 8.6), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    peak = float(np.nanmax(sky.pixels))
    norm = AsinhNorm(
        linear_width=_STRETCH_SIGMA * sky.rms,
        vmin=_FLOOR_SIGMA * sky.rms,
        vmax=max(peak, 10.0 * sky.rms),
    )
    axes = figure.add_axes((0.085, 0.16, 0.645, 0.775), projection=sky.wcs)
    shown = _show(axes, sky, norm)
    _label_axes(axes)
    _mark(axes, sky, placed)
    _contour_beam(axes, sky)
    _colour_bar(figure, shown, sky, norm)
    for position, (source, place) in enumerate(_brightest(sky, placed)):
        _zoom(figure, position, sky, norm, source, place)
    figure.text(0.085, 0.957, title, fontsize=14, weight="bold", ha="left")
    figure.text(0.985, 0.959, _figures(sky, peak), fontsize=9, ha="right", color="#444444")
    figure.text(0.085, 0.012, _legend(sky, placed), fontsize=8, ha="left", color="#444444")
    return _encode(figure)


def _show(axes: Any, sky: _Sky, norm: Any) -> Any:
    axes.set_facecolor(_BLANK)  # blank pixels differ from empty sky
    # Averaging down to the screen would dim point sources; antialiasing keeps them.
    return axes.imshow(
        sky.pixels, origin="lower", cmap="gray_r", norm=norm, interpolation="antialiased"
    )


def _label_axes(axes: Any) -> None:
    for axis, name, form in ((0, "Right ascension (ICRS)", "hh:mm"), (1, "Declination", "dd:mm")):
        coordinate = axes.coords[axis]
        coordinate.set_axislabel(name, minpad=0.6)
        coordinate.set_major_formatter(form)
        coordinate.set_ticks(number=6, size=5)
        coordinate.display_minor_ticks(True)
        coordinate.grid(color="#7a7a7a", alpha=0.28, linewidth=0.5)
    axes.coords[1].set_ticklabel(rotation=90)


def _mark(axes: Any, sky: _Sky, placed: Sequence[tuple[SourceMark, tuple[float, float]]]) -> None:
    from matplotlib.patches import Circle

    radius = max(2.2 * sky.major_deg / sky.cell_deg, 0.009 * sky.pixels.shape[1])
    for source, (x, y) in placed:
        colour = _MISSED if source.measured_jy is None else _INK
        dashes = "dashed" if source.measured_jy is None else "solid"
        axes.add_patch(Circle((x, y), radius, fill=False, ec=colour, lw=1.1, ls=dashes))
        right = x < 0.86 * sky.pixels.shape[1]
        axes.annotate(
            source.label,
            (x + (radius if right else -radius), y),
            xytext=(3 if right else -3, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=7.5,
            linespacing=1.05,
            color=colour,
            zorder=6,  # above the labels of the contours
            bbox={"facecolor": "white", "alpha": 0.72, "edgecolor": "none", "pad": 0.8},
        )


def _contour_beam(axes: Any, sky: _Sky) -> None:
    beam = sky.primary_beam
    if beam is None or beam.shape != sky.pixels.shape:
        return
    levels = [one for one in (0.3, 0.5, 0.7, 0.9) if np.nanmin(beam) < one < np.nanmax(beam)]
    if not levels:
        return
    contours = axes.contour(beam, levels=levels, colors=_CONTOUR, linewidths=0.8, alpha=0.8)
    for line in contours.clabel(fmt=lambda level: f"{100 * level:.0f} %", fontsize=7):
        line.set_bbox({"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.6})


def _colour_bar(figure: Any, shown: Any, sky: _Sky, norm: Any) -> None:
    axes = figure.add_axes((0.085, 0.082, 0.645, 0.014))
    bar = figure.colorbar(shown, cax=axes, orientation="horizontal")
    steps = (-5, 0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    ticks = [s for s in steps if norm.vmin <= s * sky.rms <= norm.vmax]
    bar.set_ticks([s * sky.rms for s in ticks], labels=[_round(s * sky.rms) for s in ticks])
    bar.ax.minorticks_off()
    said = "Apparent brightness, mJy/beam (ticks at -5, 0, 5, 10, 20, 50 ... times the noise)"
    bar.set_label(said, fontsize=8.5)


def _legend(sky: _Sky, placed: Sequence[tuple[SourceMark, tuple[float, float]]]) -> str:
    parts = []
    if placed:
        parts.append("Circles: catalogue sources with the flux found here, beam-corrected.")
    if any(source.measured_jy is None for source, _ in placed):
        parts.append("Dashed: not found (catalogue flux).")
    if sky.primary_beam is not None:
        parts.append("Contours: primary beam; pixels are not corrected for it.")
    return " ".join(parts)


def _brightest(
    sky: _Sky, placed: Sequence[tuple[SourceMark, tuple[float, float]]]
) -> list[tuple[SourceMark | None, tuple[float, float]]]:
    """The close-ups: the brightest sources found, or the brightest pixel."""
    found = [(s, p) for s, p in placed if s.measured_jy is not None][:_ZOOMS]
    if found:
        return list(found)
    y, x = np.unravel_index(int(np.nanargmax(sky.pixels)), sky.pixels.shape)
    return [(None, (float(x), float(y)))]


def _zoom(
    figure: Any,
    position: int,
    sky: _Sky,
    norm: Any,
    source: SourceMark | None,
    place: tuple[float, float],
) -> None:
    from matplotlib.patches import Ellipse

    axes = figure.add_axes((0.765, 0.665 - 0.3 * position, 0.215, 0.265))
    _show(axes, sky, norm)
    half = _ZOOM_BEAMS / 2 * sky.major_deg / sky.cell_deg or 20.0
    axes.set(xlim=(place[0] - half, place[0] + half), ylim=(place[1] - half, place[1] + half))
    axes.set_aspect("equal")
    axes.set(xticks=[], yticks=[])
    axes.set_title(_zoom_title(sky, source), fontsize=8.5, loc="left", pad=3)
    corner = (place[0] - 0.78 * half, place[1] - 0.78 * half)
    axes.add_patch(
        Ellipse(
            corner,
            sky.minor_deg / sky.cell_deg,
            sky.major_deg / sky.cell_deg,
            # Position angles run from north through east, and east is to the left.
            angle=sky.angle_deg,
            facecolor=_INK,
            edgecolor="white",
            lw=0.8,
        )
    )
    bar_px = 60.0 / 3600.0 / sky.cell_deg
    if bar_px < 1.2 * half:
        right, y = place[0] + 0.88 * half, place[1] - 0.86 * half
        axes.plot([right - bar_px, right], [y, y], color=_INK, lw=2, solid_capstyle="butt")
        axes.text(right - bar_px / 2, y + 0.05 * half, "1′", color=_INK, ha="center", va="bottom")


def _zoom_title(sky: _Sky, source: SourceMark | None) -> str:
    if source is None or source.measured_jy is None:
        return f"Brightest pixel, {_flux(float(np.nanmax(sky.pixels)) / 1e3)}/beam"
    ratio = source.measured_jy / source.flux_jy
    return f"{source.name}: {_flux(source.measured_jy)}, {100 * ratio:.1f} % of catalogue"


def _figures(sky: _Sky, peak: float) -> str:
    parts = [f"noise {sky.rms:.3g} mJy/beam", f"peak {_flux(peak / 1e3)}/beam"]
    if sky.major_deg > 0:
        parts.append(f"beam {3600 * sky.major_deg:.1f}″ × {3600 * sky.minor_deg:.1f}″")
    if sky.frequency_hz is not None:
        parts.append(f"{sky.frequency_hz / 1e9:.3f} GHz")
    return "   ".join(parts)


def _flux(jy: float) -> str:
    """Three figures at most, none of them after a hundred."""
    value, unit = (jy, "Jy") if abs(jy) >= 0.9995 else (1e3 * jy, "mJy")
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f} {unit}"


def _round(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"


def _encode(figure: Any) -> bytes:
    """PNG with a palette, with as many greys as fit into `BYTES_MAX`; no time, no versions."""
    from PIL import Image

    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    encoded = b""
    for greys in _GREYS:
        palette = Image.new("P", (1, 1))
        palette.putpalette(_palette(greys))
        buffer = io.BytesIO()
        reduced = picture.quantize(palette=palette, dither=Image.Dither.NONE)
        reduced.save(buffer, format="PNG", optimize=True)
        encoded = buffer.getvalue()
        if len(encoded) <= BYTES_MAX:
            break
    return encoded


def _palette(greys: int) -> list[int]:
    """Greys from black to white, and the colours of the marks, fading into paper and sky."""
    from matplotlib.colors import to_rgb

    ramp = np.repeat(np.linspace(0.0, 1.0, greys)[:, None], 3, axis=1)
    fading = [
        share * np.array(to_rgb(colour)) + (1.0 - share) * ground
        for colour in (_INK, _MISSED, _CONTOUR, _BLANK)
        for share in (1.0, 0.8, 0.6, 0.4, 0.25)
        for ground in (1.0, 0.8)
    ]
    return np.rint(255.0 * np.concatenate([ramp, fading])).astype(int).ravel().tolist()
