"""``contimg report --night``: which night it takes, what it writes where, and its exit codes."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.operations.cli.main import app
from absurd_contimg.registry import Registry

QUEUE = "dsa110-pipeline"
GROUP = "2025-01-15T10:00:00"


class CommandSite:
    """A site whose folders hold only what the test puts there."""

    def __init__(self, root: Path, database_url: str) -> None:
        self.root, self.database_url = root, database_url
        self._options = [
            *("--input-dir", str(root / "incoming"), "--output-dir", str(root / "products")),
            *("--scratch-dir", str(root / "scratch"), "--state-dir", str(root / "state")),
            *("--database-url", database_url),
        ]
        assert self.run("db", "init").exit_code == 0

    def run(self, *arguments: str) -> Any:
        clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
        return CliRunner().invoke(
            app, [*self._options, *arguments], env={**clean, "COLUMNS": "200"}
        )

    def enter_groups(self, *groups: str) -> None:
        """Enter the files of groups; without any an empty registry."""
        (self.root / "state").mkdir(exist_ok=True)
        with closing(Registry(self.root / "state" / "registry.sqlite3")) as registry:
            for group in groups:
                names = [f"{group}_sb{n:02d}.hdf5" for n in range(16)]
                registry.register_files([self.root / "incoming" / name for name in names])

    def fail_task(self, group: str) -> None:
        """Spawn the task of a group, which fails."""

        async def work() -> None:
            async with PostgresBackend(self.database_url) as backend:
                await backend.spawn_task(QUEUE, "pipeline", {"group_id": group})
                (claimed,) = await backend.claim_task(QUEUE, "worker-1", 60)
                reason = {"name": "StageFailed", "kind": "permanent", "message": "sb03 is cut",
                          "action": "failed", "advice": "Copy sb03 again."}  # fmt: skip
                await backend.fail_run_permanently(QUEUE, claimed.run_id, reason)

        asyncio.run(work())


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> CommandSite:
    return CommandSite(tmp_path, database_url)


def test_the_night_of_a_date_and_the_last_one(site: CommandSite) -> None:
    """Exit code 1 only if it has failed; page and figures are in the folder of reports."""
    site.enter_groups("2025-01-14T10:00:00", GROUP)
    site.fail_task(GROUP)
    result = site.run("report", "--night", "last")
    assert result.exit_code == 1
    assert "Night 2025-01-15: FAILED" in result.output
    reports = site.root / "products" / "reports"
    content = json.loads((reports / "2025-01-15.json").read_text())
    assert [group["group_id"] for group in content["groups"]] == [GROUP]
    (item,) = content["unprocessed"]
    assert (item["why"], item["advice"]) == ("failed: sb03 is cut", "Copy sb03 again.")
    assert "sb03 is cut" in (reports / "2025-01-15.html").read_text()
    result = site.run("report", "--night", "2025-01-14")
    assert (result.exit_code, "Night 2025-01-14: DEGRADED" in result.output) == (0, True)
    earlier = json.loads((reports / "2025-01-14.json").read_text())
    assert [group["group_id"] for group in earlier["groups"]] == ["2025-01-14T10:00:00"]


def test_a_night_without_groups_says_so(site: CommandSite) -> None:
    """Nothing was judged: it is not clean, and nothing has failed."""
    site.enter_groups(GROUP)
    result = site.run("report", "--night", "2025-01-16")
    assert (result.exit_code, "Night 2025-01-16: EMPTY" in result.output) == (0, True)
    assert "There is no group of this night: nothing was observed" in result.output
    page = (site.root / "products" / "reports" / "2025-01-16.html").read_text()
    assert "There is no group of this night" in page


def test_page_and_figures_go_where_they_are_wanted(site: CommandSite) -> None:
    site.enter_groups(GROUP)
    page = site.root / "mine.html"
    assert site.run("report", str(page), "--night", "last").exit_code == 0
    assert json.loads(page.with_suffix(".json").read_text())["night"] == "2025-01-15"
    assert not (site.root / "products" / "reports").exists()
    refused = site.run("report", str(page.with_suffix(".json")), "--night", "last")
    assert isinstance(refused.exception, SettingError)


@pytest.mark.parametrize("night", ["yesterday", "2025-13-01", "2025-01-15T10:00:00"])
def test_what_is_no_date_is_refused(site: CommandSite, night: str) -> None:
    site.enter_groups(GROUP)
    result = site.run("report", "--night", night)
    assert isinstance(result.exception, SettingError)
    assert "2025-01-15" in str(result.exception)
    assert not (site.root / "products" / "reports").exists()


def test_without_groups_or_registry_there_is_no_last_night(site: CommandSite) -> None:
    for entered in (False, True):
        if entered:
            site.enter_groups()
        result = site.run("report", "--night", "last")
        assert isinstance(result.exception, MissingInputError), entered
