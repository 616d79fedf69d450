"""`contimg publish` and `contimg transits`, as an operator uses them."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from toy_products import toy_product
from transit_sources import source_on_meridian
from typer.testing import CliRunner, Result

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.errors import (
    DestinationAwayError,
    MissingInputError,
    MosaicNotMadeError,
    SettingError,
)
from absurd_contimg.history.wait_explanation import WaitContext
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.doctor.site_folders import publish_folder
from absurd_contimg.operations.night_report.result_reading import unprocessed_items
from absurd_contimg.owned_folders import MARK_NAME
from absurd_contimg.products.publication import require_publish_dir
from absurd_contimg.products.store import load_committed
from absurd_contimg.registry import GroupStatus, Registry, database, engines
from absurd_contimg.registry.models import ObservationGroup
from absurd_contimg.registry.publications import Publications
from absurd_contimg.science.catalogue import write_catalogue
from absurd_contimg.settings import load_settings

QUEUE = "dsa110-pipeline"
STEP = 309.12 / 86400.0


class Site:
    """A site with three publications and a night of groups around a transit."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names = ("input", "output", "scratch", "state")
        self.folders = [f"--{name}-dir={root / name}" for name in names]
        for name in names:
            (root / name).mkdir()
        registry = Registry(root / "state/registry.sqlite3", output_dir=root / "output")
        publications, self.keys = Publications(registry.database), []
        for number in (1, 2, 3):
            checked = {"checks": {"verdict": "accepted"}}
            folder = toy_product(root / "output", number=number, outputs=checked)
            manifest = load_committed(folder)
            registry.register(folder, manifest)
            publications.begin(manifest.key, "mosaic", folder, root / "published" / folder.name)
            self.keys.append(manifest.key)
            if number == 1:
                self.published = root / "published" / folder.name
                shutil.copytree(folder, self.published)
        publications.start_attempt(self.keys[0])
        publications.finish(self.keys[0], "2026-01-01T00:00:00+00:00")
        publications.fail(self.keys[1], "its checks found it degraded \x1b[31m(setting).")
        self.mid_mjd = time.time() / 86_400.0 + 40_587.0 - 0.5
        with registry.database.writing() as session:
            for number in range(-6, 7):
                session.add(
                    ObservationGroup(
                        group_id=f"group{number + 6:02d}",
                        status=GroupStatus.DISCOVERED.value,
                        mid_mjd=self.mid_mjd + number * STEP,
                        declination_deg=16.0,
                        n_subbands=16,
                    )
                )
        registry.close()
        write_catalogue(
            root / "input" / "catalog.csv", [source_on_meridian(self.mid_mjd, "0834+555")]
        )

    def run(self, *arguments: str, **environment: str) -> Result:
        """The outcome of a command on this site."""
        runner = CliRunner(env={"COLUMNS": "80", **environment})
        return runner.invoke(app, [*self.folders, *arguments])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def test_publications_are_listed_with_their_reasons(site: Site) -> None:
    """On 80 columns, harmless on a terminal; exit code 1 because one has failed."""
    result = site.run("publish", "list")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert max(map(len, lines[:4])) <= 80
    assert "2026-01-01T00:00:00" in result.output
    assert "degraded" in result.output
    assert "\x1b" not in result.output
    rows = json.loads(site.run("publish", "list", "--json").output)
    assert [row["state"] for row in rows] == ["published", "failed", "staging"]
    assert site.run("publish", "list", "--state", "published").exit_code == 0


def test_unknown_names_are_refused(site: Site) -> None:
    """A state, a product, neither product nor --all."""
    cases = [
        (("publish", "list", "--state", "lost"), SettingError, "lost"),
        (("publish", "retry", "nothing"), MissingInputError, "nothing"),
        (("publish", "retry"), SettingError, "--all"),
        (("transits", "--calibrator", "3C 1"), SettingError, "0834[+]555"),
        (("transits", "--create", "group99"), MosaicNotMadeError, "group99"),
        (("transits", "--create", "best", "--batch"), SettingError, "one of them"),
    ]
    for arguments, error, words in cases:
        result = site.run(*arguments)
        assert result.exit_code == 1, arguments
        with pytest.raises(error, match=words):
            raise result.exception or AssertionError(arguments)


def test_retry_spawns_a_task_once(site: Site, database_url: str) -> None:
    """What is published stays; a second request finds the task of the first."""
    asyncio.run(make_queue(database_url))
    environment = {"ABSURD_DATABASE_URL": database_url}
    result = site.run("publish", "retry", "--all", "--json", **environment)
    assert result.exit_code == 0, result.output
    first: Any = json.loads(result.output)
    assert [row["product_key"] for row in first] == site.keys[1:]
    assert {row["note"] for row in first} == {"spawned"}
    again = json.loads(
        site.run("publish", "retry", site.keys[1][:10], "--json", **environment).output
    )
    assert again[0]["task"][0] == first[0]["task"][0]
    assert again[0]["note"] == "is pending"
    published = site.run("publish", "retry", site.keys[0], **environment)
    assert "is published" in published.output


