"""Imports matplotlib so that it writes nothing into the home folder and reads no settings there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from absurd_contimg.errors import SettingError

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
    with TemporaryDirectory(dir=folder.absolute(), prefix=".plots-") as private:
        os.environ.update(dict.fromkeys(_FOLDERS, private))
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
