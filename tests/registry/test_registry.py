"""The registry: idempotent, independent of order, shared by processes, rebuilt from disk."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import pytest
from every_product import (
    GROUPS,
    N_PRODUCTS,
    WINDOW,
    caltables,
    commit,
    commit_all,
    measurement_set,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from search_extent import is_search

from absurd_contimg.errors import BrokenProductError, MissingInputError, SettingError
from absurd_contimg.products.manifest import Manifest
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.derived import DERIVED_TABLES
from absurd_contimg.registry.models import (
    ImageRow,
    MeasurementSetRow,
    ObservationGroup,
    Product,
    SubbandFile,
    ValidationRow,
)
from absurd_contimg.registry.mosaics import MosaicTier, list_mosaics
from absurd_contimg.registry.photometry import list_measurements

TABLES = (ObservationGroup, SubbandFile, *DERIVED_TABLES)


def test_every_product_is_found_again(registry: Registry, tmp_path: Path) -> None:
    """Typed tables hold the outputs of the stages."""
    for folder, manifest in commit_all(tmp_path / "products"):
        registry.register(folder, manifest)
    assert len(registry.rows(Product)) == N_PRODUCTS
    assert [row["kind"] for row in registry.rows(MeasurementSetRow, GROUPS[0])] == [
        *("flagged", "calibrated", "raw"),
    ]
    assert registry.rows(ImageRow, GROUPS[0])[0]["details"]["image"]["noise_jy"] == 0.001
    assert registry.rows(ValidationRow, GROUPS[1])[0]["details"] == {"validation": {"passed": True}}
    assert [group.status for group in registry.groups()] == [GroupStatus.IMAGED] * 2
    (described,) = list_mosaics(registry.database, MosaicTier.QUICKLOOK, WINDOW)
    assert described.details["mosaic"]["tier"] == "quicklook"
    assert [item.flux_jy for item in list_measurements(registry.database, group_id=WINDOW)] == [
        *(1.0, 0.5),
    ]
    epochs = list_measurements(registry.database, source="S1")
    assert [item.group_id for item in epochs] == [GROUPS[0], WINDOW, GROUPS[1]]
    assert {item.flags for item in epochs} == {"edge blended"}


def test_group_is_described_by_its_measurement_set(registry: Registry, tmp_path: Path) -> None:
    """Where ingestion has not read when and where it was observed."""
    for number, group_id in enumerate(GROUPS):
        outputs = measurement_set("measurement_set", f"/{number}.ms", 61065.9)
        folder, manifest = commit(tmp_path, "convert", group_id, outputs)
        if number:
            registry.set_group_status(group_id, GroupStatus.DISCOVERED)
            with registry.database.writing() as session:
                session.get_one(ObservationGroup, group_id).mid_mjd = 61000.0
        registry.register(folder, manifest)
    rows = registry.rows(ObservationGroup)
    assert [(row["mid_mjd"], row["declination_deg"]) for row in rows] == [
        *((61065.9, 16.0), (61000.0, None)),
    ]


@pytest.fixture(scope="module")
def all_products(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Manifest]]:
    return commit_all(tmp_path_factory.mktemp("all") / "products")


@settings(max_examples=40 if is_search() else 5, deadline=None)
@given(data=st.data())
def test_order_and_repetition_do_not_matter_and_a_rebuild_is_equal(
    data: st.DataObject,
    all_products: list[tuple[Path, Manifest]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Any sequence with every product in it, however repeated, equals the rebuild from disk."""
    numbers = st.lists(st.integers(0, len(all_products) - 1), max_size=8)
    order: Sequence[int] = data.draw(st.permutations(range(len(all_products))))
    folder = tmp_path_factory.mktemp("registry")
    entered = Registry(folder / "entered.sqlite3")
    for number in itertools.chain(data.draw(numbers), order, data.draw(numbers)):
        entered.register(*all_products[number])
    rebuilt = Registry(folder / "rebuilt.sqlite3")
    output_dir = Path(all_products[0][1].output_dir)
    report = rebuilt.rebuild(output_dir)
    assert (report.entered, report.broken) == (N_PRODUCTS, ())
    assert [rebuilt.rows(table) for table in TABLES] == [entered.rows(table) for table in TABLES]


