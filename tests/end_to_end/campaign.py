"""A campaign of real faults on the real pipeline: CASA, Postgres, worker processes.

    python tests/end_to_end/campaign.py --runs 20 --work DIR --out FILE.jsonl

Each run copies the baseline site before a random stage, injects the fault at a random time of it,
waits for the task's end and compares. Results are appended to a file, and a later call adds the
missing runs. ``--table`` prints the file as a table. The test command injects the same faults
into small stages (``tests/faults``).
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import shutil
import threading
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from campaign_faults import FAULTS, needs_small_disk, small_disk_at
from campaign_judge import judge, numbers_of
from campaign_run import LEASE_SECONDS, Run
from campaign_sites import Prepared
from campaign_table import markdown

DEFAULT_LEASE_SECONDS = 60
"""One run in ten has the lease that a worker has by default."""


class Campaign:
    """Runs in several lanes at a time; most of a run's time is waiting."""

    def __init__(self, prepared: Prepared, work: Path, out: Path, seed: int) -> None:
        self.prepared = prepared
        self.work = work
        self.out = out
        self.seed = seed
        self.expected = numbers_of(prepared.reference)
        self._crashing = threading.Lock()
        self._writing = threading.Lock()

    def do(self, fault: str, number: int) -> None:
        """Do one run and append its result."""
        folder = self.work / "runs" / f"{fault.replace(' ', '-').replace(',', '')}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        draw = random.Random(f"{self.seed} {fault} {number}")
        described = FAULTS[fault]
        run = Run(
            fault,
            number,
            self.prepared,
            folder,
            draw,
            draw.choice(described.stages),
            described.crashes_server,
            DEFAULT_LEASE_SECONDS if number % 10 == 9 else LEASE_SECONDS,
        )
        began = time.time()
        small = needs_small_disk(fault)
        alone = self._crashing if described.crashes_server else nullcontext()
        with alone, small_disk_at(run.root) if small else nullcontext():
            result = self._outcome(run)
        result |= {"seconds": round(time.time() - began, 1), "at": round(began)}
        with self._writing, self.out.open("a") as file:
            file.write(json.dumps(result) + "\n")
        verdict = "; ".join(result["problems"]) or "correct"
        print(f"{time.strftime('%H:%M:%S')} {fault} {number} in {run.stage}: {verdict}", flush=True)
        if not result["problems"]:
            shutil.rmtree(folder, ignore_errors=True)

    def _outcome(self, run: Run) -> dict[str, Any]:
        try:
            injected = FAULTS[run.fault].inject(run)
            run.finish()
            run.stop()
            return judge(run, injected, self.expected)
        except Exception as error:  # noqa: BLE001 - the campaign goes on
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}"[:500]
            return {
                "fault": run.fault,
                "number": run.number,
                "stage": run.stage,
                "problems": [f"the run was aborted: {text}", *run.problems],
            }
        finally:
            run.close()
            self.prepared.drop(run.root, durable=run.crashes_server)


def main() -> None:
    """Do the missing runs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1, help="of each fault")
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), choices=list(FAULTS))
    parser.add_argument("--lanes", type=int, default=3, help="sites at a time")
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no run after this long")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="print the table and do nothing")
    arguments = parser.parse_args()
    out: Path = arguments.out.absolute()
    if not arguments.table:
        work: Path = arguments.work.absolute()
        prepared = Prepared(work / "prepared", Path(__file__).parents[2] / "src")
        prepared.make()
        try:
            campaign = Campaign(prepared, work, out, arguments.seed)
            give_up = time.monotonic() + 60 * arguments.minutes
            run_all(campaign, arguments.faults, arguments.runs, arguments.lanes, give_up)
        finally:
            prepared.fast_server.stop("immediate")
            prepared.durable_server.stop("immediate")
    print(markdown([json.loads(line) for line in out.read_text().splitlines()], list(FAULTS)))


def run_all(campaign: Campaign, faults: list[str], runs: int, lanes: int, give_up: float) -> None:
    """All runs without a result, every fault once before any a second time."""
    lines = campaign.out.read_text().splitlines() if campaign.out.exists() else []
    done = {(result["fault"], result["number"]) for result in map(json.loads, lines)}
    waiting: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    for number in range(runs):
        for fault in faults:
            if (fault, number) not in done:
                waiting.put((fault, number))

    def lane() -> None:
        while time.monotonic() < give_up:
            try:
                campaign.do(*waiting.get_nowait())
            except queue.Empty:
                return

    threads = [threading.Thread(target=lane) for _ in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
