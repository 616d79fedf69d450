"""What a night begins with: its settings, its folders, the mark of a full disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.errors import SettingError
from absurd_contimg.owned_folders import (
    MARK_NAME,
    ForeignFolderError,
    Mark,
    read_mark,
    remove_tree,
    take_folder,
)
from absurd_contimg.products.filesystem import LOCAL

_MARK = Mark("night", "contimg night")
GB = 1e9
SPARE_BYTES = 4 * GB
"""The workers' mark of a full disk lies this far below the space that is free at the start, so that
a file of about this size fills it for them, and for nobody else."""


@dataclass(frozen=True, slots=True)
class NightOptions:
    """How long the night is."""

    groups: int = 30
    speed: float = 30.0
    """Seconds of observation in one second."""
    minutes_max: float = 60.0
    """After this time the night is judged as it stands."""


def night_settings(options: NightOptions) -> dict[str, object]:
    """The settings in which a night differs: waits by its speed, coarse images, one core each."""
    settings: dict[str, object] = {
        "execution.threads": 1,
        "imaging.size_px": 640,
        "imaging.cell_arcsec": 20.0,
        "imaging.w_planes": 8,
        "mosaic.negative_fraction_max": 0.5,
        "night_report.look_minutes": 0.1,
        "streaming.poll_seconds": 1.0,
        "streaming.stable_seconds": 2.0,
        "streaming.group_wait_seconds": 300.0 / options.speed,
        "streaming.next_group_grace_seconds": 120.0 / options.speed,
        "streaming.arriving_wait_seconds": 180.0 / options.speed,
        "streaming.night_end_seconds": max(60.0, 1800.0 / options.speed),
    }
    if options.groups < 30:
        windows = {"window_size": 3, "window_stride": 2, "window_min": 3}
        settings |= {f"streaming.{name}": value for name, value in windows.items()}
    return settings


def critical_gb(folder: Path) -> float:
    """The mark of a full disk for the workers of this night."""
    folder.mkdir(parents=True, exist_ok=True)
    free = LOCAL.free_bytes(folder)
    if free < 1.5 * SPARE_BYTES:
        raise SettingError(
            f"{folder} has {free / GB:.1f} GB free.",
            f"A night fills {SPARE_BYTES / GB:.0f} GB for a moment: give it 6 GB.",
        )
    return (free - SPARE_BYTES) / GB


def take_folders(
    folders: Sequence[Path], force: bool, server: EmbeddedPostgres, console: Console
) -> None:
    """Refuse folders of anybody else, remove those of an earlier night, make new ones."""
    present = [path for path in folders if os.path.lexists(path)]
    for path in present:
        if read_mark(path) != _MARK:
            raise ForeignFolderError(
                f"{path} is there, and no night has made it (it has no {MARK_NAME} of one).",
                "Give the night a folder of its own.",
            )
    if present and not force:
        names = ", ".join(path.name for path in present)
        raise SettingError(
            f"{present[0].parent} holds an earlier night: {names}.",
            "Give another folder, or --force to remove these folders first.",
        )
    if server.exists():
        server.stop("immediate")
    for path in present:
        console.out(f"Removes {path}, {LOCAL.tree_size(path) / 1e6:.0f} MB of an earlier night")
        remove_tree(path, _MARK)
    for path in folders:
        take_folder(path, _MARK)
