"""Products that are away for a moment, that have moved, and a registry that is gone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from typer.testing import CliRunner

from absurd_contimg.errors import MissingInputError
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.services.worker_service import enter_products
from absurd_contimg.products.store import load_committed
from absurd_contimg.registry import ABSENT, GroupStatus, Registry
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import CaltableRow, Product

from .test_registry import GROUPS, N_PRODUCTS, TABLES, commit, commit_all

MJD, DECLINATION = 61065.9, 16.0


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    """Products of every sort, on disk only."""
    commit_all(tmp_path / "products")
    return tmp_path / "products"


def enter_all(registry: Registry, output_dir: Path) -> None:
    for folder in sorted(path.parent for path in output_dir.glob("*/*/manifest.json")):
        registry.register(folder, load_committed(folder))


def open_registry(tmp_path: Path, output_dir: Path | None) -> Registry:
    return Registry(tmp_path / "registry.sqlite3", output_dir=output_dir)


def test_output_folder_may_move_with_its_registry(tmp_path: Path, output_dir: Path) -> None:
    """The rows hold paths relative to it, so that sets and products are found again."""
    registry = open_registry(tmp_path, output_dir)
    enter_all(registry, output_dir)
    before = [registry.rows(table) for table in TABLES]
    moved = output_dir.rename(tmp_path / "elsewhere")
    registry = open_registry(tmp_path, moved)
    (calibration,) = registry.caltable_sets_valid_at(MJD, DECLINATION)
    assert all(table.path.is_relative_to(moved) for table in calibration.tables)
    assert registry.check(moved).broken == ()
    after = str([registry.rows(table) for table in TABLES])
    assert after == str(before).replace(str(output_dir), str(moved))


def test_absolute_paths_of_earlier_versions_are_read_and_replaced(
    tmp_path: Path, output_dir: Path
) -> None:
    """Entering a product again replaces its rows; none is there twice."""
    enter_all(open_registry(tmp_path, None), output_dir)
    registry = open_registry(tmp_path, output_dir)
    assert registry.check(output_dir).broken == ()
    enter_all(registry, output_dir)
    assert len(registry.rows(CaltableRow)) == 2
    moved = output_dir.rename(tmp_path / "elsewhere")
    assert open_registry(tmp_path, moved).check(moved).unknown == ()


def test_set_retired_by_the_machine_is_reinstated_once_it_is_whole(
    tmp_path: Path, output_dir: Path
) -> None:
    """By every byte, and not if an operator has retired it."""
    registry = open_registry(tmp_path, output_dir)
    enter_all(registry, output_dir)
    (calibration,) = registry.caltable_sets_valid_at(MJD, DECLINATION)
    folder = Path(next(r["folder"] for r in registry.rows(Product) if "solve" in r["stage"]))
    content = (folder / "file").read_text()
    (folder / "file").write_text("?" * len(content))
    registry.retire_set(calibration.product_key, f"{ABSENT}: x")
    assert registry.caltable_sets_valid_at(MJD, DECLINATION) == []
    (folder / "file").write_text(content)
    assert registry.caltable_sets_valid_at(MJD, DECLINATION) == [calibration]
    registry.retire_set(calibration.product_key, "wrong model")
    assert registry.caltable_sets_valid_at(MJD, DECLINATION) == []


def test_rebuild_ends_a_retirement_for_absence(tmp_path: Path, output_dir: Path) -> None:
    registry = open_registry(tmp_path, output_dir)
    enter_all(registry, output_dir)
    (calibration,) = registry.caltable_sets_valid_at(MJD, DECLINATION)
    registry.retire_set(calibration.product_key, f"{ABSENT}: x")
    registry.rebuild(output_dir)
    assert registry.caltable_sets_valid_at(MJD, DECLINATION) == [calibration]


def test_rebuild_refuses_an_output_folder_without_any_product(
    tmp_path: Path, output_dir: Path
) -> None:
    """A mount point without its disk, or the folder of another site."""
    registry = open_registry(tmp_path, output_dir)
    enter_all(registry, output_dir)
    before = [registry.rows(table) for table in TABLES]
    (mount_point := tmp_path / "not mounted").mkdir()
    command = ["--output-dir", str(mount_point), "--state-dir", str(tmp_path)]
    environment = {"PIPELINE_PRODUCTS_DB": str(tmp_path / "registry.sqlite3")}
    refused = CliRunner().invoke(app, [*command, "registry", "rebuild"], env=environment)
    assert isinstance(refused.exception, MissingInputError)
    assert f"the registry knows {N_PRODUCTS}" in str(refused.exception)
    assert [registry.rows(table) for table in TABLES] == before
    emptied = CliRunner().invoke(app, [*command, "registry", "rebuild", "--empty"], env=environment)
    assert "0 products entered" in emptied.output
    assert registry.rows(Product) == []


def test_set_that_was_retired_stays_so_when_its_disk_was_away_at_a_rebuild(
    tmp_path: Path, output_dir: Path
) -> None:
    registry = open_registry(tmp_path, output_dir)
    enter_all(registry, output_dir)
    (calibration,) = registry.caltable_sets_valid_at(MJD, DECLINATION)
    registry.retire_set(calibration.product_key, "wrong model")
    before = [registry.rows(table) for table in TABLES]
    folder = next(table.path for table in calibration.tables).parent
    away = folder.rename(tmp_path / "away")
    assert registry.rebuild(output_dir).entered == N_PRODUCTS - 1
    assert registry.check(output_dir).broken == ()
    away.rename(folder)
    for _ in range(2):
        assert registry.caltable_sets_valid_at(MJD, DECLINATION) == []
        assert [registry.rows(table) for table in TABLES] == before
        assert registry.check(output_dir).unknown == ()
        registry.rebuild(output_dir)


def test_rebuild_keeps_what_is_published_meanwhile(
    tmp_path: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker enters a product between the look at the disk and the transaction."""
    registry = open_registry(tmp_path, output_dir)
    writing = Database.writing

    def published_before(database: Database) -> Any:
        monkeypatch.setattr(Database, "writing", writing)
        registry.register(*commit(output_dir, "image", GROUPS[0], {"image": {}}, "late"))
        return writing(database)

    monkeypatch.setattr(Database, "writing", published_before)
    assert registry.rebuild(output_dir).entered == N_PRODUCTS + 1
    assert registry.check(output_dir).unknown == ()


