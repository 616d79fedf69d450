"""The quick-look shows what the image contains, in a small and reproducible file."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from absurd_contimg.errors import CorruptInputError, MissingInputError, SettingError
from absurd_contimg.operations.report.quicklook import BYTES_MAX, write_quicklook
from absurd_contimg.products.outputs import SourceCheck

BLUE, RED = (0x1B, 0x6C, 0xA8), (0xC1, 0x12, 0x1F)
RA, DEC = 150.0, 20.0


def make_image(
    path: Path, size: int = 128, noise: float = 1e-3, sources: tuple[tuple[float, float], ...] = ()
) -> Path:
    """Noise (Jy/beam) and point sources at (column, row) fractions of a field around RA, DEC."""
    pixels = np.random.default_rng(3).normal(0.0, noise, (1, 1, size, size))
    y, x = np.mgrid[:size, :size]
    for column, row in sources:
        pixels[0, 0] += np.exp(-((x - column * size) ** 2 + (y - row * size) ** 2) / 4.0)
    header = fits.Header()
    for number, (kind, centre, step) in enumerate(
        (("RA---SIN", RA, -10 / 3600), ("DEC--SIN", DEC, 10 / 3600)), 1
    ):
        header[f"CTYPE{number}"], header[f"CRVAL{number}"] = kind, centre
        header[f"CDELT{number}"], header[f"CRPIX{number}"] = step, size / 2 + 1
    header["CTYPE3"], header["CRVAL3"], header["CTYPE4"] = "FREQ", 1.4e9, "STOKES"
    header["BMAJ"], header["BMIN"], header["BPA"] = 40 / 3600, 30 / 3600, 60.0
    fits.PrimaryHDU(pixels.astype(np.float32), header).writeto(path, overwrite=True)
    return path


def source(
    name: str, ra_deg: float, dec_deg: float, flux_jy: float, measured_jy: float | None
) -> SourceCheck:
    return SourceCheck(name, ra_deg, dec_deg, flux_jy, 1.0, 100.0, True, measured_jy)


def draw(
    folder: Path, fits_path: Path, sources: tuple[SourceCheck, ...] = (), beam: Path | None = None
) -> np.ndarray:
    """The picture as rows, columns, RGB."""
    png = folder / "out" / "q.png"
    write_quicklook(fits_path, png, title="t", sources=sources, beam_path=beam)
    return np.asarray(Image.open(png).convert("RGB")).astype(int)


def field(picture: np.ndarray) -> np.ndarray:
    """The part that shows the field, without the close-ups."""
    height, width = picture.shape[:2]
    return picture[int(0.07 * height) : int(0.83 * height), int(0.1 * width) : int(0.72 * width)]


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Where a colour is."""
    return np.abs(picture - np.array(colour)).max(axis=2) < 24


def test_source_is_dark_at_its_position_on_the_sky(tmp_path: Path) -> None:
    """North is up and east is left: a source in the first columns and last rows is top left."""
    picture = field(draw(tmp_path, make_image(tmp_path / "i.fits", sources=((0.25, 0.8),))))
    rows, columns = np.nonzero(picture.max(axis=2) < 40)
    rows, columns = rows / picture.shape[0], columns / picture.shape[1]
    assert len(rows) > 5
    assert np.median(rows) == pytest.approx(0.2, abs=0.04)
    assert np.median(columns) == pytest.approx(0.25, abs=0.06)


def test_circle_surrounds_its_source(tmp_path: Path) -> None:
    """The mark is placed by RA and Dec, the source by pixels."""
    image = make_image(tmp_path / "i.fits", sources=((0.25, 0.75),))
    cosine = np.cos(np.radians(DEC))
    mark = source("A", RA + 32 * 10 / 3600 / cosine, DEC + 32 * 10 / 3600, 1.0, 1.0)
    picture = field(draw(tmp_path, image, (mark,)))
    dark = np.argwhere(picture.max(axis=2) < 25)
    blue = np.argwhere(near(picture, BLUE))
    top, bottom = (blue[blue[:, 0] == row].mean(0) for row in (blue[:, 0].min(), blue[:, 0].max()))
    assert bottom[0] - top[0] > 50
    assert np.allclose((top + bottom) / 2, dark.mean(0), atol=4)


def test_source_that_was_not_detected_is_marked_in_red(tmp_path: Path) -> None:
    image = make_image(tmp_path / "i.fits")
    detected = field(draw(tmp_path, image, (source("A", RA, DEC, 0.1, 0.1),)))
    missed = field(draw(tmp_path, image, (source("A", RA, DEC, 0.1, None),)))
    assert near(detected, BLUE).sum() > 30
    assert near(detected, RED).sum() == 0
    assert near(missed, RED).sum() > 15


def test_sources_outside_the_image_are_left_out(tmp_path: Path) -> None:
    """Also those beyond the horizon of the projection, where there is no pixel."""
    image = make_image(tmp_path / "i.fits")
    outside = (source("A", RA + 5, DEC, 1.0, 1.0), source("B", RA + 180, -DEC, 1.0, 1.0))
    assert np.array_equal(draw(tmp_path, image, outside), draw(tmp_path, image))


@pytest.mark.parametrize("noise", [1e-6, 1e-3, 1.0])
def test_pictures_are_small_and_reproducible(tmp_path: Path, noise: float) -> None:
    """Pure noise compresses worst, and most with one image pixel for each screen pixel."""
    image = make_image(tmp_path / "i.fits", size=700, noise=noise, sources=((0.5, 0.5),))
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    for png in (first, second):
        write_quicklook(image, png, title="t")
    assert first.read_bytes() == second.read_bytes()
    assert 20_000 < first.stat().st_size <= BYTES_MAX
    assert b"matplotlib" not in first.read_bytes()


def test_contours_of_the_primary_beam_are_drawn(tmp_path: Path) -> None:
    image = make_image(tmp_path / "i.fits")
    beam = tmp_path / "beam.fits"
    with fits.open(image) as hdus:
        y, x = np.mgrid[:128, :128]
        hdus[0].data[...] = np.exp(-((x - 64) ** 2 + (y - 64) ** 2) / 64.0**2)
        hdus.writeto(beam)
    brown = (0xB5, 0x65, 0x1D)
    assert near(field(draw(tmp_path, image, beam=beam)), brown).sum() > 200
    assert near(field(draw(tmp_path, image)), brown).sum() == 0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_image_without_noise_is_drawn(tmp_path: Path, value: float) -> None:
    image = make_image(tmp_path / "i.fits")
    with fits.open(image, mode="update") as hdus:
        hdus[0].data[...] = value
        hdus[0].data[0, 0, :20] = np.nan
    assert draw(tmp_path, image).shape[2] == 3


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_error_names_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    whole = make_image(tmp_path / "i.fits").read_bytes()
    cut, blank, text = (tmp_path / name for name in ("cut.fits", "blank.fits", "text.fits"))
    cut.write_bytes(whole[: len(whole) // 2])
    text.write_text("no image")
    with fits.open(io.BytesIO(whole)) as hdus:
        hdus[0].data[...] = np.nan
        hdus.writeto(blank)
    for path in (cut, blank, text):
        with pytest.raises(CorruptInputError, match=path.name):
            draw(tmp_path, path)
    with pytest.raises(MissingInputError, match="none"):
        draw(tmp_path, tmp_path / "none.fits")
    assert list((tmp_path / "out").iterdir()) == []


def test_without_matplotlib_the_error_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(tmp_path / "i.fits")
    environment = dict(os.environ)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(SettingError, match=r"absurd-contimg\[plots\]"):
        draw(tmp_path, image)
    assert dict(os.environ) == environment
