"""The failover time of a killed worker's run: to another worker, and to its own restart.

    python tests/end_to_end/measure_failover.py --work DIR [--others 5] [--restarts 20]

Real pipeline, real command line, default settings (lease 60 s, poll 1 s). ``DIR`` is that of a
campaign or a new one. Each time, a worker is killed at a random time of a stage. Measured are the
times until the run is claimed again and until the stage's process has started again.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
from campaign_run import Run, is_running
from campaign_sites import Prepared
from psycopg import sql
from real_site import QUEUE


def measure(prepared: Prepared, work: Path, number: int, *, restart: bool) -> tuple[float, float]:
    """Seconds from the kill (or the restart) to the claim, and to the stage's new process.

    The time of the kill is drawn from the stage's duration in the baseline; if the stage has ended
    by then, the next try kills earlier.
    """
    within = 0.6
    while (seconds := measure_once(prepared, work, number, within, restart=restart)) is None:
        within /= 2
    return seconds


def measure_once(
    prepared: Prepared, work: Path, number: int, within: float, *, restart: bool
) -> tuple[float, float] | None:
    """The same, within that fraction of the stage; None if the stage ended before the kill."""
    folder = work / "failover" / f"{'restart' if restart else 'other'}-{number}-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    draw = random.Random(f"failover {restart} {number}")
    stage = draw.choice(("convert", "flag", "calibrate_solve", "calibrate_apply", "image"))
    run = Run("failover", number, prepared, folder, draw, stage, lease_seconds=60)
    run.offset = draw.uniform(0.0, within * prepared.seconds[stage])
    try:
        run.prepare()
        worker = run.worker("one")
        pid = run.wait_for_injection()
        if not restart:
            run.worker("two")
            run.until(lambda: "worker two on queue" in run.log, 60)
        if not is_running(pid):
            return None
        worker.kill()
        since = time.time()
        worker.wait()
        with psycopg.connect(run.site.database_url, autocommit=True) as connection:
            ends = lease_end(connection)
            n_starts = len(run.process_starts)
            if restart:
                since = time.time()
                run.worker("one")
            while (now := lease_end(connection)) is None or now == ends:
                time.sleep(0.02)
            claimed = time.time() - since
        run.until(lambda: len(run.process_starts) > n_starts, 60)
        return claimed, run.process_starts[n_starts].time - since
    finally:
        run.close()
        prepared.drop(run.root, durable=False)


def lease_end(connection: psycopg.Connection) -> object:
    """The end of the running run's claim; None while no worker holds it."""
    statement = sql.SQL("select max(claim_expires_at) from absurd.{} where state = 'running'")
    row = connection.execute(statement.format(sql.Identifier(f"r_{QUEUE}"))).fetchone()
    assert row is not None
    return row[0]


def main() -> None:
    """Measure both, and print each time and the largest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--others", type=int, default=5)
    parser.add_argument("--restarts", type=int, default=20)
    arguments = parser.parse_args()
    work: Path = arguments.work.absolute()
    prepared = Prepared(work / "prepared", Path(__file__).parents[2] / "src")
    prepared.make()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with ThreadPoolExecutor(max(arguments.others, 1)) as pool:
        others = list(
            pool.map(
                lambda number: measure(prepared, work, number, restart=False),
                range(arguments.others),
            )
        )
    restarts = [measure(prepared, work, n, restart=True) for n in range(arguments.restarts)]
    print(f"load {os.getloadavg()[0]:.1f}")
    for name, measured in (("another worker", others), ("the same worker restarted", restarts)):
        for event, index in (("claimed", 0), ("stage started", 1)):
            seconds = sorted(times[index] for times in measured)
            if seconds:
                text = " ".join(f"{s:.2f}" for s in seconds)
                print(f"{name}, {event}: max {seconds[-1]:.2f} s of {len(seconds)}: {text}")


if __name__ == "__main__":
    main()
