"""`contimg reprocess`, `batch` and `schedule` as an operator uses them, on 80 columns."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.config import CatalogConfig, ConversionConfig
from absurd_contimg.core.records import Json
from absurd_contimg.ingest.batches import feed
from absurd_contimg.operations.cli import batches
from absurd_contimg.operations.cli.main import app
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.products.manifest import InputEntry, Manifest, write_manifest
from absurd_contimg.registry import Registry
from absurd_contimg.registry.batches import Batches
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import ObservationGroup, Product
from absurd_contimg.registry.windows import Window, WindowMember, WindowState, store_windows
from absurd_contimg.stages.catalog_setup import CatalogSetupStage
from absurd_contimg.stages.convert import ConvertStage

QUEUE = "dsa110-pipeline-reprocessing"
GROUPS = [f"2026-03-{day:02d}T00:00:00" for day in range(1, 6)]

Contimg = Callable[..., Any]


@pytest.fixture
def registry_path(tmp_path: Path) -> Path:
    """A registry of five groups of two files, without products, and a window."""
    path = tmp_path / "products" / "state" / "registry.sqlite3"
    path.parent.mkdir(parents=True)
    (tmp_path / "catalog.csv").write_text("name,ra_deg,dec_deg,flux_jy,spectral_index,calibrator\n")
    with (tmp_path / "catalog.csv").open("a") as catalog:
        catalog.write("3C286,202.7845,30.5092,15.0,0.0,1\n")
    files = [tmp_path / f"{group}_sb{band:02d}.hdf5" for group in GROUPS for band in range(2)]
    for file in files:
        file.touch()
    registry = Registry(path)
    registry.register_files(files)
    members = tuple(WindowMember(group, 61100.0) for group in GROUPS[:2])
    state = WindowState.CLOSED
    window = Window("w1", state, 61100.0, 61101.0, 16.0, members, {})
    store_windows(registry.database, [window])
    return path


@pytest.fixture
def contimg(tmp_path: Path, database_url: str, registry_path: Path) -> Contimg:
    """Run a command; its output, or with `refused` its error."""
    folders = ("--input-dir", str(tmp_path), "--output-dir", str(tmp_path / "products"))

    def run(*arguments: str, refused: bool = False) -> str:
        clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
        options = [*folders, "--database-url", database_url, *arguments]
        done = CliRunner().invoke(app, options, env={**clean, "COLUMNS": "80"})
        assert (done.exit_code != 0) == refused, (done.output, done.exception)
        if refused:
            return str(done.exception)
        if "--json" not in arguments and "db" not in arguments:
            assert max(map(len, done.stdout.splitlines()), default=0) <= 80
        return done.stdout

    run("db", "init")
    return run


def feed_once(registry_path: Path, url: str, claim: int = 0) -> None:
    """What the daemon does at a poll; then a worker begins some tasks."""

    async def call() -> None:
        async with PostgresBackend(url) as backend:
            await feed(Batches(Database(registry_path)), backend)
            if claim:
                await backend.claim_task(QUEUE, "worker", 60, claim)

    asyncio.run(call())


def test_plan_shows_what_runs_and_what_depends_on_it_and_spawns_nothing(
    contimg: Contimg, database_url: str
) -> None:
    text = " ".join(contimg("reprocess", "plan", "--until", "2026-03-03").split())
    assert "2 groups: 2 catalog_setup, 2 convert" in text
    assert "1 window, 0 mosaics, 0 publications window w1" in text
    assert "The daemon has 2 new images measured (photometry)." in text
    assert "is not known: no task has run catalog_setup" in text
    made = json.loads(contimg("reprocess", "plan", "--since", "2026-03-03T00:00", "--json"))
    assert [each["group"] for each in made["groups"]] == GROUPS[2:]
    assert made["stage_runs"]["image"] == 3
    assert made["dependents"]["windows"] == []
    assert json.loads(contimg("batch", "status", "--json")) == []
    assert QUEUE not in contimg("queue", "list")
    assert "is no time" in contimg("reprocess", "plan", "--since", "soon", refused=True)
    assert "verdict is 'fine'" in contimg("reprocess", "plan", "--verdict", "fine", refused=True)


def test_of_two_starts_at_one_moment_one_makes_a_batch(
    contimg: Contimg, registry_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both had planned before either had made its batch."""
    plan, first = batches._plan, list[str]()

    def plan_then_wait(*arguments: Any) -> Any:
        made = plan(*arguments)
        if not first:
            first.append("")
            first[0] = json.loads(contimg("reprocess", "start", "--json"))["batch"]["batch_id"]
        return made

    monkeypatch.setattr(batches, "_plan", plan_then_wait)
    shown = contimg("reprocess", "start", refused=True)
    assert f"Batch {first[0]} has been made meanwhile" in shown
    assert GROUPS[-1] in shown
    assert [each.batch_id for each in Batches(Database(registry_path)).batches()] == first


