"""Quick-look: one FITS image as a PNG that an astronomer can judge at a glance.

It is *not* corrected for the primary beam, which would raise the noise at the edge by a factor of
five; the fluxes in labels are, and contours show the beam.
"""

# matplotlib and astropy take seconds to import and may be missing: imported where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.plotting import plain_text, plotting_libraries
from absurd_contimg.products.outputs import SourceCheck
from absurd_contimg.science.noise import robust_rms
from absurd_contimg.stages.image import read_whole
from absurd_contimg.whole_files import write_whole

BYTES_MAX = 300_000
"""A larger picture is encoded with fewer grey levels: a report holds one for each group."""

_GREYS = (112, 80, 64, 48, 32, 16)
"""Grey levels to try in turn. Noise does not compress, so their number decides the file size."""
_STRETCH_SIGMA = 4.0
"""The asinh stretch is linear up to here: noise stays visible and does not dominate."""
_FLOOR_SIGMA = -5.0
_ZOOMS = 3
_ZOOM_BEAMS = 12.0
_INK = "#1b6ca8"
_MISSED = "#c1121f"
_CONTOUR = "#b5651d"
_BLANK = "#e8e0cc"

_Pixel = tuple[float, float]
_Placed = tuple[SourceCheck, _Pixel]


@dataclass(frozen=True, slots=True)
class _SkyImage:
    """Pixels and noise in mJy/beam; beam sizes and pixel size in degrees."""

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
    def read(cls, path: Path, beam_path: Path | None, rms_jy: float | None) -> _SkyImage:
        """Read the image; raises `MissingInputError` or `CorruptInputError`."""
        from astropy.wcs import WCS

        header, plane = _read_plane(path)
        finite = plane[np.isfinite(plane)]
        if finite.size == 0:
            raise CorruptInputError(f"{path} has no finite pixel.", "Image again.")
        # An image of zeros has no noise, but it must be drawn as well.
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

    def pixel_at(self, ra_deg: float, dec_deg: float) -> tuple[float, float] | None:
        """The pixel at a position; None outside the image."""
        x, y = (float(v) for v in self.wcs.wcs_world2pix(ra_deg, dec_deg, 0))
        height, width = self.pixels.shape
        inside = 0 <= x <= width - 1 and 0 <= y <= height - 1
        return (x, y) if inside else None  # not-a-number, beyond the horizon, is outside


def _read_plane(path: Path) -> tuple[Any, NDArray[np.float64]]:
    try:
        header, data = read_whole(path, CorruptInputError)
    except FileNotFoundError as error:
        raise MissingInputError(f"The image {path} is no longer there.") from error
    except OSError as error:
        raise CorruptInputError(f"The image {path} cannot be read: {error}.") from error
    if data.ndim < 2:
        raise CorruptInputError(f"The file {path} holds no image.")
    return header, data.astype(float).reshape(data.shape[-2:])


def write_quicklook(
    fits_path: Path,
    png_path: Path,
    *,
    title: str,
    sources: Sequence[SourceCheck] = (),
    beam_path: Path | None = None,
    rms_jy: float | None = None,
) -> None:
    """Write a picture, at most `BYTES_MAX` bytes; equal input gives equal bytes.

    It shows grey levels in units of the noise, circles at `sources`, close-ups of the
    brightest, and contours of the beam in `beam_path`; `rms_jy` is measured by default. Raises
    `MissingInputError`, `CorruptInputError`, or `SettingError` without the plots extra.
    """
    with plotting_libraries(png_path.parent, "astropy.visualization.wcsaxes"):
        sky = _SkyImage.read(fits_path, beam_path, rms_jy)
        picture = _draw(sky, title, sorted(sources, key=lambda source: -source.flux_jy))
    write_whole(png_path, picture)


