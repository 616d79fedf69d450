"""Names from outside are drawn as they are: no formula, no escape sequence, no missing glyph."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest

from absurd_contimg.operations.report.light_curve import write_light_curve
from absurd_contimg.operations.report.quicklook import write_quicklook
from absurd_contimg.owned_folders import MARK_NAME, take_folder
from absurd_contimg.plotting import PLOTS_MARK, plain_text, plotting_libraries
from absurd_contimg.science.light_curves import LightCurve, LightCurvePoint
from absurd_contimg.science.variability import measure_variability

from .test_quicklook import DEC, RA, make_image, source

HOSTILE = (
    *(r"$\frac$", r"$\frac{1}{$", "$$", "a$b", r"\$x\$", "$x^2$", r"$\input{/etc/passwd}$", "_x"),
    *("\x1b[31mred\x1b[0m", "two\nlines", "\r\t\v\0", "\ud800\udfff", "\u202egnp.exe", "\ufeff"),
    *("\u6e90 \U0001f600", "\ue000\U0010ffff", "<b>&amp;", "x" * 100_000, "", " ", "e\u0301" * 50),
)


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_hostile_names_are_drawn(tmp_path: Path) -> None:
    """As title and as names of sources, which are labels and titles of close-ups."""
    image = make_image(tmp_path / "i.fits", 64, sources=((0.5, 0.5),))
    for number, start in enumerate(range(0, len(HOSTILE), 6)):
        names = HOSTILE[start : start + 6]
        places = [(RA, DEC + place * 0.03) for place in range(-3, 3)]
        sources = [
            source(name, *place, 1.0, 1.0) for name, place in zip(names, places, strict=False)
        ]
        picture = tmp_path / f"{number}.png"
        write_quicklook(image, picture, title=names[0], sources=sources)
        assert picture.stat().st_size > 1000


def test_light_curves_of_hostile_sources_are_drawn(tmp_path: Path) -> None:
    for number, name in enumerate(HOSTILE[::3]):
        write_light_curve(curve(name), tmp_path / f"{number}.png")


def test_no_text_is_a_formula_or_lacks_a_glyph(tmp_path: Path) -> None:
    """What is shown is the name with escapes, in a length that fits a picture."""
    with plotting_libraries(tmp_path):
        from matplotlib.text import Text  # noqa: PLC0415 - as the product imports it

        shown = [plain_text(name) for name in HOSTILE]
        assert not any(Text()._preprocess_math(text)[1] for text in shown)
        drawn = [Text()._preprocess_math(text)[0] for text in shown]
    assert drawn[:8] == [*HOSTILE[:8]]
    assert drawn[8] == r"\x1b[31mred\x1b[0m"
    assert drawn[9] == r"two\nlines"
    assert drawn[12] == r"\u202egnp.exe"
    assert max(map(len, drawn)) <= 60


def curve(name: str) -> LightCurve:
    """A light curve of two epochs."""
    variability = measure_variability([1.0, 1.0], [0.1, 0.1], 4.3, 0.26)
    points = [LightCurvePoint(name, 60000.0 + day, 1.0, 0.1, 1.0, 5, 1.0, 0.1) for day in range(2)]
    return LightCurve(name, RA, DEC, 1.0, tuple(points), variability)


def test_what_killed_commands_have_left_of_plots_is_removed(tmp_path: Path) -> None:
    """Its caches stayed beside the report for good. Folders of others and in use stay."""
    for name in ("old", "used", "foreign"):
        folder = tmp_path / f".plots-{name}"
        take_folder(folder, PLOTS_MARK)
        (folder / "cache").touch()
    (tmp_path / ".plots-foreign" / MARK_NAME).unlink()
    for name in ("old", "foreign"):
        for path in (tmp_path / f".plots-{name}", *(tmp_path / f".plots-{name}").iterdir()):
            os.utime(path, (1e9, 1e9))
    with plotting_libraries(tmp_path):
        pass
    assert sorted(os.listdir(tmp_path)) == [".plots-foreign", ".plots-used"]