def test_a_batch_of_named_groups_is_made_once_until_it_has_ended(contimg: Contimg) -> None:
    """A second command made a second one, which did all again."""
    create = ("batch", "create", "pipeline", *GROUPS[:2])
    first = json.loads(contimg(*create, "--json"))["batch"]["batch_id"]
    assert f"Batch {first} is active" in contimg(*create, refused=True)
    contimg(*create, "--ahead", "3")
    contimg("batch", "create", "pipeline", *GROUPS[:3])
    contimg("batch", "pause", first, "--reason", "new gates")
    assert f"Batch {first} is paused" in contimg(*create, refused=True)
    contimg("batch", "cancel", first)
    contimg(*create)


def test_batch_is_started_paused_resumed_and_cancelled_with_its_running_task(
    contimg: Contimg, registry_path: Path, database_url: str
) -> None:
    made = json.loads(contimg("reprocess", "start", "--ahead", "2", "--json"))
    batch = made["batch"]["batch_id"]
    assert made["items"]["waiting"] == 5
    again = contimg("reprocess", "start", refused=True)
    assert "Of 5 groups none needs to be processed again" in again
    assert f"batch {batch} has not done it" in " ".join(contimg("reprocess", "plan").split())
    feed_once(registry_path, database_url, claim=1)
    shown = json.loads(contimg("batch", "status", batch, "--json"))
    assert shown["summary"]["items"]["spawned"] == 2
    assert [item["name"] for item in shown["items"]] == GROUPS[::-1]

    async def cancel_one() -> None:
        """No daemon has noted it yet."""
        async with PostgresBackend(database_url) as backend:
            task = next(iter(await backend.list_tasks(QUEUE, states=["running"])))
            await backend.cancel_task(QUEUE, task.task_id)

    asyncio.run(cancel_one())
    assert "3 waiting, 1 spawned, 1 cancelled" in contimg("batch", "status")
    shown = json.loads(contimg("batch", "status", batch, "--json"))
    assert [item["state"] for item in shown["items"]].count("cancelled") == 1

    assert "needs a reason" in contimg("batch", "pause", batch, refused=True)
    assert "paused (disk)" in contimg("batch", "pause", batch, "--reason", "disk")
    assert "is paused: disk" in contimg("batch", "pause", batch, "--reason", "x", refused=True)
    feed_once(registry_path, database_url)
    assert "1 spawned, 1 cancelled" in contimg("batch", "status")
    assert "active" in contimg("batch", "resume", batch)
    cancelled = contimg("batch", "cancel", batch, "--reason", "wrong settings")
    assert "cancelled (wrong settings)" in cancelled
    assert "5 cancelled" in cancelled
    assert "5 cancelled" in contimg("batch", "cancel", batch)  # again: a death in between
    assert "There is no batch 'other'" in contimg("batch", "cancel", "other", refused=True)
    queues = json.loads(contimg("queue", "list", "--json"))
    counts = {each["queue"]["queue_name"]: each["queue"]["tasks_by_state"] for each in queues}
    assert counts[QUEUE] == {"cancelled": 2}


def complete_one(url: str, result: Json) -> None:
    """What a worker does with the next task of the queue."""

    async def call() -> None:
        async with PostgresBackend(url) as backend:
            (claimed,) = await backend.claim_task(QUEUE, "worker", 60, 1)
            await backend.complete_run(QUEUE, claimed.run_id, result)

    asyncio.run(call())