def test_rebuild_in_place_drops_what_is_gone_and_keeps_what_no_manifest_holds(
    registry: Registry, tmp_path: Path
) -> None:
    """Outcomes of groups and retirements survive; products that were deleted do not."""
    products = commit_all(tmp_path / "products")
    for folder, manifest in products:
        registry.register(folder, manifest)
    registry.set_group_status(GROUPS[0], GroupStatus.DEGRADED, "noise too high")
    key = registry.caltable_sets_valid_at(61065.9, 16.0)[0].product_key
    registry.retire_set(key, "wrong model")
    gone = next(folder for folder, manifest in products if manifest.stage == "image")
    (gone / "manifest.json").unlink()
    damaged = next(folder for folder, manifest in products if manifest.stage == "validate")
    (damaged / "file").unlink()
    report = registry.rebuild(tmp_path / "products")
    assert report.entered == N_PRODUCTS - 2
    assert [path for path, _ in report.broken] == [damaged, gone]
    assert registry.group(GROUPS[0]).status is GroupStatus.DEGRADED
    assert registry.group(GROUPS[0]).reason == "noise too high"
    assert registry.caltable_sets_valid_at(61065.9, 16.0) == []


def test_tables_come_in_their_order_of_application(registry: Registry, tmp_path: Path) -> None:
    """Bandpass before gains, whatever order the stage named them in."""
    folder, manifest = commit(tmp_path, "calibrate_solve", GROUPS[0], caltables(tmp_path, 61065.9))
    registry.register(folder, manifest)
    (caltable_set,) = registry.caltable_sets_valid_at(61065.95, 16.0)
    assert [table.type for table in caltable_set.tables] == ["BP", "GA"]


@pytest.mark.parametrize(
    ("mjd", "expected"),
    [
        (61066.0, ["second", "first"]),  # both windows hold it: the newest first
        (61065.86, ["first", "second"]),  # only the first's window; the second is within 12 h
        (61066.55, ["second"]),  # no window; the first is beyond 12 h
        (61067.0, []),
    ],
)
def test_choice_of_the_set(
    registry: Registry, tmp_path: Path, mjd: float, expected: list[str]
) -> None:
    """Windows before nearness, newest before older, nothing beyond the reach."""
    for name, at in (("first", 61065.95), ("second", 61066.06)):
        outputs = caltables(tmp_path / name, at)
        registry.register(*commit(tmp_path, "calibrate_solve", GROUPS[0], outputs, name))
    sets = registry.caltable_sets_valid_at(mjd, 16.0)
    assert [caltables.product_key.rpartition("-")[2] for caltables in sets] == expected


def test_other_strips_are_not_used(registry: Registry, tmp_path: Path) -> None:
    """Tables of a strip 17 degrees away made fluxes wrong by a factor of 16."""
    outputs = caltables(tmp_path, 61065.9, declination=33.0)
    registry.register(*commit(tmp_path, "calibrate_solve", GROUPS[0], outputs))
    assert registry.caltable_sets_valid_at(61065.9, 16.0) == []
    assert len(registry.caltable_sets_valid_at(61065.9, 29.0)) == 1


def test_group_knows_whether_a_calibration_exists(registry: Registry, tmp_path: Path) -> None:
    """What a group waits for: its own time and strip decide."""
    assert not registry.calibration_exists(GROUPS[1])
    outputs = measurement_set("flagged_ms", "/a.ms", 61065.95)
    registry.register(*commit(tmp_path, "flag", GROUPS[1], outputs))
    assert not registry.calibration_exists(GROUPS[1])
    outputs = caltables(tmp_path, 61065.9)
    registry.register(*commit(tmp_path, "calibrate_solve", GROUPS[0], outputs))
    assert registry.calibration_exists(GROUPS[1])


def test_retired_set_stays_retired_when_entered_again(registry: Registry, tmp_path: Path) -> None:
    """Adopting the product of a set does not bring it back into use."""
    outputs = caltables(tmp_path, 61065.9)
    folder, manifest = commit(tmp_path, "calibrate_solve", GROUPS[0], outputs)
    registry.register(folder, manifest)
    registry.retire_set(manifest.key, "tables are gone")
    registry.register(folder, manifest)
    assert registry.caltable_sets_valid_at(61065.9, 16.0) == []


def test_outcome_of_a_group_is_not_undone_by_products(registry: Registry, tmp_path: Path) -> None:
    """Progress moves a group up its ladder only."""
    registry.register(*commit(tmp_path, "image", GROUPS[0], {"image": {}}))
    outputs = measurement_set("measurement_set", "/a.ms", 61065.9)
    registry.register(*commit(tmp_path, "convert", GROUPS[0], outputs))
    assert registry.group(GROUPS[0]).status is GroupStatus.IMAGED
    registry.set_group_status(GROUPS[0], GroupStatus.QUARANTINED, "all flagged")
    registry.register(*commit(tmp_path, "image", GROUPS[0], {"image": {}}, "again"))
    assert registry.group(GROUPS[0]).status is GroupStatus.QUARANTINED


