"""Files that a page shows: logs and quick-looks. Only inside the pipeline's folders.

A quick-look is drawn once for each product, kept by the product's key, and never drawn again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absurd_contimg.core.records import History
from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.execution.logs import log_folder, log_paths, tail
from absurd_contimg.history.timeline import StepStart, group_of, step_starts
from absurd_contimg.owned_folders import make_private
from absurd_contimg.products.mosaic_outputs import MosaicOutputs
from absurd_contimg.products.outputs import ImageOutputs, from_json, is_within
from absurd_contimg.settings import Settings

_LINES_MAX = 2000
_TITLES = ("CASA log", "Output of the process")


@dataclass(frozen=True, slots=True)
class LogPart:
    """The end of one log."""

    title: str
    path: Path
    lines: tuple[str, ...]
    problem: str = ""


def find_start(history: History, step: str, number: str) -> StepStart:
    """A start by its step and number; `MissingInputError` if there is none."""
    for start in step_starts(history):
        if start.step == step and str(start.start) == number:
            return start
    raise MissingInputError(f"Step {step} has no start {number} in this task.")


def read_logs(settings: Settings, history: History, start: StepStart) -> list[LogPart]:
    """The ends of CASA's log and of what the process printed."""
    folder = log_folder(settings.pipeline.paths.state_dir, group_of(history))
    attempt = f"{str(history.task.task_id)[-12:]}-{start.start}"
    paths = list(log_paths(folder, start.step, attempt))
    state = history.checkpoint_states.get(start.step)
    saved = state.get("logs") if start.outcome == "done" and isinstance(state, Mapping) else None
    if isinstance(saved, list | tuple) and len(saved) == len(_TITLES):
        paths = [Path(str(path)) for path in saved]  # of a stage task, which has an id of its own
    return [_log_part(title, path, settings) for title, path in zip(_TITLES, paths, strict=True)]


def _log_part(title: str, path: Path, settings: Settings) -> LogPart:
    if not is_within(path, (settings.pipeline.paths.state_dir / "logs",)):
        return LogPart(title, path, (), "It is not in the folder of the logs, and is not read.")
    try:
        lines = tuple(tail(path, _LINES_MAX))
    except OSError as error:
        return LogPart(title, path, (), f"It cannot be read: {error}.")
    return LogPart(title, path, lines, "" if lines else "Nothing was written, or it is gone.")


class Quicklooks:
    """Pictures of images and mosaics, each drawn once and kept in the state folder by its key."""

    def __init__(self, settings: Settings | None) -> None:
        self._settings = settings
        self._drawing = asyncio.Semaphore(1)

    async def of_product(self, key: str, outputs: Mapping[str, Any]) -> Path:
        """The picture of a product; `MissingInputError` or `CorruptInputError` without an image."""
        settings = self._settings
        if settings is None:
            raise MissingInputError("This site has no files.")
        name = hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=16).hexdigest()
        path = settings.pipeline.paths.state_dir / "quicklooks" / f"{name}.png"
        if not path.is_file():
            async with self._drawing:
                if not path.is_file():
                    await asyncio.to_thread(draw, outputs, path, settings.pipeline.paths.readable)
        return path


def draw(outputs: Mapping[str, Any], path: Path, folders: Sequence[Path]) -> None:
    """Draw the image or the mosaic in the outputs of a stage."""
    from absurd_contimg.operations.report import write_quicklook  # noqa: PLC0415 - slow

    make_private(path.parent)
    try:
        if outputs.get("mosaic"):
            mosaic = from_json(MosaicOutputs, outputs, folders).mosaic
            write_quicklook(mosaic.path, path, title=mosaic.window_id, rms_jy=mosaic.noise_jy)
            return
        image = from_json(ImageOutputs, outputs, folders).image
    except ValueError as error:
        raise CorruptInputError(f"The outputs of this product cannot be read: {error}.") from error
    beam = image.beam_path if image.beam_path.is_file() else None
    title = image.path.name.replace("$", r"\\$")[:80]
    write_quicklook(image.path, path, title=title, beam_path=beam, rms_jy=image.rms_jy)
