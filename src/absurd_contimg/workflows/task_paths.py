"""The files that the parameters of a task may name.

A spawner must not have any other file of the worker's user read, and quoted in an error: inputs lie
in the input folder or are links there, and the catalogue may also be the one that the worker has
set.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from absurd_contimg.config import PathsConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.products.outputs import is_named_within, is_within


def require_inputs(files: Iterable[Path], paths: PathsConfig) -> None:
    """Raise `SettingError` for a file elsewhere than in the input folder."""
    for path in files:
        if not _is_input(path, paths):
            raise SettingError(
                f"input_files: {path} lies not in the input folder {paths.input_dir}.",
                "Put the file or a link to it there, or set PIPELINE_INPUT_DIR of the worker.",
            )


def require_catalogue(path: Path, paths: PathsConfig) -> None:
    """Raise `SettingError` for a catalogue that the worker does not know."""
    if path != paths.catalog and not _is_input(path, paths):
        raise SettingError(
            f"catalog_path: {path} is neither the catalogue of this worker nor in the input "
            f"folder {paths.input_dir}.",
            "Set PIPELINE_CATALOG of the worker to it, or spawn the task with another catalogue.",
        )


def _is_input(path: Path, paths: PathsConfig) -> bool:
    return is_named_within(path, paths.input_dir) or is_within(path, [paths.input_dir])