def test_name_of_a_group_stays_once_something_was_made(registry: Registry, tmp_path: Path) -> None:
    """A late file with an earlier time joins, and the group keeps its name."""
    files = [Path(f"/in/2026-01-25T22:26:{second:02}_sb{second:02}.hdf5") for second in (5, 3, 1)]
    assert registry.register_files(files[:1]) == {files[0]: "2026-01-25T22:26:05"}
    assert set(registry.register_files(files[:2]).values()) == {"2026-01-25T22:26:03"}
    outputs = measurement_set("measurement_set", "/a.ms", 61065.9)
    registry.register(*commit(tmp_path, "convert", "2026-01-25T22:26:03", outputs))
    assert set(registry.register_files(files).values()) == {"2026-01-25T22:26:03"}
    assert registry.group("2026-01-25T22:26:03").files == tuple(reversed(files))


def test_unknown_group_is_named(registry: Registry) -> None:
    with pytest.raises(MissingInputError, match="nowhere"):
        registry.group("nowhere")


def test_manifest_that_says_too_little_is_refused(registry: Registry, tmp_path: Path) -> None:
    """The error names the product and the missing field, and nothing is entered."""
    folder, manifest = commit(tmp_path, "convert", GROUPS[0], {"measurement_set": {"path": "/a"}})
    with pytest.raises(BrokenProductError, match="start_mjd"):
        registry.register(folder, manifest)
    assert registry.rows(Product) == []


def test_processes_share_a_registry(tmp_path: Path, registry: Registry) -> None:
    """Four processes enter the same files and products at once; nothing is lost or doubled."""
    url = str(registry.database._url)
    in_processes(enter_files, [(url, number) for number in range(4)])
    groups = registry.groups()
    assert [group.group_id for group in groups] == ["2026-01-25T22:26:00", "2026-01-25T22:32:00"]
    assert [len(group.files) for group in groups] == [6, 6]
    assert all(group.reason in {"0", "1", "2", "3"} for group in groups)


def enter_files(url: str, number: int) -> None:
    """Enter the files of two groups in an order of its own, then note something of each group."""
    registry = Registry(url)
    files = [
        Path(f"/in/2026-01-25T22:{minute}:{second:02}_sb{second:02}.hdf5")
        for minute in (26, 32)
        for second in range(6)
    ]
    random.Random(str(number)).shuffle(files)
    for file in files:
        registry.register_files([file])
    for group in registry.groups():
        registry.set_group_status(group.group_id, GroupStatus.FAILED, str(number))


def in_processes(work: Callable[..., object], arguments: Sequence[tuple[Any, ...]]) -> None:
    """Let processes work at once: forks, as the start of an interpreter would set them apart."""
    workers = [get_context("fork").Process(target=work, args=each) for each in arguments]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * len(workers)


def test_many_processes_may_create_it_at_once(tmp_path: Path) -> None:
    """The first moment of a new registry is the most dangerous one in SQLite."""
    path = tmp_path / "new" / "registry.sqlite3"
    in_processes(Registry, [(path,)] * 4)
    assert Registry(path).groups() == []


@pytest.mark.parametrize("url", ["nonsense://x", "sqlite://", "postgres//x@y:z://"])
def test_wrong_url_is_a_setting_error(url: str) -> None:
    """The error shows the URL and what one looks like."""
    with pytest.raises(SettingError, match="egistry"):
        Registry(url)


def test_rebuild_names_a_linked_folder_of_products(registry: Registry, tmp_path: Path) -> None:
    """What is behind it would be forgotten in silence."""
    commit_all(tmp_path)
    moved = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    (tmp_path / "convert").rename(moved)
    (tmp_path / "convert").symlink_to(moved)
    report = registry.rebuild(tmp_path)
    assert report.entered < N_PRODUCTS
    ((path, text),) = report.broken
    assert path == tmp_path / "convert"
    assert "is a link" in text


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("n_rows", 10**30, "that the registry cannot hold"),
        ("mid_mjd", 1e300, "mid_mjd is 1e+300"),  # could not be read again, and would hide others
    ],
)
def test_rebuild_leaves_out_what_no_table_can_hold(
    registry: Registry, tmp_path: Path, key: str, value: float, problem: str
) -> None:
    """One product among many; the others are entered, and its group has not moved."""
    commit_all(tmp_path)
    outputs = measurement_set("measurement_set", "/odd.ms", 61065.9)
    outputs["measurement_set"] = {**cast(Any, outputs["measurement_set"]), key: value}
    folder, _ = commit(tmp_path, "convert", "2026-01-25T23:00:00", outputs)
    report = registry.rebuild(tmp_path)
    assert report.entered == N_PRODUCTS
    ((path, text),) = report.broken
    assert path == folder
    assert problem in text
    assert [group.group_id for group in registry.groups()] == [*GROUPS]
    assert [group.status for group in registry.groups()] == [GroupStatus.IMAGED] * 2
