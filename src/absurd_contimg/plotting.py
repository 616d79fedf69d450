"""Imports matplotlib so that it writes nothing into the home folder and reads no settings there.

Names from outside are drawn through `plain_text`: matplotlib takes text between dollar signs for a
formula, raises for most that are none, and warns of every character that its font lacks.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path

from absurd_contimg.errors import SettingError
from absurd_contimg.owned_folders import Mark, temporary_folder

PLOTS_MARK = Mark("plots", "caches of matplotlib")
_FOLDERS = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")


@contextmanager
def plotting_libraries(folder: Path, *modules: str) -> Iterator[None]:
    """Import matplotlib and `modules` with their caches in a temporary folder below `folder`.

    Inside, matplotlib has its own defaults: no matplotlibrc changes a picture. Raises
    `SettingError` that names the plots extra when a library is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # It logs every list of fonts that it builds, and here it always builds one.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)
    before = {name: os.environ.get(name) for name in _FOLDERS}
    with temporary_folder(folder.absolute(), PLOTS_MARK) as private:
        os.environ.update(dict.fromkeys(_FOLDERS, str(private)))
        try:
            import matplotlib  # noqa: PLC0415 - the plots extra

            for module in ("matplotlib.font_manager", *modules):  # these write the caches
                import_module(module)
            with matplotlib.rc_context():
                matplotlib.rcdefaults()
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


def plain_text(text: str, length_max: int = 60) -> str:
    """A name on one line as matplotlib draws it: no formula, escapes for what has no glyph.

    Only inside `plotting_libraries`.
    """
    glyphs = _glyphs()
    beginning = text[: length_max + 1]
    shown = "".join(
        char if char.isprintable() and char in glyphs else ascii(char)[1:-1] for char in beginning
    )
    if len(shown) > length_max:
        shown = f"{shown[: length_max - 3]}..."
    return shown.replace("$", r"\$")


@cache
def _glyphs() -> frozenset[str]:
    """The characters of matplotlib's own font, in both weights."""
    from matplotlib.font_manager import findfont, get_font  # noqa: PLC0415 - the plots extra

    fonts = [get_font(findfont(f"DejaVu Sans:{weight}")) for weight in ("normal", "bold")]
    return frozenset.intersection(*(frozenset(map(chr, font.get_charmap())) for font in fonts))
