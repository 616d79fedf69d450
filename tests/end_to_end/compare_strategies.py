"""The strategies on the same small night: tasks, checkpoints, calls, seconds, work lost by a kill.

    python tests/end_to_end/compare_strategies.py --work DIR

Real Postgres and the real workers of two processes on two cores; the stages only wait, for the
durations of production divided by a hundred. Prints the table of docs/strategies.md. With
``--casa`` it runs the real stages on a small synthetic night instead and compares the products of
the strategies, file by file and column by column; ``--record FILE`` keeps the checkpoints of these
runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "shared"), str(ROOT)]

from group_stages import QUEUE, Apply, Convert, Image, InProcessExecutor, Site  # noqa: E402

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend  # noqa: E402
from absurd_contimg.backends.postgres.schema import install_schema  # noqa: E402
from absurd_contimg.config import PathsConfig  # noqa: E402
from absurd_contimg.core.backend import READS  # noqa: E402
from absurd_contimg.core.records import History  # noqa: E402
from absurd_contimg.core.worker import Worker  # noqa: E402
from absurd_contimg.execution.context import PipelineContext  # noqa: E402
from absurd_contimg.execution.executor import StageReport, StageRequest  # noqa: E402
from absurd_contimg.execution.stage import (  # noqa: E402
    PipelineStage,
    Resource,
    stage_queues,
)
from absurd_contimg.history.summary import read_histories  # noqa: E402
from absurd_contimg.ingest.spawn import STRATEGIES, spawn_groups  # noqa: E402
from absurd_contimg.operations.services import open_backend, serve  # noqa: E402
from absurd_contimg.registry import Registry  # noqa: E402
from absurd_contimg.settings import load_settings  # noqa: E402
from absurd_contimg.synthesis import SynthesisConfig, synthesize  # noqa: E402
from absurd_contimg.workflows.orchestrator import PipelineOrchestrator  # noqa: E402

GROUPS = [f"2026-01-01T00:{minute:02d}:00" for minute in range(0, 60, 10)]
CORES = 2


class Flag(Apply):
    """Between conversion and calibration."""

    name = "flag"
    provides = frozenset({"flagged"})
    product_folder = "flagged"


class Solve(Apply):
    name = "calibrate_solve"
    source = "flagged"
    requires = frozenset({"flagged"})
    provides = frozenset({"solutions"})
    product_folder = "solutions"


class ApplySolutions(Apply):
    source = "flagged"
    requires = frozenset({"flagged", "solutions"})


class Validate(Image):
    name = "validate"
    resource = Resource.IO
    source = "picture"
    requires = frozenset({"picture"})
    provides = frozenset({"checks"})
    product_folder = "checks"


STAGES: tuple[PipelineStage, ...] = (
    *(Convert(), Flag(), Solve(), ApplySolutions(), Image(), Validate()),
)
SECONDS = {
    "convert": 2.5,
    "flag": 0.27,
    "calibrate_solve": 0.4,
    "calibrate_apply": 0.2,
    "image": 2.1,
    "validate": 0.05,
}
"""Hundredths of the durations in docs/telescope.md."""


_STORAGE = re.compile(r"table\.(f\d+\w*|lock)$")
"""Files of a table's columns. CASA leaves unused memory in them (in that of FLAG_ROW and in
``table.f0i`` it differs between two runs of one stage on one input), so columns are compared."""


@dataclass
class TwoCores(InProcessExecutor):
    """Two stages at a time, and how much of their time was lost."""

    cores: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CORES))
    lost_seconds: float = 0.0

    async def execute(self, request: StageRequest) -> StageReport:
        async with self.cores:
            started = time.monotonic()
            try:
                return await super().execute(request)
            except asyncio.CancelledError:
                self.lost_seconds += time.monotonic() - started
                raise


class Counting:
    """A backend that counts calls that write."""

    def __init__(self, backend: PostgresBackend) -> None:
        self._backend = backend
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        self.writes += name not in READS and name != "claim_task"
        return getattr(self._backend, name)


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one strategy."""

    tasks: int
    checkpoints: int
    writes: int
    seconds: float
    lost_seconds: float
    seconds_with_kill: float


@contextlib.asynccontextmanager
async def night(root: Path, server: EmbeddedPostgres, name: str) -> AsyncIterator[Site]:
    url = server.create_database(name)
    install_schema(url)
    async with PostgresBackend(url) as backend:
        counting: Any = Counting(backend)
        site = Site(root / name, counting, STAGES)
        site.executor = TwoCores({stage.name: stage for stage in STAGES})
        site.executor.seconds = SECONDS
        site.runner.executor = site.executor
        await site.make_queues()
        yield site
        site.close()