def test_worker_enters_the_products_into_an_empty_registry(
    tmp_path: Path, output_dir: Path
) -> None:
    """Whatever is broken is left out."""
    (output_dir / "image" / f"image-{GROUPS[0]}-x" / "manifest.json").write_text("{}")
    registry = open_registry(tmp_path, output_dir)
    assert registry.is_empty()
    enter_products(registry, output_dir)
    assert len(registry.rows(Product)) == N_PRODUCTS - 1
    assert not registry.is_empty()


def test_worker_enters_all_products_or_none(
    tmp_path: Path,
    output_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A worker that ends while it enters them leaves the registry empty for the next one."""
    registry = open_registry(tmp_path, output_dir)
    with monkeypatch.context() as patched:
        progress = mock.Mock(side_effect=[None, OSError("the worker ends")])
        patched.setattr("absurd_contimg.registry.product_entry.progress_of", progress)
        with pytest.raises(OSError, match="the worker ends"):
            enter_products(registry, output_dir)
    assert registry.is_empty()
    broken = output_dir / "image" / f"image-{GROUPS[0]}-x" / "manifest.json"
    content = json.loads(broken.read_text())
    broken.write_text(json.dumps({**content, "outputs": {"flagged_ms": {"path": "/etc/passwd"}}}))
    enter_products(registry, output_dir)
    assert len(registry.rows(Product)) == N_PRODUCTS - 1
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert str(broken.parent) in record.getMessage()


def contimg(tmp_path: Path, output_dir: Path, *arguments: str) -> Any:
    clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
    options = ["--output-dir", str(output_dir), "--state-dir", str(tmp_path / "state")]
    return CliRunner().invoke(app, [*options, "registry", *arguments], env=clean)


def test_commands_compare_and_rebuild(tmp_path: Path, output_dir: Path) -> None:
    """A registry that was deleted is made again from the manifests."""
    lost = contimg(tmp_path, output_dir, "check")
    assert lost.exit_code == 1
    assert (
        f"0 products in the registry, 0 missing or damaged, {N_PRODUCTS} not registered"
        in lost.output
    )
    assert f"{N_PRODUCTS} products entered" in contimg(tmp_path, output_dir, "rebuild").output
    assert contimg(tmp_path, output_dir, "check").exit_code == 0
    (output_dir / "image" / f"image-{GROUPS[0]}-x" / "file").unlink()
    damaged = contimg(tmp_path, output_dir, "check", "--json")
    assert damaged.exit_code == 1
    assert "file is missing" in damaged.output
    (tmp_path / "state" / "registry.sqlite3").unlink()
    assert (
        f"{N_PRODUCTS - 1} products entered, 1 broken"
        in contimg(tmp_path, output_dir, "rebuild").output
    )


def test_check_lets_groups_go_on_whose_calibration_is_back(
    tmp_path: Path, output_dir: Path, database_url: str
) -> None:
    """They do not wait a day beside valid tables."""
    registry = Registry(tmp_path / "state" / "registry.sqlite3", output_dir=output_dir)
    enter_all(registry, output_dir)
    (calibration,) = registry.caltable_sets_valid_at(MJD, DECLINATION)
    registry.retire_set(calibration.product_key, f"{ABSENT}: x")
    registry.set_group_status(GROUPS[1], GroupStatus.WAITING_FOR_CALIBRATION)
    environment = {"ABSURD_DATABASE_URL": database_url}
    options = ["--output-dir", str(output_dir), "--state-dir", str(tmp_path / "state")]
    assert CliRunner().invoke(app, [*options, "db", "init"], env=environment).exit_code == 0
    checked = CliRunner().invoke(app, [*options, "registry", "check"], env=environment)
    assert checked.exit_code == 0, checked.output
    assert f"{calibration.set_name} is in use again" in checked.output
    assert f"{GROUPS[1]} has a calibration and goes on" in checked.output
