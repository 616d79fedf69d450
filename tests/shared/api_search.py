"""Requests that the API's description allows, and those that it does not, by schemathesis.

`python -m api_search EXAMPLES SEED`, in `tests/shared`, asks each operation so often, on the
emulator and on Postgres. `make test` asks it a few times.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from api_sites import AUTHORISED, TOKEN, api_of
from hypothesis import HealthCheck, Phase
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served_api import QUEUE, served_in_thread

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import install_schema
from absurd_contimg.core.backend import Backend
from absurd_contimg.operations.api import AccessRules
from absurd_contimg.registry.database import Database
from absurd_contimg.settings import load_settings

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@contextmanager
def served_site(folder: Path, database_url: str | None = None) -> Iterator[str]:
    """An API over the emulator, or over Postgres; its address."""

    @asynccontextmanager
    async def make() -> AsyncIterator[Any]:
        registry = Database(folder / "registry.sqlite3", output_dir=folder / "products")
        settings = load_settings({}, (), {"PIPELINE_OUTPUT_DIR": str(folder / "products")})

        async def app_of(backend: Backend) -> Any:
            await backend.create_queue(QUEUE)
            return api_of(backend, registry, AccessRules(TOKEN), settings=settings)

        if database_url is None:
            yield await app_of(MemoryBackend(MemoryDatabase()))
        else:
            async with PostgresBackend(database_url) as backend:
                yield await app_of(backend)
        registry.close()

    with served_in_thread(make) as url:
        yield url


def search(url: str, examples: int, seed: int) -> int:
    """Ask each operation; raises for the first answer that it must not give. How many requests."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    asked = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @hypothesis.seed(seed)
            @hypothesis.settings(
                max_examples=examples,
                deadline=None,
                database=None,
                phases=[Phase.explicit, Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            )
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                nonlocal asked
                asked += 1
                if "queue" in case.path_parameters and asked % 2:
                    case.path_parameters["queue"] = QUEUE  # another one is nowhere
                case.call_and_validate(headers=AUTHORISED, checks=CHECKS)

            try:
                ask()
            except hypothesis.errors.Unsatisfiable:
                continue  # nothing of it can be given a wrong value
    return asked


def main(examples: int, seed: int) -> None:
    """Both databases."""
    with (
        tempfile.TemporaryDirectory(prefix="as-") as folder,
        EmbeddedPostgres(Path(folder) / "pg", durable=False) as server,
    ):
        url = server.create_database("search")
        install_schema(url)
        for name, database_url in (("emulator", None), ("Postgres", url)):
            site = Path(folder) / name
            site.mkdir()
            with served_site(site, database_url) as address:
                count = search(address, examples, seed)
            print(f"{name}: {count} requests, none answered wrongly")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
