"""The faults of the campaign: each is injected into one run of the real pipeline.

A function gets a run whose site is before the drawn stage. It starts the workers, injects the fault
and returns whether the stage was running at that time. Others check what becomes of the run.
"""

from __future__ import annotations

import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from campaign_run import Run, is_running, limit_process, signal_process
from campaign_sites import STAGES
from psycopg import sql
from real_site import QUEUE

from absurd_contimg.products.manifest import MANIFEST_NAME

sys.path += [str(Path(__file__).parents[1] / name) for name in ("shared", "faults")]
from committed_products import committed_products
from proxy import LossyProxy
from small_disk import mounted

Injection = Callable[[Run], bool]

DISK_MEGABYTES = 64
HANG_DEADLINE_SECONDS = 40
PRODUCTS_READ = {
    "convert": ("incoming",),
    "flag": ("raw",),
    "calibrate_solve": ("flagged", "catalogs"),
    "calibrate_apply": ("flagged", "calibration"),
    "image": ("calibrated",),
    "validate": ("images", "catalogs"),
}
"""Below the output folder, what each stage reads; ``incoming`` are the sub-band files."""
WITHOUT_ROOTS_POWER = (
    *("setpriv", "--bounding-set", "-dac_override,-dac_read_search"),
    *("--inh-caps", "-dac_override,-dac_read_search"),
)
"""With this prefix, file modes bind root too."""


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    inject: Injection
    stages: tuple[str, ...] = STAGES
    ends_well: bool = True
    """False: it cannot succeed, and must fail at once."""
    crashes_server: bool = False
    may_overlap: bool = False
    """The fault itself lets two workers run one stage."""
    shortage: bool = False
    """Injected only if the stage meets the shortage; the run must then wait."""


def worker_killed(run: Run) -> bool:
    """Restarted under its name in half of the runs, replaced by another in the rest."""
    run.prepare()
    worker = run.worker("one")
    pid = run.wait_for_injection()
    injected = is_running(pid)
    worker.kill()
    worker.wait()
    run.worker(run.draw.choice(("one", "two")))
    return injected


def child_signalled(number: signal.Signals) -> Injection:
    """A signal to the stage's process."""

    def inject(run: Run) -> bool:
        run.prepare()
        run.worker()
        return signal_process(run.wait_for_injection(), number)

    return inject


def child_hangs(run: Run) -> bool:
    """Stopped: only the deadline ends it."""
    run.prepare(ABSURD_TASK_TIMEOUT=str(HANG_DEADLINE_SECONDS))
    run.worker()
    return signal_process(run.wait_for_injection(), signal.SIGSTOP)


def worker_stopped_past_its_lease(run: Run) -> bool:
    """Another worker takes over; the zombie continues at some later time, or after the end."""
    run.prepare()
    zombie = run.worker("one")
    pid = run.wait_for_injection()
    injected = is_running(pid)
    zombie.send_signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    run.worker("two")
    sleep_until = stopped_at + run.lease_seconds + 1 + run.draw.uniform(0.0, 15.0)
    run.until(lambda: time.monotonic() > sleep_until or run.ended())
    if injected and not run.ended():
        run.until(lambda: " claimed_by two" in claims_of(run) or run.ended())
    zombie.send_signal(signal.SIGCONT)
    return injected


def claims_of(run: Run) -> str:
    """The workers that claimed the task's runs, in order."""
    return "".join(f" claimed_by {r.claimed_by}" for r in run.site.histories()[0].runs)


def worker_terminated(run: Run) -> bool:
    """With a grace period that ends during the stage or after it."""
    run.prepare(ABSURD_WORKER_GRACE=run.draw.choice(("0.5", "0.5", "10")))
    worker = run.worker("one")
    pid = run.wait_for_injection()
    injected = is_running(pid)
    worker.terminate()
    status = worker.wait(40)
    if status != 0:
        run.problems.append(f"the worker ended with {status}")
    if is_running(pid):
        run.problems.append("the stage outlived its worker")
    run.worker("two")
    return injected


def server_crashed(run: Run) -> bool:
    """Crash, a pause of 0 to 3 s, restart."""
    run.prepare()
    run.worker()
    injected = is_running(run.wait_for_injection())
    run.prepared.durable_server.stop("immediate")
    time.sleep(run.draw.uniform(0.0, 3.0))
    run.prepared.durable_server.start()
    return injected


def reply_lost(run: Run) -> bool:
    """One call is committed, its reply is lost and the connection is cut."""
    site = run.prepare()
    proxy = LossyProxy(run.folder / "proxy", site.database_url)
    try:
        at_start = ("claim_task", "get_task_checkpoint_states")
        later = ("set_task_checkpoint_state", "extend_claim", "complete_run")
        procedure = run.draw.choice((*at_start, *later))
        if procedure in at_start:
            proxy.lose_reply_to(procedure)
        run.worker(url=proxy.url)
        run.wait_for_injection()
        if procedure in later:
            proxy.lose_reply_to(procedure)
        run.finish()
        for worker in run.workers:
            worker.terminate()
            worker.wait(40)
        return proxy.lost == 1
    finally:
        proxy.close()


