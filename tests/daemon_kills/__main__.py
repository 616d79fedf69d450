"""``cd tests; python -m daemon_kills [KILLS] [SEED]``: a night without kills and one with."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "shared"))

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.backends.postgres.schema import install_schema

from .campaign import NightRun, expected_state


def main(kills: int, seed: int) -> int:
    """Run both nights on one embedded server."""
    with (
        tempfile.TemporaryDirectory(prefix="contimg-") as folder,
        EmbeddedPostgres(Path(folder) / "pg", durable=False) as server,
    ):
        nights = {}
        for number, times in enumerate((0, kills)):
            url = server.create_database(f"night_{number}")
            install_schema(url)
            night = NightRun(Path(folder) / f"site_{number}", url, times, seed)
            nights[times] = asyncio.run(night.run())
            print(f"{times} kills, {night.killed_at_work} of a daemon at work")
    same = all(state == expected_state() for state in nights.values())
    print(
        f"{len(nights[kills]['tasks'])} tasks, {len(nights[kills]['windows'])} windows: "
        + ("the same" if same else f"they differ:\n{nights}")
    )
    return 0 if same else 1


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(*(arguments + [20, 16][len(arguments) :])))
