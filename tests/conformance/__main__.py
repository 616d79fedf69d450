"""Long comparisons: ``python -m conformance [URL] SEQUENCES [FIRST_SEED]`` from the tests' folder.

URL is that of a database with Absurd's schema, which is emptied; without it an embedded server is
started in a temporary folder. Prints each divergence with its seed and its story, at most five, and
ends with how many sequences were equal.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.backends.postgres.schema import install_schema
from conformance.comparison import Divergence, Pair, random_sequence
from conformance.databases import EmulatorDatabase, PostgresDatabase


def main(url: str, sequences: int, first: int = 0) -> int:
    """Run the sequences; how many diverged."""
    pair = Pair(PostgresDatabase(url), EmulatorDatabase())
    began = time.perf_counter()
    errors = answers = diverged = 0
    for seed in range(first, first + sequences):
        try:
            random_sequence(pair, seed)
        except Divergence as error:
            diverged += 1
            print(error, "\n", flush=True)
            if diverged == 5:
                break
        if (seed + 1 - first) % 100 == 0:
            print(f"{seed + 1 - first} sequences, {diverged} divergences", flush=True)
        answers += len(pair.observed)
        errors += sum(item[0][0] == "error" for item in pair.observed)
    seconds = time.perf_counter() - began
    print(
        f"{seed + 1 - first} sequences, {answers} operations ({errors} refused), "
        f"{diverged} divergences, {seconds:.0f} s"
    )
    return diverged


def command(arguments: Sequence[str]) -> int:
    """The command line: the URL may be left out."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("url", nargs="?", help="an emptied database with Absurd's schema")
    parser.add_argument("sequences", type=int)
    parser.add_argument("first", type=int, nargs="?", default=0, help="the first seed")
    has_url = bool(arguments) and "://" in arguments[0]
    given = parser.parse_args(arguments if has_url else ["", *arguments])
    if given.url:
        return main(given.url, given.sequences, given.first)
    with (
        tempfile.TemporaryDirectory(prefix="conformance-") as folder,
        EmbeddedPostgres(Path(folder), durable=False) as server,
    ):
        url = server.create_database("conformance")
        install_schema(url)
        return main(url, given.sequences, given.first)


if __name__ == "__main__":
    sys.exit(bool(command(sys.argv[1:])))
