"""A registry in Postgres that is gone: no command makes an empty one in its place unasked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prepared_site import prepare_site
from psycopg import sql
from typer.testing import CliRunner

from absurd_contimg.errors import RegistryAwayError, RegistryDamagedError
from absurd_contimg.file_owners import SITE_NAME
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.doctor import doctor
from absurd_contimg.operations.services.queue_gate import QueueGate
from absurd_contimg.products.site_file import read_site_file
from absurd_contimg.registry.database import Database, exists
from absurd_contimg.registry.queue_pauses import QueuePauses

GONE = "The registry of this site is gone"
QUEUE = "dsa110-pipeline"
NEEDS_IT = [
    *(["groups"], ["registry", "check"], ["queue", "resume"], ["emergency", "resume"], ["alerts"]),
    *(["schedule", "list"], ["spawn", "--now"], ["daemon", "--once"], ["worker", "--until-idle"]),
    *(["backup"], ["retry", "--all-failed"]),
]
SHOWS_IT = [["status"], ["queue", "list"], ["doctor"]]


@dataclass(frozen=True, slots=True)
class Site:
    """A site whose registry and queue are in two databases of one server."""

    database_url: str
    registry_url: str
    output_dir: Path

    @property
    def name(self) -> str:
        """Of the registry's database."""
        return f"{psycopg.conninfo.conninfo_to_dict(self.registry_url)['dbname']}"

    def drop_schema(self) -> None:
        """As somebody who cleans up the wrong database."""
        with psycopg.connect(self.registry_url, autocommit=True) as session:
            session.execute("drop schema contimg cascade")

    def make_new_database(self) -> None:
        """As after the loss of the server's disk."""
        name = sql.Identifier(self.name)
        with psycopg.connect(self.database_url, autocommit=True) as session:
            session.execute(sql.SQL("drop database {} with (force)").format(name))
            session.execute(sql.SQL("create database {}").format(name))

    def is_made(self) -> bool:
        """Whether there is anything of a registry."""
        with psycopg.connect(self.registry_url) as session:
            row = session.execute("select to_regnamespace('contimg') is not null").fetchone()
        return row == (True,)


LOSSES = pytest.mark.parametrize("lose", [Site.drop_schema, Site.make_new_database])


@pytest.fixture
def site(tmp_path: Path, new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site with its registry in Postgres, made by its first worker."""
    prepare_site(tmp_path, monkeypatch)
    made = Site(new_database(), new_database(), tmp_path / "output")
    monkeypatch.setenv("ABSURD_DATABASE_URL", made.database_url)
    monkeypatch.setenv("PIPELINE_PRODUCTS_DB", made.registry_url)
    monkeypatch.setattr(doctor, "stage_software", lambda _folders: [])
    assert contimg("groups").exit_code == 1  # a site that never had one
    assert contimg("db", "init").exit_code == 0
    assert contimg("worker", "--until-idle").exit_code == 0
    mark = read_site_file(made.output_dir)
    assert mark is not None
    assert mark.registry is not None
    assert made.is_made()
    return made


def contimg(*arguments: str) -> Any:
    """Run a command with the settings in the environment."""
    return CliRunner().invoke(app, arguments)


@LOSSES
def test_the_loss_is_named_and_pauses_hold(site: Site, lose: Callable[[Site], None]) -> None:
    """The first command made an empty one, so that running workers claimed again."""
    assert contimg("emergency", "drain", "--reason=disk swap").exit_code == 0
    with closing(Database(site.registry_url, output_dir=site.output_dir)) as running:
        gate = QueueGate(QueuePauses(running), QUEUE)
        assert not asyncio.run(gate.ready_to_claim())
        assert "disk swap" in gate.problem()
        lose(site)
        error = contimg("groups").exception
        assert isinstance(error, RegistryDamagedError)
        texts = ("contimg restore DIR", "contimg registry rebuild", "PIPELINE_PRODUCTS_DB")
        for text in (f"/{site.name} has no tables", f"{site.output_dir / SITE_NAME}", *texts):
            assert text in str(error)
        accepted = []
        for command in NEEDS_IT:
            result = contimg(*command)
            text = f"{result.exception} {result.output}"
            if result.exit_code == 0 or GONE not in text or site.is_made():
                accepted.append((command, result.exit_code, text[:300]))
        accepted += [(each, 0, "") for each in SHOWS_IT if GONE not in contimg(*each).output]
        assert accepted == []
        assert not site.is_made()
        assert not asyncio.run(gate.ready_to_claim())
        assert GONE in gate.problem()


def test_the_commands_that_accept_the_loss_make_one(site: Site, tmp_path: Path) -> None:
    """After each of them the site works."""
    backup = tmp_path / "backup"
    assert contimg("backup", str(backup)).exit_code == 0
    for command in (
        ["registry", "rebuild"],
        ["db", "init", "--this-site"],
        ["restore", str(backup), "--force"],
    ):
        site.drop_schema()
        accepted = contimg(*command)
        assert accepted.exit_code == 0, (command, accepted.output, accepted.exception)
        assert site.is_made(), command
        assert contimg("groups").exit_code == 0, command
    assert contimg("worker", "--until-idle").exit_code == 0


def test_a_registry_that_a_restoration_has_aside_is_not_gone(site: Site) -> None:
    """To wait is right, not to make a new one; its upgrade is no loss, either."""
    with closing(Database(site.registry_url, output_dir=site.output_dir)) as running:
        with psycopg.connect(site.registry_url, autocommit=True) as session:
            session.execute("alter schema contimg rename to contimg_before_restoration")
            for use in (
                lambda: Database(site.registry_url, output_dir=site.output_dir),
                lambda: exists(site.registry_url, output_dir=site.output_dir),
                QueuePauses(running).pauses,
            ):
                with pytest.raises(RegistryAwayError, match="restoration of a backup is under way"):
                    use()
            session.execute("alter schema contimg_before_restoration rename to contimg")
            session.execute("drop table contimg.alembic_version")
        assert exists(site.registry_url, output_dir=site.output_dir)