def test_a_batch_whose_tasks_have_ended_is_completed_before_the_daemon_notes_it(
    contimg: Contimg, registry_path: Path, database_url: str
) -> None:
    """It was called active, and its groups not done yet, until the next poll of a daemon."""
    contimg("reprocess", "start", "--until", "2026-03-03")
    feed_once(registry_path, database_url)
    complete_one(database_url, {})
    text = " ".join(contimg("reprocess", "plan").split())
    assert "1 group left out: batch" in text
    complete_one(database_url, {})
    assert ": completed" in contimg("batch", "status")
    assert "left out" not in contimg("reprocess", "plan")
    contimg("reprocess", "start", "--until", "2026-03-03")


def test_a_retried_task_of_a_completed_batch_is_not_done_yet(
    contimg: Contimg, registry_path: Path, database_url: str
) -> None:
    contimg("reprocess", "start", "--until", "2026-03-02")
    feed_once(registry_path, database_url)

    async def fail_and_retry(retry: bool) -> None:
        async with PostgresBackend(database_url) as backend:
            if retry:
                (task,) = await backend.list_tasks(QUEUE)
                await backend.retry_task(QUEUE, task.task_id, {})
                return
            (claimed,) = await backend.claim_task(QUEUE, "worker", 60, 1)
            await backend.fail_run_permanently(QUEUE, claimed.run_id, {"message": "x"})

    asyncio.run(fail_and_retry(retry=False))
    feed_once(registry_path, database_url)
    assert ": completed" in contimg("batch", "status")
    asyncio.run(fail_and_retry(retry=True))
    assert ": active" in contimg("batch", "status")
    assert "1 group left out: batch" in " ".join(contimg("reprocess", "plan").split())


def test_status_tells_of_the_tasks_of_batches(
    contimg: Contimg, registry_path: Path, database_url: str
) -> None:
    assert "reprocessing" not in contimg("status")
    contimg("batch", "create", "pipeline", *GROUPS[:2])
    feed_once(registry_path, database_url, claim=1)
    text = " ".join(contimg("status").split())
    assert f"{QUEUE}: 1 pending, 1 running (contimg batch status" in text


def test_settings_of_a_batch_are_said_to_be_those_of_its_workers(contimg: Contimg) -> None:
    """A batch does not hold them: with a worker without them it made nothing, without a word."""
    shown = " ".join(contimg("--set", "imaging.robust=-0.5", "reprocess", "start").split())
    assert f" --set imaging.robust=-0.5 worker --queue {QUEUE}" in shown


def test_the_whole_way_of_a_batch_is_printed(contimg: Contimg) -> None:
    """The daemon, once or for good, then workers, as commands for this site."""
    text = " ".join(contimg("reprocess", "start").split())
    daemon, once, worker = (text.find(each) for each in (" daemon ", " daemon --once", " worker "))
    assert 0 < daemon < once < worker
    assert text.count("--output-dir") == 3


def test_tasks_that_ran_with_other_settings_than_planned_are_named(
    contimg: Contimg, registry_path: Path, database_url: str
) -> None:
    """They adopt the old products: the batch was completed, and nothing had been done."""
    made = contimg("--set", "imaging.robust=-0.5", "reprocess", "start", "--json")
    batch = json.loads(made)["batch"]
    feed_once(registry_path, database_url)
    complete_one(database_url, {"config_ref": {"digest": batch["parameters"]["about"]["settings"]}})
    assert "other settings" not in contimg("batch", "status")
    complete_one(database_url, {"config_ref": {"digest": "0" * 12}})
    text = " ".join(contimg("batch", "status").split())
    assert "1 task ran with other settings than the batch was planned with" in text
    assert f" --set imaging.robust=-0.5 worker --queue {QUEUE}" in text
    feed_once(registry_path, database_url)
    assert "1 task ran with other settings" in " ".join(contimg("batch", "status").split())


def test_batch_of_named_groups_and_windows(contimg: Contimg, registry_path: Path) -> None:
    groups = json.loads(contimg("batch", "create", "pipeline", *GROUPS[:2], "--json"))
    assert groups["batch"]["parameters"]["task"] == "pipeline"
    windows = json.loads(contimg("batch", "create", "mosaic", "w1", "--json"))
    (item,) = Batches(Database(registry_path)).items(windows["batch"]["batch_id"])
    assert item.params["members"] == GROUPS[:2]
    refused = contimg("batch", "create", "mosaic", "w1", "w2", "w3", refused=True)
    assert "There is no window with members called 'w2' or 'w3' in the registry." in refused
    assert "2 waiting" in contimg("batch", "status")