async def process(site: Site, strategy: str, kill: bool) -> float:
    """Seconds until two processes have done the night; `kill` ends both once while they image."""
    task_name, options = STRATEGIES[strategy]
    for group in GROUPS:
        await site.backend.spawn_task(QUEUE, task_name, site.params(group), options(group))
    started = time.monotonic()
    runs = start_processes(site)
    killed = not kill
    while not await is_done(site):
        if not killed and site.executor.starts.count(("image", GROUPS[1])):
            await asyncio.sleep(SECONDS["image"] / 2)
            await end(runs)
            runs = start_processes(site)
            killed = True
        await asyncio.sleep(0.01)
    seconds = time.monotonic() - started
    await end(runs)
    return seconds


def start_processes(site: Site) -> list[asyncio.Task[None]]:
    """Two processes, each with one slot on every queue."""
    queues = (QUEUE, *stage_queues(QUEUE).values())
    workers = [new_worker(site, queue, number) for number in range(CORES) for queue in queues]
    return [asyncio.create_task(worker.run()) for worker in workers]


async def end(runs: Sequence[asyncio.Task[None]]) -> None:
    """End all at once, in the middle of their stages."""
    for run in runs:
        run.cancel()
    await asyncio.gather(*runs, return_exceptions=True)


def new_worker(site: Site, queue: str, number: int) -> Worker:
    """One slot on a queue, in the process of this number."""
    worker = site.worker(queue, 1)
    worker.settings = replace(
        worker.settings, worker_id=f"worker-{number}", poll_interval_seconds=0.1
    )
    return worker


async def is_done(site: Site) -> bool:
    stats = await site.backend.queue_stats(QUEUE)
    return stats.tasks_by_state.get("completed", 0) == len(GROUPS)


async def histories_of(backend: Any) -> list[History]:
    queues = (QUEUE, *stage_queues(QUEUE).values())
    return [history for queue in queues for history in await read_histories(backend, queue)]


async def measure(root: Path, server: EmbeddedPostgres, strategy: str) -> Measured:
    async with night(root, server, f"{strategy}_plain") as site:
        seconds = await process(site, strategy, kill=False)
        histories = await histories_of(site.backend)
        counting: Any = site.backend
        writes = counting.writes
    async with night(root, server, f"{strategy}_killed") as site:
        with_kill = await process(site, strategy, kill=True)
        executor: Any = site.executor
        lost = executor.lost_seconds
    checkpoints = sum(len(history.checkpoints) for history in histories)
    return Measured(len(histories), checkpoints, writes, seconds, lost, with_kill)


async def without_database(root: Path, server: EmbeddedPostgres) -> float:
    """The plain sequence, two groups at a time."""
    async with night(root, server, "sequence") as site:
        slots = asyncio.Semaphore(CORES)
        orchestrator = PipelineOrchestrator(STAGES, site.runner)

        async def one_group(group: str) -> None:
            async with slots:
                await orchestrator.run(PipelineContext(site.config, site.params(group)))

        started = time.monotonic()
        await asyncio.gather(*map(one_group, GROUPS))
        return time.monotonic() - started


async def compare(root: Path) -> None:
    with EmbeddedPostgres(root / "postgres", durable=False) as server:
        plain = await without_database(root, server)
        print(f"{len(GROUPS)} groups, {CORES} cores; without a database {plain:.2f} s\n")
        print("| strategy | tasks | checkpoints | writes | s | more | lost | s with kill |")
        print("|---|---|---|---|---|---|---|---|")
        for strategy in STRATEGIES:
            m = await measure(root, server, strategy)
            over = 100 * (m.seconds / plain - 1)
            print(
                f"| `{strategy}` | {m.tasks} | {m.checkpoints} | {m.writes} | {m.seconds:.2f} | "
                f"{over:.0f} % | {m.lost_seconds:.2f} | {m.seconds_with_kill:.2f} |",
                flush=True,
            )


