"""Retention: what is old goes unless it is needed, and a kill anywhere leaves all in accord."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from every_product import GROUPS, N_PRODUCTS, WINDOW, commit, commit_all, measurement_set
from forked_crashes import fork
from small_disk import mounted
from typer.testing import CliRunner, Result

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.config.retention import REMOVED, RetentionConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.ingest.selection import read_groups
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.maintenance import site as maintenance_site
from absurd_contimg.operations.maintenance.files import old_raw_files, remove_raw_files
from absurd_contimg.operations.maintenance.needs import Needs, needs_of
from absurd_contimg.operations.maintenance.retention import (
    RetentionPlan,
    RetentionReport,
    plan_retention,
    run_retention,
)
from absurd_contimg.operations.maintenance.site import require_recent_work
from absurd_contimg.owned_folders import Mark, take_folder
from absurd_contimg.products.removal import take_out, unfinished_removals
from absurd_contimg.products.store import product_folders
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.models import Product
from absurd_contimg.registry.mosaics import imaged_groups
from absurd_contimg.registry.publications import PublicationState
from absurd_contimg.registry.removed_products import removed_products
from absurd_contimg.registry.service_records import ServiceKind, ServiceRecord, store_service
from absurd_contimg.registry.windows import Window, WindowMember, WindowState, store_windows

MADE = datetime(2026, 1, 26, tzinfo=UTC)
NOTHING = Needs()
CONFIG = RetentionConfig()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Registry, Path]]:
    """A registry that knows every sort of product, and their folder."""
    output_dir = tmp_path / "products"
    registry = Registry(tmp_path / "registry.sqlite3", output_dir=output_dir)
    for folder, manifest in commit_all(output_dir):
        registry.register(folder, manifest)
    yield registry, output_dir
    registry.close()


def after(days: float) -> datetime:
    return MADE + timedelta(days=days)


def removed_stages(plan: RetentionPlan) -> list[str]:
    return sorted({f"{each.stage} {GROUPS.index(each.group_id)}" for each in plan.removed})


def run(
    site: tuple[Registry, Path], days: float, needs: Callable[[], Needs] = Needs
) -> RetentionReport:
    registry, output_dir = site
    plan = plan_retention(registry, CONFIG, needs(), after(days))
    return run_retention(registry, output_dir, plan, needs, after(days))


def assert_in_accord(site: tuple[Registry, Path]) -> None:
    """Registry, manifests and disk say the same, and nothing is called missing."""
    registry, output_dir = site
    report = registry.check(output_dir)
    assert (report.broken, report.unknown) == ((), ())
    known = {row["key"] for row in registry.rows(Product)}
    gone = {each.product_key for each in removed_products(registry.database)}
    assert len(known) + len(gone) == N_PRODUCTS
    assert not known & gone
    assert len(list(product_folders(output_dir))) == len(known)
    assert not unfinished_removals(output_dir)


def test_each_type_goes_after_its_own_time(site: tuple[Registry, Path]) -> None:
    """Group 0 has solutions. Solutions, mosaics, fluxes and catalogues stay for ever."""
    registry, _ = site
    ms = ("calibrate_apply", "convert", "flag")
    science, calibrator = [f"{stage} 1" for stage in ms], [f"{stage} 0" for stage in ms]
    images = [f"{stage} {group}" for stage in ("image", "validate") for group in (0, 1)]
    for days, expected in (
        (29, []),
        (31, science),
        (91, [*science, *calibrator]),
        (181, [*science, *calibrator, *images]),
        (9999, [*science, *calibrator, *images]),
    ):
        plan = plan_retention(registry, CONFIG, NOTHING, after(days))
        assert removed_stages(plan) == sorted(expected)
        assert len(plan.old) + plan.younger == N_PRODUCTS
        assert plan.removed_bytes == sum(each.size_bytes for each in plan.removed)


def test_the_remains_of_a_failed_group_go_first(site: tuple[Registry, Path]) -> None:
    registry, _ = site
    registry.set_group_status(GROUPS[1], GroupStatus.QUARANTINED, "flagged")
    plan = plan_retention(registry, CONFIG, NOTHING, after(8))
    assert {each.group_id for each in plan.removed} == {GROUPS[1]}
    stages = {each.stage for each in plan.removed}
    assert stages == {"catalog_setup", "convert", "flag", "calibrate_apply", "image", "validate"}


def test_an_emptied_folder_of_products_gets_no_folder(site: tuple[Registry, Path]) -> None:
    """It may be the mount point of a disk that is away."""
    shutil.rmtree(site[1])
    site[1].mkdir()
    report = run(site, 200)
    assert report.removed == ()
    assert {product.kept for product in report.kept} == {
        "it is a link, behind one, or not there: contimg registry check"
    }
    assert list(site[1].iterdir()) == []


def test_other_times_can_be_set(site: tuple[Registry, Path]) -> None:
    config = RetentionConfig(science_ms_days=None, images_days=1, mosaics_days=2)
    plan = plan_retention(site[0], config, NOTHING, after(50))
    assert {each.stage for each in plan.removed} == {"image", "validate", "mosaic"}


def test_what_is_needed_stays_and_the_plan_says_why(site: tuple[Registry, Path]) -> None:
    """Tasks by group, window and path; windows; publications; valid solutions."""
    registry, _ = site
    rows = {(row["stage"], row["group_id"]): row for row in registry.rows(Product)}

    def kept_by(needs: Needs) -> dict[str, str]:
        plan = plan_retention(registry, CONFIG, needs, after(200))
        return {f"{p.stage} {p.group_id}": p.kept or "" for p in plan.kept}

    async def needs_with(params: object) -> Needs:
        backend = MemoryBackend(MemoryDatabase())
        await backend.create_queue("q")
        task = await backend.spawn_task("q", "pipeline", params)  # type: ignore[arg-type]
        return needs_of(await backend.histories("q", [task.task_id]), registry, after(200))

    assert kept_by(needs_of([], registry, after(200))) == {}
    by_group = kept_by(asyncio.run(needs_with({"group_id": GROUPS[0]})))
    assert len(by_group) == 5
    assert all("pipeline) has not ended" in reason for reason in by_group.values())
    image = rows["image", GROUPS[1]]["folder"]
    by_path = kept_by(asyncio.run(needs_with({"ms": [f"{image}/file"]})))
    assert list(by_path) == [f"image {GROUPS[1]}"]

    members = tuple(WindowMember(group, 61065.9) for group in GROUPS)
    window = Window(WINDOW, WindowState.OPEN, 61065.9, 61065.91, 16.0, members, {})
    store_windows(registry.database, [window])
    assert len(kept_by(needs_of([], registry, after(200)))) == 10
    store_windows(registry.database, [replace(window, state=WindowState.SUPERSEDED)])
    assert kept_by(needs_of([], registry, after(200))) == {}

    key, target = rows["image", GROUPS[0]]["key"], Path("/published/x")
    registry.publications.begin(key, "image", Path(image), target)
    reasons = kept_by(needs_of([], registry, after(200)))
    assert reasons == {f"image {GROUPS[0]}": f"its publication is {PublicationState.STAGING}"}
    registry.publications.finish(key, "2026-01-27T00:00:00")
    assert kept_by(needs_of([], registry, after(200))) == {}

    registry.set_group_status(GROUPS[1], GroupStatus.WAITING_FOR_CALIBRATION)
    assert len(kept_by(needs_of([], registry, after(200)))) == 5


def test_valid_solutions_and_their_source_stay(site: tuple[Registry, Path]) -> None:
    """The set is valid 2.4 hours around its calibrator, which is on 2026-01-25."""
    registry, _ = site
    config = RetentionConfig(caltables_days=0.001, calibrator_ms_days=0.001)
    at = datetime(2026, 1, 25, 22, 30, tzinfo=UTC)
    needs = needs_of([], registry, at)
    plan = plan_retention(registry, config, needs, after(1))
    assert f"calibrate_solve {GROUPS.index(GROUPS[0])}" not in removed_stages(plan)
    assert list(needs.folders) == ["/in/flagged.ms"]  # as its manifest says
    later = plan_retention(registry, config, needs_of([], registry, after(1)), after(1))
    assert f"calibrate_solve {GROUPS.index(GROUPS[0])}" in removed_stages(later)


def test_what_was_removed_is_known_as_removed(site: tuple[Registry, Path]) -> None:
    """By check, rebuild, reprocessing and mosaics; made again, it is an ordinary product."""
    registry, output_dir = site
    report = run(site, 200)
    assert len(report.removed) == 10
    assert_in_accord(site)
    assert list((output_dir / REMOVED).glob("[!.]*")) == []
    assert registry.rebuild(output_dir).broken == ()
    assert_in_accord(site)
    facts = {group.group_id: group for group in read_groups(registry)}
    text = "removed by retention on 2026-08-14 (images_days 180)"
    assert facts[GROUPS[0]].removed["image"] == text
    missing = registry.mosaic_members(GROUPS).missing
    assert [each.reason for each in missing] == [f"its image was {text}"] * 2

    ms = measurement_set("flagged_ms", f"{output_dir}/{GROUPS[0]}.flagged.ms", 61065.9)
    folder, manifest = commit(output_dir, "flag", GROUPS[0], ms)
    registry.register(folder, manifest)
    assert_in_accord(site)
    assert manifest.key not in {each.product_key for each in removed_products(registry.database)}


def test_groups_with_images_keep_their_time_when_their_data_are_gone(
    site: tuple[Registry, Path],
) -> None:
    """A deep mosaic of the last months takes them."""
    before = imaged_groups(site[0].database, 61065, 61067)
    assert len(before) == 2
    assert len(run(site, 100).removed) == 6
    assert imaged_groups(site[0].database, 61065, 61067) == before


def test_a_product_with_files_of_somebody_else_stays_and_is_named(
    site: tuple[Registry, Path],
) -> None:
    """Also one that gets them after the plan was made; they stay as they are."""
    registry, output_dir = site
    early, late, *others = plan_retention(registry, CONFIG, NOTHING, after(31)).removed
    note = early.folder / "operator-notes.txt"
    note.write_text("bad antenna")
    plot = late.folder / "plots" / "f.txt"
    (early.folder / "link").symlink_to(output_dir)
    plan = plan_retention(registry, CONFIG, NOTHING, after(31))
    plot.parent.mkdir()
    plot.write_text("a plot")
    assert plan.removed == [late, *others]
    assert [each.folder for each in plan.kept] == [early.folder]
    assert "link" in (plan.kept[0].kept or "")
    (early.folder / "link").unlink()
    plan = replace(plan, old=(early, late, *others))
    report = run_retention(registry, output_dir, plan, Needs, after(31))
    assert [each.folder for each in report.kept] == [early.folder, late.folder]
    for product, name in zip(report.kept, ("operator-notes.txt", "plots/f.txt"), strict=True):
        expected = f"it holds {name}, which its manifest does not list: move that away"
        assert product.kept == expected
    assert list(report.removed) == others
    assert (note.read_text(), plot.read_text()) == ("bad antenna", "a plot")
    for path in (note, plot):
        path.unlink()
    assert len(run(site, 31).removed) == 2
    assert_in_accord(site)


@pytest.mark.parametrize("part", ["folder", "subfolder", "file"])
def test_what_cannot_be_removed_stays_whole_and_all_else_goes(tmp_path: Path, part: str) -> None:
    """One folder with ``chattr +i`` ended the run of every night, and all after it stayed."""
    with mounted(tmp_path / "disk") as disk:
        output_dir = disk / "products"
        registry = Registry(tmp_path / "registry.sqlite3", output_dir=output_dir)
        for folder, manifest in commit_all(output_dir):
            registry.register(folder, manifest)
        site = registry, output_dir
        early, *others = plan_retention(registry, CONFIG, NOTHING, after(31)).removed
        inner = [*sorted(early.folder.rglob("*"))]
        place = {
            "folder": early.folder,
            "subfolder": next((each for each in inner if each.is_dir()), early.folder),
            "file": next(each for each in inner if each.is_file()),
        }[part]
        subprocess.run(["chattr", "+i", place], check=True)
        try:
            for count in (len(others), 0):
                report = run(site, 31)
                assert len(report.removed) == count
                (text,) = report.refused
                assert re.match(rf"{early.folder} stays: .*lsattr -d {place}", text)
                assert [*sorted(early.folder.rglob("*"))] == inner
                assert_in_accord(site)
        finally:
            subprocess.run(["chattr", "-i", place], check=True)
        assert len(run(site, 31).removed) == 1
        assert_in_accord(site)
        registry.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount where it looks")
@pytest.mark.parametrize("place", ["product", "part"])
def test_a_product_with_a_mount_stays_whole_and_all_else_goes(
    site: tuple[Registry, Path], place: str
) -> None:
    """It was taken out and forgotten, and then the run of every night ended in a mistake."""
    early, *others = plan_retention(site[0], CONFIG, NOTHING, after(31)).removed
    point = early.folder / "mounted" if place == "part" else early.folder
    before = sorted(early.folder.rglob("*"))
    plan = plan_retention(site[0], CONFIG, NOTHING, after(31))
    with mounted(point, 1):
        report = run_retention(*site, plan, Needs, after(31))
        assert list(report.removed) == others
        if place == "part":
            (text,) = report.refused
            assert text.startswith(f"{early.folder} stays: ")
            assert f"findmnt {point}" in text
    (early.folder / "mounted").rmdir() if place == "part" else None
    assert sorted(early.folder.rglob("*")) == before
    assert len(run(site, 31).removed) == 1
    assert_in_accord(site)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount where it looks")
def test_what_lies_among_removed_products_and_cannot_go_is_named(
    site: tuple[Registry, Path],
) -> None:
    """A mount in the rest of an interrupted run, and a folder of somebody else's."""
    output_dir = site[1]
    (output_dir / REMOVED / "a" / "disk").mkdir(parents=True)
    (output_dir / REMOVED / "b").mkdir()
    (output_dir / REMOVED / "b" / "thesis").touch()
    take_folder(output_dir / REMOVED / "c", Mark("removed product", "c"))
    count = len(plan_retention(site[0], CONFIG, NOTHING, after(31)).removed)
    with mounted(output_dir / REMOVED / "c" / "disk", 1):
        report = run(site, 31)
        assert len(report.removed) == count
        assert [text.partition(" ")[0] for text in report.refused] == [
            str(output_dir / REMOVED / name) for name in "abc"
        ]
    assert len(run(site, 31).refused) == 2
    assert not (output_dir / REMOVED / "c").exists()