def _draw(sky: _SkyImage, title: str, sources: Sequence[SourceCheck]) -> bytes:
    from matplotlib import rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import AsinhNorm
    from matplotlib.figure import Figure

    rcParams.update({"font.size": 9.0, "axes.linewidth": 0.7})
    placed = [
        (source, pixel)
        for source in sources
        if (pixel := sky.pixel_at(source.ra_deg, source.dec_deg)) is not None
    ]
    figure = Figure(figsize=(10.6, 8.6), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    peak = float(np.nanmax(sky.pixels))
    norm = AsinhNorm(
        linear_width=_STRETCH_SIGMA * sky.rms,
        vmin=_FLOOR_SIGMA * sky.rms,
        vmax=max(peak, 10.0 * sky.rms),
    )
    axes = figure.add_axes((0.085, 0.16, 0.645, 0.775), projection=sky.wcs)
    image = _show(axes, sky, norm)
    _label_axes(axes)
    _mark(axes, sky, placed)
    _contour_beam(axes, sky)
    _colour_bar(figure, image, sky, norm)
    for position, (zoom_title, pixel) in enumerate(_brightest(sky, placed, peak)):
        _zoom(figure, position, sky, norm, zoom_title, pixel)
    figure.text(0.085, 0.957, plain_text(title), fontsize=14, weight="bold", ha="left")
    figure.text(0.985, 0.959, _figures(sky, peak), fontsize=9, ha="right", color="#444444")
    figure.text(0.085, 0.012, _legend(sky, placed), fontsize=8, ha="left", color="#444444")
    return _encode(figure)


def _show(axes: Any, sky: _SkyImage, norm: Any) -> Any:
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


def _mark(axes: Any, sky: _SkyImage, placed: Sequence[_Placed]) -> None:
    from matplotlib.patches import Circle

    radius = max(2.2 * sky.major_deg / sky.cell_deg, 0.009 * sky.pixels.shape[1])
    for source, (x, y) in placed:
        if source.measured_jy is None:
            colour, dashes, flux = _MISSED, "dashed", f"({_flux(source.flux_jy)})"
        else:
            colour, dashes, flux = _INK, "solid", _flux(source.measured_jy)
        axes.add_patch(Circle((x, y), radius, fill=False, ec=colour, lw=1.1, ls=dashes))
        right = x < 0.86 * sky.pixels.shape[1]
        axes.annotate(
            f"{plain_text(source.name)}\n{flux}",
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


def _contour_beam(axes: Any, sky: _SkyImage) -> None:
    beam = sky.primary_beam
    if beam is None or beam.shape != sky.pixels.shape:
        return
    low, high = np.nanmin(beam), np.nanmax(beam)
    levels = [level for level in (0.3, 0.5, 0.7, 0.9) if low < level < high]
    if not levels:
        return
    contours = axes.contour(beam, levels=levels, colors=_CONTOUR, linewidths=0.8, alpha=0.8)
    for line in contours.clabel(fmt=lambda level: f"{100 * level:.0f} %", fontsize=7):
        line.set_bbox({"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.6})


def _colour_bar(figure: Any, image: Any, sky: _SkyImage, norm: Any) -> None:
    axes = figure.add_axes((0.085, 0.082, 0.645, 0.014))
    bar = figure.colorbar(image, cax=axes, orientation="horizontal")
    steps = (-5, 0, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
    ticks = [s for s in steps if norm.vmin <= s * sky.rms <= norm.vmax]
    bar.set_ticks([s * sky.rms for s in ticks], labels=[_round(s * sky.rms) for s in ticks])
    bar.ax.minorticks_off()
    bar.set_label(
        "Apparent brightness, mJy/beam (ticks at -5, 0, 5, 10, 20, 50 ... times the noise)",
        fontsize=8.5,
    )


def _legend(sky: _SkyImage, placed: Sequence[_Placed]) -> str:
    parts = []
    if placed:
        parts.append("Circles: catalogue sources with their measured flux, corrected for the beam.")
    if any(source.measured_jy is None for source, _ in placed):
        parts.append("Dashed: not detected (catalogue flux).")
    if sky.primary_beam is not None:
        parts.append("Contours: primary beam; pixels are not corrected for it.")
    return " ".join(parts)


def _brightest(sky: _SkyImage, placed: Sequence[_Placed], peak: float) -> list[tuple[str, _Pixel]]:
    """What the close-ups show: the brightest detected sources, or else the brightest pixel."""
    detected = [
        (
            f"{plain_text(source.name, 24)}: {_flux(source.measured_jy)}, "
            f"{100 * source.measured_jy / source.flux_jy:.1f} % of catalogue",
            pixel,
        )
        for source, pixel in placed
        if source.measured_jy is not None
    ]
    y, x = np.unravel_index(int(np.nanargmax(sky.pixels)), sky.pixels.shape)
    brightest_pixel = (f"Brightest pixel, {_flux(peak / 1e3)}/beam", (float(x), float(y)))
    return detected[:_ZOOMS] or [brightest_pixel]


def _zoom(figure: Any, position: int, sky: _SkyImage, norm: Any, title: str, pixel: _Pixel) -> None:
    from matplotlib.patches import Ellipse

    axes = figure.add_axes((0.765, 0.665 - 0.3 * position, 0.215, 0.265))
    _show(axes, sky, norm)
    half = _ZOOM_BEAMS / 2 * sky.major_deg / sky.cell_deg or 20.0
    axes.set(xlim=(pixel[0] - half, pixel[0] + half), ylim=(pixel[1] - half, pixel[1] + half))
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=8.5, loc="left", pad=3)
    corner = (pixel[0] - 0.78 * half, pixel[1] - 0.78 * half)
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
        right, y = pixel[0] + 0.88 * half, pixel[1] - 0.86 * half
        axes.plot([right - bar_px, right], [y, y], color=_INK, lw=2, solid_capstyle="butt")
        axes.text(right - bar_px / 2, y + 0.05 * half, "1′", color=_INK, ha="center", va="bottom")


def _figures(sky: _SkyImage, peak: float) -> str:
    parts = [f"noise {sky.rms:.3g} mJy/beam", f"peak {_flux(peak / 1e3)}/beam"]
    if sky.major_deg > 0:
        parts.append(f"beam {3600 * sky.major_deg:.1f}″ × {3600 * sky.minor_deg:.1f}″")
    if sky.frequency_hz is not None:
        parts.append(f"{sky.frequency_hz / 1e9:.3f} GHz")
    return "   ".join(parts)


def _flux(jy: float) -> str:
    """With three significant figures, and no decimals from 100 on."""
    value, unit = (jy, "Jy") if abs(jy) >= 0.9995 else (1e3 * jy, "mJy")
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f} {unit}"


def _round(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"


def _encode(figure: Any) -> bytes:
    """A palette PNG with as many grey levels as fit `BYTES_MAX`; no time and no versions in it."""
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
    """Greys from black to white, and the colours of the marks at several opacities."""
    from matplotlib.colors import to_rgb

    ramp = np.repeat(np.linspace(0.0, 1.0, greys)[:, None], 3, axis=1)
    fading = [
        share * np.array(to_rgb(colour)) + (1.0 - share) * ground
        for colour in (_INK, _MISSED, _CONTOUR, _BLANK)
        for share in (1.0, 0.8, 0.6, 0.4, 0.25)
        for ground in (1.0, 0.8)
    ]
    return np.rint(255.0 * np.concatenate([ramp, fading])).astype(int).ravel().tolist()
