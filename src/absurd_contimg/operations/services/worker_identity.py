"""The name under which a worker claims runs: unique to the place whose locks guard it.

A restarted worker releases what its predecessor of the same name has left. A lock in scratch keeps
two processes from one name, but knows nothing of another host or output folder with the same
database. So the name in the database has a part of its own for each host's folder in scratch.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from absurd_contimg.execution.scratch import OWNERS
from absurd_contimg.products.filesystem import LOCAL

_SEPARATOR = "@"
_BYTES_MAX = 200
_PLACE = re.compile("[0-9a-f]{8}")


def unique_worker_id(worker_id: str, scratch_dir: Path) -> str:
    """The worker's id with that of its host's scratch folder, which outlives the worker.

    A copy of the folder is another place: the id is kept beside the number of its own file.
    """
    path = scratch_dir / OWNERS / "place"
    with LOCAL.locked(path):
        number = path.stat().st_ino
        with path.open("rb") as file:
            text = file.read(_BYTES_MAX).decode(errors="replace")
        recorded, _, place = text.strip().partition(" ")
        if recorded != str(number) or not _PLACE.fullmatch(place):
            place = secrets.token_hex(4)
            path.write_text(f"{number} {place}\n")
            LOCAL.flush(path)
    return f"{worker_id}{_SEPARATOR}{place}"


def given_worker_id(name: str) -> str:
    """The id that `unique_worker_id` was given."""
    return name.rpartition(_SEPARATOR)[0]
