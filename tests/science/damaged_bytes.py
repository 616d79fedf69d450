"""Raw files with random bytes changed: each is read, or refused by an error that names it.

    cd tests/science; python -m damaged_bytes FILES SEED

A library that is led into corrupting its memory ends this process, which fails the search.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from absurd_contimg.config import SiteConfig
from absurd_contimg.errors import CorruptInputError
from absurd_contimg.science.raw_checks import HANDS, check_header
from absurd_contimg.science.raw_file import read_raw_header, read_visibilities

sys.path.append(str(Path(__file__).parents[1] / "shared"))
from raw_files import write_file


def search(folder: Path, n_files: int, seed: int) -> Counter[str]:
    """How many files were read and how many refused; any other error passes."""
    path = write_file(folder)
    whole, random_source = path.read_bytes(), random.Random(seed)
    outcomes: Counter[str] = Counter()
    for _ in range(n_files):
        damaged = bytearray(whole)
        for _ in range(random_source.choice((1, 4, 64))):
            damaged[random_source.randrange(len(damaged))] = random_source.randrange(256)
        path.write_bytes(damaged)
        os.utime(path, (0, 0))  # old: it does not arrive any more
        try:
            header = read_raw_header(path)
            check_header(header, SiteConfig())
            read_visibilities(header, HANDS)
        except CorruptInputError as error:
            outcomes["refused" if path.name in str(error) else "unnamed"] += 1
        else:
            outcomes["read"] += 1
    return outcomes


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        print(dict(search(Path(name), int(sys.argv[1]), int(sys.argv[2]))))