def disk_filled(run: Run) -> bool:
    """The whole site is on the small disk; space is freed once the stage has ended."""
    run.prepare()
    run.worker()
    pid = run.wait_for_injection()
    if not is_running(pid):
        return False
    fill(run.root / "filler")
    run.until(lambda: not is_running(pid))
    time.sleep(run.draw.uniform(0.5, 3.0))
    (run.root / "filler").unlink()
    return True


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    file.write(bytes(size))
    assert shutil.disk_usage(path.parent).free < 1 << 14


def memory_limited(run: Run) -> bool:
    """The limit is little more than the stage uses at that time."""
    run.prepare()
    run.worker()
    pid = run.wait_for_injection()
    with suppress(FileNotFoundError, ProcessLookupError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + run.draw.randrange(0, 4 << 20)
        return limit_process(pid, resource.RLIMIT_AS, limit)
    return False


def files_limited(run: Run) -> bool:
    """The stage may open one more file, or none."""
    run.prepare()
    run.worker()
    pid = run.wait_for_injection()
    with suppress(FileNotFoundError, ProcessLookupError):
        numbers = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        free = next(number for number in range(len(numbers) + 1) if number not in numbers)
        return limit_process(pid, resource.RLIMIT_NOFILE, free + run.draw.randrange(0, 2))
    return False


def input_damaged(how: str) -> Injection:
    """A file that the next stage reads is damaged while no worker runs."""

    def inject(run: Run) -> bool:
        site = run.prepare()
        if how == "unreadable":
            run.site = site = replace(site, prefix=WITHOUT_ROOTS_POWER)
        source = run.draw.choice(PRODUCTS_READ[run.stage])
        if source == "incoming":
            private = run.prepared.private_input(site, run.folder / "incoming")
            run.site = private
            files = sorted(private.observation.output_dir.glob("*.hdf5"))
        else:
            files = [
                folder / name
                for folder, manifest in committed_products(run.root / "products")
                if folder.is_relative_to(run.root / "products" / source)
                for name in (MANIFEST_NAME, *(entry.path for entry in manifest.files))
            ]
        damaged_file = run.draw.choice([path for path in files if path.stat().st_size > 0])
        run.damaged_file = str(damaged_file)
        if how == "deleted":
            damaged_file.unlink()
        elif how == "truncated":
            size = damaged_file.stat().st_size
            with damaged_file.open("r+b") as file:
                file.truncate(run.draw.randrange(size))
        else:
            damaged_file.chmod(0)
        run.injected_at = time.time()
        run.worker()
        return True

    return inject


def two_workers_claim(run: Run) -> bool:
    """The lease is ended in the database while its worker runs a stage."""
    run.prepare()
    run.worker("one")
    run.worker("two")
    injected = is_running(run.wait_for_injection())
    expire = sql.SQL(
        "update absurd.{} set claim_expires_at = now() - interval '1 s'"
        " where state = 'running' and attempt = 1"
    ).format(sql.Identifier(f"r_{QUEUE}"))
    while not run.ended() and len(run.site.histories()[0].runs) == 1:
        run.execute(expire)
        time.sleep(0.1)
    return injected and len(run.site.histories()[0].runs) > 1


FAULTS: dict[str, Fault] = {
    "worker SIGKILL": Fault(worker_killed),
    "stage SIGKILL": Fault(child_signalled(signal.SIGKILL)),
    "stage segfault": Fault(child_signalled(signal.SIGSEGV)),
    "stage SIGSTOP to its deadline": Fault(child_hangs),
    "worker SIGSTOP past its lease, SIGCONT": Fault(worker_stopped_past_its_lease),
    "SIGTERM": Fault(worker_terminated),
    "Postgres stop -m immediate, restart": Fault(server_crashed, crashes_server=True),
    "reply lost after the commit": Fault(reply_lost),
    "disk full in convert": Fault(disk_filled, ("convert",), shortage=True),
    "disk full in solve": Fault(disk_filled, ("calibrate_solve",), shortage=True),
    "disk full in apply": Fault(disk_filled, ("calibrate_apply",), shortage=True),
    "disk full in image": Fault(disk_filled, ("image",), shortage=True),
    "limit of memory": Fault(memory_limited, shortage=True),
    "limit of open files": Fault(files_limited, shortage=True),
    "input deleted between steps": Fault(input_damaged("deleted"), ends_well=False),
    "input truncated between steps": Fault(input_damaged("truncated"), ends_well=False),
    "input unreadable between steps": Fault(input_damaged("unreadable"), ends_well=False),
    "two workers on one task": Fault(two_workers_claim, may_overlap=True),
}


def needs_small_disk(fault: str) -> bool:
    """Whether the site must be on a disk that can be filled."""
    return FAULTS[fault].inject is disk_filled


def small_disk_at(folder: Path):
    """Mount a small disk."""
    return mounted(folder, DISK_MEGABYTES)
