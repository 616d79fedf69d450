"""The files that the parameters of a task may name.

A spawner must not have any other file of the worker's user read, and quoted in an error: inputs lie
in the input folder or are links there, and the catalogue may also be the one that the worker has
set.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from absurd_contimg.config import PathsConfig
from absurd_contimg.errors import InputElsewhereError
from absurd_contimg.products.outputs import is_named_within, is_within


def files_here(files: Iterable[Path], paths: PathsConfig) -> tuple[Path, ...]:
    """The files, those of a folder that has moved by their name in the input folder.

    Raises `InputElsewhereError` for a file elsewhere than in the input folder.
    """
    return tuple(_file_here(path, paths) for path in files)


def _file_here(path: Path, paths: PathsConfig) -> Path:
    if _is_input(path, paths):
        return path
    if (moved := _moved(path, paths)) is not None:
        return moved
    raise InputElsewhereError(
        f"input_files: {path} lies not in the input folder {paths.input_dir} of this worker.",
        "If this worker's PIPELINE_INPUT_DIR is wrong, correct it: other workers take the task. "
        "Else put the file or a link to it there, or: contimg spawn --group GROUP --respawn --now.",
    )


def catalogue_here(path: Path, paths: PathsConfig) -> Path:
    """The catalogue; raises `InputElsewhereError` for one that the worker does not know."""
    if path == paths.catalog or _is_input(path, paths):
        return path
    if (moved := _moved(path, paths)) is not None:
        return moved
    raise InputElsewhereError(
        f"catalog_path: {path} is neither the catalogue of this worker nor in the input "
        f"folder {paths.input_dir}.",
        "Set PIPELINE_CATALOG of the worker to it, or spawn the task with another catalogue.",
    )


def _moved(path: Path, paths: PathsConfig) -> Path | None:
    """The file of this name in the input folder, if the folder that is named is gone."""
    here = paths.input_dir / path.name
    has_moved = path.is_absolute() and not path.parent.exists()
    return here if has_moved and here.is_file() else None


def _is_input(path: Path, paths: PathsConfig) -> bool:
    return is_named_within(path, paths.input_dir) or is_within(path, [paths.input_dir])