def test_schedules_are_added_listed_and_removed(contimg: Contimg) -> None:
    contimg("schedule", "add", "nightly", "mosaic", "--at", "16:00")
    contimg("schedule", "add", "after cal", "reprocess", "--transit", "3C286", "--with",
            '{"hours": 24, "selection": {"verdict": "degraded"}}', "--catch-up", "all")  # fmt: skip
    contimg("schedule", "add", "check", "task", "--lst", "05:30", "--with", '{"task": "check"}')
    listed = {each["name"]: each for each in json.loads(contimg("schedule", "list", "--json"))}
    assert listed["after cal"]["spec"].endswith(" 3C286")
    assert listed["after cal"]["spec"].startswith("13:32:")
    assert listed["nightly"]["next_slot"].endswith("16:00")
    assert listed["after cal"]["action"]["selection"] == {"verdict": "degraded"}
    assert "nightly" in contimg("schedule", "list")
    assert "There is a schedule" in contimg(
        "schedule", "add", "nightly", "mosaic", "--at", "17:00", refused=True
    )
    assert "exactly one" in contimg("schedule", "add", "x", "mosaic", refused=True)
    assert "no source 'Sun'" in contimg(
        "schedule", "add", "x", "mosaic", "--transit", "Sun", refused=True
    )
    assert "task: Field required" in contimg(
        "schedule", "add", "x", "task", "--at", "17:00", refused=True
    )
    for minutes in ("nan", "inf", "-1e9"):
        assert "not within a day" in contimg(
            *("schedule", "add", "x", "mosaic", "--transit", "3C286", "--after-minutes", minutes),
            refused=True,
        )
    for time in (["--at", "16:00"], ["--lst", "05:30"]):
        assert "--after-minutes is for --transit only" in contimg(
            *("schedule", "add", "x", "mosaic", *time, "--after-minutes", "5"), refused=True
        )
    for text in ("[" * 100_000, '{"task": "x", "params": {"a": 1e400}}'):
        assert "JSON" in contimg(
            "schedule", "add", "x", "task", "--at", "17:00", "--with", text, refused=True
        )
    contimg("schedule", "remove", "nightly")
    assert "no schedule 'nightly'" in contimg("schedule", "remove", "nightly", refused=True)


def test_nothing_is_made_without_a_registry(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["--output-dir", str(tmp_path / "none"), "reprocess", "plan"], env={"COLUMNS": "80"}
    )
    assert done.exit_code == 1
    assert not (tmp_path / "none").exists()


def test_a_group_is_chosen_by_its_beginning_as_its_name_says(
    contimg: Contimg, registry_path: Path
) -> None:
    """By its middle, --until in the middle of a group left out one that had begun before."""
    with Database(registry_path).writing() as session:
        session.get_one(ObservationGroup, GROUPS[2]).mid_mjd = 61102.0018  # 00:02:35
    for option, groups in (("--until", GROUPS[:3]), ("--since", GROUPS[3:])):
        made = json.loads(contimg("reprocess", "plan", option, "2026-03-03T00:01:00", "--json"))
        assert [each["group"] for each in made["groups"]] == groups


def test_damaged_products_are_named_that_lie_where_new_ones_go(
    contimg: Contimg, registry_path: Path, tmp_path: Path
) -> None:
    """The task failed on the product that plan and spawn had not spoken of."""
    folder = registry_path.parent.parent / "images" / "a-0123456789"
    folder.mkdir(parents=True)
    add_product(registry_path, str(folder))
    text = "".join(contimg("reprocess", "plan", "--until", "2026-03-02").split())
    damage = f"Damaged,andintheway:{folder}"
    assert damage in text
    assert "Movetheirfoldersawayfirst" in text
    made = json.loads(contimg("reprocess", "plan", "--until", "2026-03-02", "--json"))
    assert str(folder) in made["groups"][0]["damaged"][0]
    for file in tmp_path.glob("*.hdf5"):
        os.utime(file, (1e9, 1e9))  # not arriving any more
    assert damage not in "".join(contimg("spawn", "--now").split())
    (task,) = [
        each["task_id"]
        for each in json.loads(contimg("status", "--json"))["tasks"]
        if each["group"] == GROUPS[0]
    ]
    contimg("cancel", task)
    assert damage in "".join(contimg("spawn", "--now", "--respawn").split())


