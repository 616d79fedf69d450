"""Long comparisons: ``python -m conformance URL SEQUENCES [FIRST_SEED]`` from the tests' folder.

URL is that of a database with Absurd's schema, which is emptied. Stops at the first divergence
with its seed and its story; ends with how many sequences were equal.
"""

from __future__ import annotations

import sys
import time

from conformance.comparison import Divergence, Pair, random_sequence
from conformance.sides import MemorySide, PostgresSide


def main(url: str, sequences: int, first: int = 0) -> int:
    """Run the sequences; how many diverged."""
    pair = Pair(PostgresSide(url), MemorySide())
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


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1], int(sys.argv[2]), int((sys.argv[3:] or ["0"])[0]))))