@contextmanager
def overlay(lower: Path, disk: Path, place: Path) -> Iterator[None]:
    """Mount an overlay: what is in its lower layer can be removed and not be moved."""
    for folder in (disk / "upper", disk / "work", place):
        folder.mkdir()
    layers = f"lowerdir={lower},upperdir={disk / 'upper'},workdir={disk / 'work'}"
    options = f"{layers},redirect_dir=off"
    mount = ["mount", "-t", "overlay", "-o", options, "overlay", str(place)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount an overlay")
def test_products_that_cannot_be_moved_are_skipped_and_all_else_goes(tmp_path: Path) -> None:
    """On an overlay the run stopped at the first of them, and named neither it nor the cause."""
    lower, output_dir = tmp_path / "lower", tmp_path / "products"
    first, *later = commit_all(lower)
    with mounted(tmp_path / "disk") as disk, overlay(lower, disk, output_dir):
        registry = Registry(tmp_path / "registry.sqlite3", output_dir=output_dir)
        for folder, manifest in (first, *later):
            registry.register(output_dir / folder.relative_to(lower), manifest)
        site = registry, output_dir
        early, *others = plan_retention(registry, CONFIG, NOTHING, after(31)).removed
        for old in others:  # a copy is of the upper layer
            shutil.copytree(old.folder, disk / "copy")
            shutil.rmtree(old.folder)
            shutil.copytree(disk / "copy", old.folder)
            shutil.rmtree(disk / "copy")
        for count in (len(others), 0):
            report = run(site, 31)
            assert len(report.removed) == count
            (text,) = report.refused
            assert text.startswith(f"{early.folder} stays: Invalid cross-device link. Its file")
            assert_in_accord(site)
            assert [each.name for each in (output_dir / REMOVED).iterdir()] == [".lock"]
        registry.close()


def test_what_is_needed_by_the_time_of_its_removal_is_put_back(
    site: tuple[Registry, Path],
) -> None:
    """A task was spawned after the plan was made."""
    answers = iter([NOTHING, Needs(groups={GROUPS[0]: "a new task"})])
    report = run(site, 100, lambda: next(answers))
    assert {each.group_id for each in report.removed} == {GROUPS[1]}
    assert_in_accord(site)


def test_a_kill_before_any_effect_is_made_good_by_the_next_run(tmp_path: Path) -> None:
    """Real SIGKILL before every file, folder, rename, removal and transaction."""
    template = tmp_path / "t"
    registry = Registry(template / "registry.sqlite3", output_dir=template / "products")
    for folder, manifest in commit_all(template / "products"):
        registry.register(folder, manifest)
    registry.close()

    def act(root: Path) -> None:
        here = Registry(root / "registry.sqlite3", output_dir=root / "products")
        plan = plan_retention(here, CONFIG, NOTHING, after(31))
        first = RetentionPlan(plan.old[:1])
        run_retention(here, root / "products", first, Needs, after(31))
        here.close()

    effects = 0
    for kill_at in itertools.count():
        root = tmp_path / f"k{kill_at}"
        shutil.copytree(template, root)
        status, seen = fork(root, lambda root=root: act(root), kill_at)  # type: ignore[misc]
        effects = max(effects, len(seen))
        with_registry = Registry(root / "registry.sqlite3", output_dir=root / "products")
        here = (with_registry, root / "products")
        run(here, 31)
        assert_in_accord(here)
        assert len(removed_products(with_registry.database)) == 3
        with_registry.close()
        shutil.rmtree(root)
        if status == 0:
            break
    assert effects > 9


def test_a_product_that_is_made_again_while_it_is_removed_stays(
    site: tuple[Registry, Path],
) -> None:
    """The other process had not found it and has put it into its place."""
    registry, output_dir = site
    row = next(row for row in registry.rows(Product) if row["stage"] == "flag")
    folder = Path(row["folder"])
    shutil.copytree(folder, output_dir / "again")
    take_out(output_dir, folder, row["key"], size_bytes=1, removed_at="2026", reason="r")
    (output_dir / "again").rename(folder)
    report = run(site, 1)
    assert report.finished == 1
    assert folder.is_dir()
    assert_in_accord(site)
    assert len(registry.rows(Product)) == N_PRODUCTS


def test_two_runs_at_once_do_no_harm(site: tuple[Registry, Path]) -> None:
    """The second one begins while the first one is in the middle."""
    inner: list[RetentionReport] = []

    def needs() -> Needs:
        if not inner:
            inner.append(RetentionReport((), (), 0))
            inner.append(run(site, 200))
        return NOTHING

    plan = plan_retention(site[0], CONFIG, NOTHING, after(200))
    report = run_retention(site[0], site[1], plan, needs, after(200))
    assert len(report.removed) == 10
    assert inner[1].removed == ()
    assert_in_accord(site)


def test_raw_files_go_only_with_their_group_and_say_so(
    site: tuple[Registry, Path], tmp_path: Path
) -> None:
    registry, _ = site
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    paths = [incoming / f"{group}_sb0{band}.hdf5" for group in GROUPS for band in (0, 1)]
    for path in paths:
        path.write_text("raw")
    registry.register_files(paths)
    registry.set_group_status(GROUPS[0], GroupStatus.DONE)
    old = old_raw_files(registry, incoming, 30, NOTHING, after(31))
    kept = {file.path: file.kept for file in old}
    assert [kept[path] for path in paths[:2]] == [None, None]
    assert all("has not ended" in str(kept[path]) for path in paths[2:])
    assert old_raw_files(registry, incoming, 30, NOTHING, after(29)) == []
    assert remove_raw_files(registry, old, after(31), []) == 2
    assert [path.exists() for path in paths] == [False, False, True, True]
    facts = {group.group_id: group for group in read_groups(registry)}
    assert facts[GROUPS[0]].removed["raw files"] == "removed by retention on 2026-02-26"
    paths[0].write_text("raw")  # as after a kill between the note and the removal
    again = old_raw_files(registry, incoming, 30, NOTHING, after(31))
    assert [file.path for file in again if file.kept is None] == [paths[0]]


def test_nothing_is_removed_by_a_clock_that_is_years_ahead(site: tuple[Registry, Path]) -> None:
    """All is old then, what was made a minute ago too; a service that was heard of is no jump."""
    registry, _ = site
    require_recent_work(registry, after(29))
    with pytest.raises(SettingError, match=r"2029-05-10.* of 2026-01-26.*--after-idle"):
        require_recent_work(registry, after(1200))
    seen_at = after(1199).timestamp()
    worker = ServiceRecord(ServiceKind.WORKER, "w", "alpha", 7, "0.1", "q", seen_at, seen_at)
    store_service(registry.database, worker)
    require_recent_work(registry, after(1200))


def program(
    site: tuple[Registry, Path], tmp_path: Path, database_url: str
) -> Callable[..., Result]:
    """Runs a command on the site, whose queue is there."""
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    options = [f"--output-dir={site[1]}", f"--state-dir={tmp_path}", f"--input-dir={tmp_path}"]
    options.append(f"--database-url={database_url}")

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, [*options, *words], env={**clean, "COLUMNS": "120"})

    assert run("db", "init").exit_code == 0
    return run


