"""Our worker beside absurd-sdk's, DBOS and Procrastinate: equivalent work on one server, in turn.

    python benchmarks/peer_speed.py FOLDER

Makes an environment with DBOS and Procrastinate from PyPI in FOLDER, and a server there that waits
for its disk. Prints the best rate of each, in tasks a second, and ours over it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable
from pathlib import Path

from test_worker_speed import TASKS, ours, sdk

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.backends.postgres.schema import install_schema

ROUNDS = 3
SLOTS = 50
PACKAGES = ("dbos", "procrastinate")


def make_environment(folder: Path) -> Path:
    """The Python of an environment with the packages, made unless it is there."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
    )
    print(*(line for line in listed.stdout.split() if line.split("==")[0] in PACKAGES))
    return python


def main(folder: Path) -> None:
    """Measure and print."""
    python = make_environment(folder / "environment")
    with (
        tempfile.TemporaryDirectory(dir=folder) as cluster,
        EmbeddedPostgres(Path(cluster) / "postgres", durable=True) as server,
    ):
        url = server.create_database("speed")
        install_schema(url)
        numbers = iter(range(10_000))

        def absurd(steps: int) -> float:
            return asyncio.run(ours(url, f"ours_{next(numbers)}", SLOTS, steps))

        def absurd_sdk(_steps: int) -> float:
            return asyncio.run(sdk(url, f"sdk_{next(numbers)}", SLOTS))

        def peer(name: str) -> Callable[[int], float]:
            def measure(steps: int) -> float:
                database = server.create_database(f"{name}_{next(numbers)}")
                program = Path(__file__).with_name("peer_programs.py")
                command = [python, program, name, database, *map(str, (TASKS, steps, SLOTS))]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                return float(done.stdout)

            return measure

        peers = {name: peer(name) for name in PACKAGES}
        for steps in (5, 0):
            measured = {"ours": absurd, **({"absurd-sdk": absurd_sdk} if steps else {}), **peers}
            best = dict.fromkeys(measured, 0.0)
            for _ in range(ROUNDS):
                for name, measure in measured.items():
                    best[name] = max(best[name], measure(steps))
            print(f"{steps} steps, {SLOTS} slots, {TASKS} tasks")
            for name, rate in best.items():
                print(f"  {name:14} {rate:6.1f}/s, ours {best['ours'] / rate:.2f} times")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
