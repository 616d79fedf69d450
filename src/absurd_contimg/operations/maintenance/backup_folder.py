"""The folder of a backup: what its note says, and whether its files are whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.operations.maintenance.foreign_triggers import ForeignTrigger
from absurd_contimg.regular_files import UnsuitableFileError, read_json

FORMAT = 1
NOTE = "backup.json"
QUEUE, REGISTRY_DUMP, REGISTRY_FILE = "queue.dump", "registry.dump", "registry.sqlite3"
SCHEMAS = {QUEUE: "absurd", REGISTRY_DUMP: "contimg"}
_TRIGGER_KEYS = [each.name for each in fields(ForeignTrigger)]


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds."""

    format: int
    created_at: str
    """ISO 8601, UTC."""
    files: Mapping[str, str]
    """blake2b-160 of each file, in hex."""
    left_out: Mapping[str, Sequence[ForeignTrigger]] = field(default_factory=dict)
    """By file, the triggers that are in it and not restored, as other schemas have their functions.
    """
    site: str | None = None
    """The identity of the output folder; None of a site that had none yet."""

    @property
    def left_out_statements(self) -> list[str]:
        """What makes them again."""
        return [each.statement for triggers in self.left_out.values() for each in triggers]


def read_backup(folder: Path) -> Backup:
    """What a folder holds, after all its files were compared with their digests.

    Raises `MissingInputError` or `CorruptInputError`.
    """
    try:
        values: Any = read_json(folder / NOTE)
        noted = Backup(
            int(values["format"]),
            str(values["created_at"]),
            dict(values["files"]),
            {
                str(name): [_trigger(each) for each in triggers]
                for name, triggers in dict(values.get("left_out", {})).items()
            },
            None if values.get("site") is None else str(values["site"]),
        )
    except FileNotFoundError as error:
        is_there = folder.is_dir()
        problem = f"is no backup: it has no {NOTE}" if is_there else "does not exist"
        raise MissingInputError(
            f"{folder} {problem}.", "Name a folder of contimg backup."
        ) from error
    except (UnsuitableFileError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptInputError(f"{folder / NOTE} is damaged: {error}.") from error
    if noted.format != FORMAT:
        raise CorruptInputError(
            f"{folder} is a backup of format {noted.format}, not {FORMAT}.",
            "Use the version of the package that made it.",
        )
    if QUEUE not in noted.files or not noted.files.keys() <= {*SCHEMAS, REGISTRY_FILE}:
        raise CorruptInputError(
            f"{folder / NOTE} is damaged: it names other files than a backup has.",
            "Use another backup.",
        )
    for name, expected in noted.files.items():
        path = folder / name
        if not path.is_file() or digest(path) != expected:
            raise CorruptInputError(f"{path} is missing or damaged.", "Use another backup.")
    return noted


def _trigger(values: Mapping[str, object]) -> ForeignTrigger:
    return ForeignTrigger(*(str(values[key]) for key in _TRIGGER_KEYS))


def digest(path: Path) -> str:
    """blake2b-160 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=20)).hexdigest()