def test_retry_of_what_is_degraded_is_refused_before_a_task_is_spawned(
    tmp_path: Path, database_url: str
) -> None:
    """With the setting it is spawned; of --all the others are spawned."""
    asyncio.run(make_queue(database_url))
    site, environment = Site(tmp_path), {"ABSURD_DATABASE_URL": database_url}
    checked = {"checks": {"verdict": "degraded"}}
    folder = toy_product(tmp_path / "output", "mosaics/bad", number=4, outputs=checked)
    key = load_committed(folder).key
    reason = "its checks found it degraded (publication.degraded is false)."
    with closing(Registry(tmp_path / "state/registry.sqlite3")) as registry:
        publications = Publications(registry.database)
        publications.begin(key, "mosaic", folder, tmp_path / "published" / folder.name)
        publications.fail(key, f"Product {key} is not published: {reason}")
        row = publications.find(key)
        assert row is not None
        (item,) = unprocessed_items([], [], [], [row], {}, WaitContext(datetime.now(UTC)))
        assert item.advice.startswith("To publish what is degraded: publication.degraded = true")
    refused = site.run("publish", "retry", key, **environment)
    assert isinstance(refused.exception, SettingError)
    assert reason in str(refused.exception)
    assert item.advice in str(refused.exception)
    result = site.run("publish", "retry", "--all", "--json", **environment)
    notes = {row["product_key"]: (row["task"], row["note"]) for row in json.loads(result.output)}
    assert [notes[other][1] for other in site.keys[1:]] == ["spawned", "spawned"]
    assert notes[key][0] is None
    assert reason in notes[key][1]
    allowed = ("--set", "publication.degraded=true", "publish", "retry", key, "--json")
    assert json.loads(site.run(*allowed, **environment).output)[0]["note"] == "spawned"


def test_a_published_copy_that_is_gone_is_named_and_made_again(
    site: Site, database_url: str
) -> None:
    """Its disk was away, or somebody has removed it."""
    asyncio.run(make_queue(database_url))
    environment = {"ABSURD_DATABASE_URL": database_url}
    away = site.published.with_name("away")
    site.published.rename(away)
    try:
        listed = site.run("publish", "list", "--state", "published", **environment)
        assert listed.exit_code == 1
        assert site.keys[0][:10] in listed.output.split("not in its place any more:")[1]
        retried = site.run("publish", "retry", site.keys[0], "--json", **environment)
        assert [row["note"] for row in json.loads(retried.output)] == ["spawned"]
        retried = site.run("publish", "retry", "--all", "--json", **environment)
        assert site.keys[0] in [row["product_key"] for row in json.loads(retried.output)]
    finally:
        away.rename(site.published)


def test_the_doctor_names_a_mount_point_without_its_disk(tmp_path: Path) -> None:
    site = Site(tmp_path)
    folders = {f"{path.name}_dir": path for path in map(tmp_path.joinpath, ("input", "output"))}
    folders |= {"state_dir": tmp_path / "state", "publish_dir": tmp_path / "published"}
    settings = load_settings(folders, [], {})
    (finding,) = publish_folder(settings)
    assert finding.ok
    site.published.rename(tmp_path / "away")
    (finding,) = publish_folder(settings)
    assert not finding.ok
    assert "disk seems to be away" in finding.finding


def test_a_new_folder_for_publications_is_accepted(tmp_path: Path) -> None:
    """In the place of one that is lost."""
    site = Site(tmp_path)
    published = tmp_path / "elsewhere"
    accept = ("--publish-dir", str(published), "publish", "accept-folder")
    refused = site.run(*accept)
    assert (refused.exit_code, type(refused.exception)) == (1, DestinationAwayError)
    published.mkdir()
    assert "publish retry --all" in " ".join(site.run(*accept).output.split())
    assert "accept publication folder" in site.run("actions").output
    copies = [published / "mosaics/one"]
    require_publish_dir(published, lambda: copies)
    (published / MARK_NAME).unlink()
    with pytest.raises(DestinationAwayError):
        require_publish_dir(published, lambda: copies)


def test_a_folder_is_not_accepted_without_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ended with code 0, and nobody saw later who had accepted it."""
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.05)
    for name in ("_PATIENCE_SECONDS", "_PAUSE_SECONDS"):
        monkeypatch.setattr(database, name, 0.05)
    site = Site(tmp_path)
    published = tmp_path / "elsewhere"
    published.mkdir()
    accept = ("--publish-dir", str(published), "publish", "accept-folder")
    with closing(sqlite3.connect(tmp_path / "state/registry.sqlite3")) as holder:
        holder.execute("begin immediate")
        refused = site.run(*accept)
    assert refused.exit_code == 1
    assert "'accept publication folder'" in str(refused.exception)
    assert "is not in the registry" in str(refused.exception)
    assert "Then repeat the command" in str(refused.exception)
    assert "is the folder for publications" not in refused.output
    assert site.run(*accept).exit_code == 0
    assert "accept publication folder" in site.run("actions").output


def test_transits_are_listed(site: Site) -> None:
    """With the fields of the existing pipeline; on 80 columns."""
    result = site.run("transits")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert "group06" in result.output
    (transit,) = json.loads(site.run("transits", "--json").output)
    assert transit["group_id"] == "group06"
    assert transit["transit_mjd"] == pytest.approx(site.mid_mjd, abs=1e-4)
    assert abs(transit["delta_minutes"]) < 0.1
    assert (transit["n_groups"], transit["n_subbands"]) == (9, 16)
    assert transit["days_ago"] == pytest.approx(0.5, abs=0.01)
    assert site.run("transits", "--days-back", "0.1", "--json").output.strip() == "[]"


def test_a_mosaic_of_a_transit_is_spawned_once(site: Site, database_url: str) -> None:
    """The same words find the same task; the transit is selected now."""
    asyncio.run(make_queue(database_url))
    environment = {"ABSURD_DATABASE_URL": database_url}
    made = [
        json.loads(site.run("transits", "--create", choice, "--json", **environment).output)
        for choice in ("latest", "best", "group06")
    ]
    assert [each["created"] for each in made] == [True, False, False]
    assert len({each["task_id"] for each in made}) == 1
    batch = json.loads(site.run("transits", "--batch", "--json", **environment).output)
    assert batch["created"]


async def make_queue(url: str) -> None:
    async with PostgresBackend(url) as backend:
        await backend.create_queue(QUEUE)
