"""What all tests share: one embedded Postgres, a fresh database from a template for each test."""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import psycopg
import pytest
import typer.testing
from database_pool import DatabasePool
from small_disk import mounted

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.core.backend import Backend

if TYPE_CHECKING:
    from absurd_contimg.synthesis import SynthesisResult

# `make test` draws the same examples each time, so that it is red or green for all; `make search`
# draws new ones.
# A busy machine is no failure: speed is measured in benchmarks/.
_UNTIMED: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
}
hypothesis.settings.register_profile("repeatable", derandomize=True, **_UNTIMED)
hypothesis.settings.register_profile("search", print_blob=True, **_UNTIMED)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# Where the environment forbids bytecode, each of a thousand processes would compile the package.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# It comes from an option in pyproject.toml, and is not for what other projects' pytest loads.
os.environ.pop("PYTEST_DISABLE_PLUGIN_AUTOLOAD", None)

# Else pydantic reads the metadata of every installed package in each process that a test starts.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

# As in the environment of stages: numba compiles for 2 s in each process that numbers baselines.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

# Typer builds all commands again at each call: a third of a short command, a thousand times.
typer.testing._get_command = functools.cache(typer.testing._get_command)  # type: ignore[assignment]

LONGEST_FILES = (
    "end_to_end/test_pipeline.py",
    "simulation/test_explorer.py",
    "faults/test_faults.py",
    "execution/test_runner_crashes.py",
    "end_to_end/test_bad_input.py",
    "stages/test_science_chain.py",
    "conformance/test_oracle.py",
    "workflows/test_failure_catalogue.py",
    "simulation/test_campaigns.py",
    "testing/test_plugin.py",
    "ingest/test_daemon.py",
    "core/test_lost_leases.py",
    "operations/api/test_security.py",
    "ingest/test_arrivals.py",
    "operations/test_streams.py",
    "history/test_unreadable_rows.py",
    "simulation/test_stream.py",
    "execution/test_stage_descendants.py",
    "operations/test_secrets.py",
    "execution/test_runner.py",
    "registry/test_migrations.py",
    "faults/test_simulated.py",
    "execution/test_executor.py",
    "simulation/test_deterministic.py",
    "simulation/test_replay.py",
    "testing/test_handler_mistakes.py",
    "conformance/test_equality.py",
    "core/test_worker_deaths.py",
    "core/test_budgets.py",
    "daemon_kills/test_daemon_kills.py",
    "science/test_raw_files.py",
)
"""They begin first, else one core would work on the last of them while the other is idle."""

_TEMPLATE = "absurd_template"
QUEUE = "dsa110-pipeline"


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One real server for the session; each xdist worker has its own."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("pg"), durable=False)
    with server:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            # It would look at each database again and again, for tests of a few seconds.
            connection.execute("alter system set autovacuum = off")
            connection.execute("select pg_reload_conf()")
        install_schema(server.create_database(_TEMPLATE))
        yield server


@pytest.fixture(scope="session")
def database_pool(postgres_server: EmbeddedPostgres) -> DatabasePool:
    """Databases with Absurd's schema."""
    return DatabasePool(postgres_server, _TEMPLATE)


@pytest.fixture(scope="session")
def new_database(database_pool: DatabasePool) -> Callable[[], str]:
    """Makes a fresh database with Absurd's schema each time it is called; its URL."""
    return database_pool.new


@pytest.fixture
def database_url(database_pool: DatabasePool) -> Iterator[str]:
    """The URL of a database with Absurd's schema, as if it were a fresh one."""
    url = database_pool.take()
    yield url
    database_pool.give_back(url)


@pytest.fixture(params=["memory", "postgres"])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    """A backend with one empty queue: the emulator, then the real engine."""
    if request.param == "memory":
        memory = MemoryBackend(MemoryDatabase())
        await memory.create_queue(QUEUE)
        yield memory
        return
    async with PostgresBackend(request.getfixturevalue("database_url")) as postgres:
        await postgres.create_queue(QUEUE)
        yield postgres


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    with mounted(tmp_path / "disk") as folder:
        yield folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SynthesisResult:
    """A calibrator group and a science group, 10 antennas, 16 x 2 channels."""
    from absurd_contimg.synthesis import SynthesisConfig, synthesize  # noqa: PLC0415 - slow import

    return synthesize(tmp_path_factory.mktemp("tiny"), SynthesisConfig.tiny())


def pytest_addoption(parser: pytest.Parser) -> None:
    """How often to kill; the campaigns that were reported used more than the test command."""
    parser.addoption("--kills", type=int, default=1, help="random kills of the real pipeline")
    parser.addoption("--server", help="a server with extensions, for tests of upgrades")
    parser.addoption("--fault-runs", type=int, default=1, help="runs of each injected fault")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first; all else stays in its order."""
    folder = Path(__file__).parent
    ranks = {folder / name: rank for rank, name in enumerate(LONGEST_FILES)}
    missing = [str(path) for path in ranks if not path.exists()]
    if missing:
        raise pytest.UsageError(f"LONGEST_FILES in tests/conftest.py names {missing}")
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported stays: no search for garbage, here or in a fork, goes through it.

    There are a million objects, and `explore_crashes` makes such a search at its end.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """What a file has left to the next one, and its imports, stay as well."""
    result = yield
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()
    return result