def test_an_idle_site_is_maintained_when_asked(
    site: tuple[Registry, Path], tmp_path: Path, database_url: str
) -> None:
    run = program(site, tmp_path, database_url)
    refused = run("maintenance", "run")
    assert isinstance(refused.exception, SettingError)
    assert len(list(product_folders(site[1]))) == N_PRODUCTS
    assert run("maintenance", "run", "--after-idle").exit_code == 0
    assert len(list(product_folders(site[1]))) < N_PRODUCTS


def test_what_maintenance_has_skipped_is_shown_until_it_succeeds(
    site: tuple[Registry, Path],
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exit code of a timer's service told of it, and nothing that an operator looks at."""
    run = program(site, tmp_path, database_url)
    folder = sorted(product_folders(site[1]))[0]

    def shown() -> list[bool]:
        return [
            "skipped 1:" in " ".join(text.split()) and "permitted" in text
            for text in (run("status").output, run("monitor", "--once").output)
        ]

    def run_refused(*_: object) -> RetentionReport:
        return RetentionReport((), (), 0, (f"{folder} stays: not permitted.",))

    with monkeypatch.context() as patched:
        patched.setattr(maintenance_site, "run_retention", run_refused)
        assert run("maintenance", "run", "--after-idle").exit_code == 1
    assert shown() == [True, True]
    metrics = run("metrics").output
    assert re.search(r"contimg_maintenance_failed(\{.*\})? 1\.0", metrics), metrics
    assert isinstance(run("maintenance", "run").exception, SettingError)
    assert "By the clock" in json.loads(run("status", "--json").output)["maintenance"]
    assert run("maintenance", "run", "--after-idle").exit_code == 0
    assert shown() == [False, False]