async def run_casa(root: Path, strategies: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The products and the recorded tasks of the real stages, by strategy."""
    paths = PathsConfig.below(root / "site")
    observations = synthesize(paths.input_dir, SynthesisConfig.tiny())
    folders = paths.model_dump(exclude_none=True)
    settings = load_settings(
        {**folders, "catalog": observations.catalog, "poll_interval_seconds": 0.2},
        tiny_assignments(paths),
        environment={},
    )
    products: dict[str, Mapping[str, Any]] = {}
    records: dict[str, Any] = {}
    for strategy in strategies:
        started = time.monotonic()
        async with open_backend(settings) as backend:
            with contextlib.closing(Registry(settings.registry_url)) as registry:
                await spawn_groups(
                    backend, settings, registry, incomplete_now=True, strategy=strategy
                )
            await serve(settings, until_idle=True)
            histories = await histories_of(backend)
        states = {h.task.state for h in histories}
        products[strategy] = contents(paths.output_dir)
        records[strategy] = [recorded(h) for h in histories if h.queue_name == QUEUE]
        print(f"{strategy}: {states}, {len(products[strategy])} files", end=", ")
        print(f"{time.monotonic() - started:.0f} s", flush=True)
        EmbeddedPostgres(settings.embedded_folder).stop()
        for folder in (paths.output_dir, paths.state_dir, paths.scratch_dir):
            shutil.rmtree(folder)
    return products, records


def with_casa(root: Path, strategies: Sequence[str], record: Path | None) -> None:
    """The real stages: the same products by each strategy, else exit code 1."""
    products, records = asyncio.run(run_casa(root, strategies))
    if record is not None:
        text = json.dumps({"root": str(root / "site"), "runs": records}, indent=1, default=str)
        record.write_text(text + "\n")
    first = next(iter(products.values()))
    different = {
        name
        for files in products.values()
        for name in files.keys() | first.keys()
        if files.get(name) != first.get(name)
    }
    print(f"{len(different)} of {len(first)} columns, files and manifests differ")
    print(*sorted(different), sep="\n")
    if different:
        raise SystemExit(1)


def tiny_assignments(paths: PathsConfig) -> list[str]:
    """The settings of `PipelineConfig.tiny`, as ``--set`` takes them."""
    from absurd_contimg.config import PipelineConfig  # noqa: PLC0415

    tiny, usual = PipelineConfig.tiny(paths).model_dump(), PipelineConfig(paths=paths).model_dump()
    return [
        f"{section}.{name}={json.dumps(value)}"
        for section, values in tiny.items()
        if section != "paths"
        for name, value in values.items()
        if value != usual[section][name]
    ]


def contents(output_dir: Path) -> dict[str, Any]:
    """Manifests without what differs between two runs of the same, and digests of all files."""
    files: dict[str, Any] = {}
    for path in output_dir.rglob("manifest.json"):
        manifest, folder = json.loads(path.read_text()), path.parent.relative_to(output_dir)
        for name in ("attempt", "host", "created_at"):
            del manifest[name]
        for entry in manifest.pop("files"):
            if not _STORAGE.search(entry["path"]):
                files[f"{folder}/{entry['path']}"] = entry["digest"]
        for description in path.parent.rglob("table.dat"):
            for column, digest in column_digests(description.parent).items():
                files[f"{description.parent.relative_to(output_dir)}/{column}"] = digest
        files[f"{folder}/{path.name}"] = manifest
    return files


def column_digests(path: Path) -> dict[str, str]:
    """The digest of each column of a table, cell by cell; HISTORY holds times and has none."""
    from casacore.tables import table  # noqa: PLC0415 - slow

    if path.name == "HISTORY":
        return {}
    digests = {}
    with table(str(path), ack=False) as opened:
        for column in opened.colnames():
            digest = hashlib.sha256()
            for row in range(opened.nrows()):
                if opened.iscelldefined(column, row):
                    cell = opened.getcell(column, row)
                    digest.update(
                        cell.tobytes() if hasattr(cell, "tobytes") else repr(cell).encode()
                    )
            digests[column] = digest.hexdigest()
    return digests


def recorded(history: History) -> dict[str, Any]:
    """What a replay needs of a task."""
    task = history.task
    return {
        "task_name": task.task_name,
        "task_id": task.task_id,
        "params": task.params,
        "headers": task.headers,
        "result": task.completed_payload,
        "checkpoints": {saved.checkpoint_name: saved.state for saved in history.checkpoints},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="an empty folder")
    parser.add_argument("--casa", action="store_true", help="real stages, products compared")
    parser.add_argument("--record", type=Path, help="with --casa: keep the checkpoints here")
    parser.add_argument("--only", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    work = arguments.work.absolute()
    if arguments.casa:
        with_casa(work, arguments.only, arguments.record)
    else:
        asyncio.run(compare(work))


if __name__ == "__main__":
    main()
