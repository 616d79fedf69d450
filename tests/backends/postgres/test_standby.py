"""A standby that was not promoted: what is wrong is said, wherever it is met."""

from __future__ import annotations

from pathlib import Path

import pytest

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.schema import check_schema, install_schema
from absurd_contimg.core.errors import BackendError
from absurd_contimg.operations.alerts.look import make_look
from absurd_contimg.operations.overview import Site, read_site


async def test_a_standby_is_named_with_what_to_do(tmp_path: Path) -> None:
    """It answers every read: doctor found no problem, and work ended with the server's words."""
    server = EmbeddedPostgres(tmp_path)
    with server:
        url = server.create_database("site")
        install_schema(url)
        async with PostgresBackend(url) as backend:
            await backend.create_queue("q")
        check_schema(url)
    (tmp_path / "data" / "standby.signal").touch()
    with server:
        with pytest.raises(BackendError, match=r"standby.* Promote it"):
            check_schema(url)
        async with PostgresBackend(url) as backend:
            with pytest.raises(BackendError, match=r"Promote it, or name the primary") as refused:
                await backend.spawn_task("q", "task", {})
            site = Site("production", backend)
            assert "standby" in (await make_look(site, 60.0)()).away["database"]
            problems = list((await read_site(site)).problems)
            assert any("Promote it" in problem for problem in problems)
        assert refused.value.sqlstate == "25006"
