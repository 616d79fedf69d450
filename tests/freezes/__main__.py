"""The campaign: ``cd tests; python -m freezes [FREEZES] [SEED]``."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "shared"))

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.backends.postgres.schema import install_schema
from freezes.campaign import run_campaign

_LANES = 4


def main() -> None:
    """Print what was counted."""
    given = [int(text) for text in sys.argv[1:]]
    freezes, seed = given[0] if given else 100, given[1] if len(given) > 1 else 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with EmbeddedPostgres(folder / "pg", durable=False) as server:
            url = server.create_database("freezes")
            install_schema(url)
            print(asyncio.run(run_campaign(url, folder, freezes, seed, _LANES)))


if __name__ == "__main__":
    main()