def add_product(
    registry_path: Path,
    folder: str,
    stage: str = "calibrate_apply",
    manifest: Manifest | None = None,
) -> None:
    """A product of the first group; without a manifest it is not whole."""
    version = 1 if manifest is None else manifest.stage_version
    product = Product(key="k", stage=stage, stage_version=version, group_id=GROUPS[0])
    product.folder, product.outputs, product.created_at = folder, {}, "2026-03-01"
    product.attempt, product.host, product.size_bytes = "1", "host", 1
    with Database(registry_path).writing() as session:
        session.add(product)


def test_product_that_is_gone_hinders_no_plan(contimg: Contimg, registry_path: Path) -> None:
    """Its manifest cannot be read, so nothing is known of it, and its stage runs."""
    add_product(registry_path, "/gone")
    made = json.loads(contimg("reprocess", "plan", "--until", "2026-03-02", "--json"))
    assert "calibrate_apply" in made["groups"][0]["runs"]


def test_the_plan_names_the_setting_that_differs_from_the_product_that_is_there(
    contimg: Contimg, registry_path: Path, tmp_path: Path
) -> None:
    """It said that a stage runs again, and not why."""
    parameters = ConversionConfig().model_dump(mode="json")
    files = sorted(tmp_path.glob(f"{GROUPS[0]}*.hdf5"))
    manifest = Manifest(
        *("convert", ConvertStage.version, "k", "ms/a", str(tmp_path / "products"), GROUPS[0]),
        parameters | {"expected_subbands": 7},
        tuple(InputEntry(str(file), "raw", "0") for file in files),
        *({}, (), {}, "2026-03-01T00:00:00", "1", "host"),
    )
    folder = tmp_path / "products" / "ms" / "a"
    folder.mkdir(parents=True)
    write_manifest(folder, manifest)
    add_product(registry_path, str(folder), "convert", manifest)
    made = json.loads(contimg("reprocess", "plan", "--until", "2026-03-02", "--json"))
    now = parameters["expected_subbands"]
    change = {"setting": "conversion.expected_subbands", "old": 7, "new": now}
    assert made["groups"][0]["changed_settings"] == {"convert": [change]}
    text = " ".join(contimg("reprocess", "plan", "--until", "2026-03-02").split())
    assert f"convert, 1 group: conversion.expected_subbands was 7 and is {now}" in text


def test_the_plan_names_a_catalogue_that_has_changed(
    contimg: Contimg, registry_path: Path, tmp_path: Path
) -> None:
    """A corrected calibrator left every group up to date, and no batch could be started."""
    raw, catalog = tmp_path / f"{GROUPS[0]}_sb00.hdf5", tmp_path / "catalog.csv"
    outputs = {"catalog": {"path": str(tmp_path), "declination_deg": 16.0, "n_sources": 1}}
    manifest = Manifest(
        *("catalog_setup", CatalogSetupStage.version, "k"),
        *("catalogs/a", str(tmp_path / "products"), GROUPS[0]),
        CatalogConfig().model_dump(mode="json"),
        (
            InputEntry(str(raw), "file", "0"),
            InputEntry("/elsewhere/catalog.csv", "file", LOCAL.digest(catalog)),
        ),
        *(outputs, (), {}, "2026-03-01T00:00:00", "1", "host"),
    )
    folder = tmp_path / "products" / "catalogs" / "a"
    folder.mkdir(parents=True)
    write_manifest(folder, manifest)
    add_product(registry_path, str(folder), "catalog_setup", manifest)

    def plan() -> dict[str, Any]:
        (group,) = json.loads(contimg("reprocess", "plan", "--until", "2026-03-02", "--json"))[
            "groups"
        ]
        return dict(group)

    assert "catalog_setup" in plan()["adopted"]
    catalog.write_text(catalog.read_text().replace("15.0", "14.5"))
    assert "catalog_setup" in plan()["runs"]
    assert plan()["changed_files"] == {"catalog_setup": [str(catalog)]}
    text = " ".join(contimg("reprocess", "plan", "--until", "2026-03-02").split())
    assert "catalog_setup, 1 group: catalogue changed:" in text


def test_a_set_of_caltables_that_never_was_is_refused(contimg: Contimg) -> None:
    """A plan of no group would be good news about a misspelt name."""
    refused = contimg("reprocess", "plan", "--caltables", "x", refused=True)
    assert "There is no set of caltables 'x' in the registry." in refused
