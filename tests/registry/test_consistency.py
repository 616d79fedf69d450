"""Incoming files, published copies and windows are compared with the registry, and repaired."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sqlalchemy import delete, update
from toy_products import toy_product

from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.products.manifest import MANIFEST_NAME
from absurd_contimg.products.publication import publish_copy
from absurd_contimg.products.store import load_committed
from absurd_contimg.registry import Registry
from absurd_contimg.registry.consistency import (
    FileIndexReport,
    derived_problems,
    enter_publications,
    publication_problems,
    refresh_file_index,
    window_problems,
)
from absurd_contimg.registry.models import FileState, ObservationGroup, SubbandFile
from absurd_contimg.registry.mosaics import MosaicRow
from absurd_contimg.registry.photometry import PhotometryRow
from absurd_contimg.registry.publications import PublicationRow
from absurd_contimg.registry.subband_files import list_files
from absurd_contimg.registry.windows import Window, WindowMember, WindowState, store_windows

from .test_absence import contimg
from .test_registry import WINDOW, commit_all

NAMES = tuple(f"2026-01-25T22:26:05_sb{number:02}.hdf5" for number in range(4))


@pytest.fixture
def files(registry: Registry, tmp_path: Path) -> list[Path]:
    """Four files on disk and in the registry, in four states."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    paths = [folder / name for name in NAMES]
    for path in paths:
        path.touch()
    registry.register_files(paths)
    with registry.database.writing() as session:
        states = (FileState.WHOLE, FileState.LATE, FileState.ARRIVING, FileState.WHOLE)
        for path, state in zip(paths, states, strict=True):
            reason = "came late" if state is FileState.LATE else None
            session.execute(
                update(SubbandFile)
                .where(SubbandFile.path == str(path))
                .values(state=state.value, reason=reason)
            )
    return paths


def states(registry: Registry) -> list[tuple[FileState, str | None]]:
    return [(file.state, file.reason) for file in list_files(registry.database)]


def test_files_that_are_gone_are_marked_and_come_back(
    registry: Registry, files: list[Path]
) -> None:
    """Their rows stay; what they were is not lost; ingestion has those that arrive."""
    before = states(registry)
    assert refresh_file_index(registry.database) == FileIndexReport(3, (), (), ())
    for path in files[:3]:
        path.unlink()
    assert refresh_file_index(registry.database) == FileIndexReport(3, tuple(files[:2]), (), ())
    assert states(registry) == [
        (FileState.GONE, "gone, was whole: "),
        (FileState.GONE, "gone, was late: came late"),
        before[2],
        before[3],
    ]
    assert refresh_file_index(registry.database).gone == ()
    for path in files[:2]:
        path.touch()
    assert refresh_file_index(registry.database).returned == tuple(files[:2])
    assert states(registry) == before


def test_files_of_a_group_without_a_task_are_left_to_the_daemon(
    registry: Registry, files: list[Path]
) -> None:
    """It closes the group by what it sees itself."""
    with registry.database.writing() as session:
        session.execute(update(SubbandFile).values(first_seen="2026-01-25T22:27:00+00:00"))
    for path in files:
        path.unlink()
    assert refresh_file_index(registry.database) == FileIndexReport(0, (), (), ())
    with registry.database.writing() as session:
        session.execute(update(ObservationGroup).values(task_id="t", ingest_state="closed"))
    assert len(refresh_file_index(registry.database).gone) == 3


def test_folder_that_is_away_marks_no_file(registry: Registry, files: list[Path]) -> None:
    folder = files[0].parent
    folder.rename(folder.with_name("elsewhere"))
    assert refresh_file_index(registry.database) == FileIndexReport(3, (), (), (folder,))
    assert FileState.GONE not in [state for state, _ in states(registry)]


def test_file_that_ingestion_gave_up_does_not_come_back(
    registry: Registry, files: list[Path]
) -> None:
    """It was absent when its group was closed."""
    with registry.database.writing() as session:
        reason = "was gone when the group was closed"
        session.execute(update(SubbandFile).values(state="gone", reason=reason))
    assert refresh_file_index(registry.database).returned == ()


@pytest.fixture
def file_registry(tmp_path: Path) -> Registry:
    """In SQLite."""
    return Registry(tmp_path / "registry.sqlite3")


@pytest.fixture
def copies(file_registry: Registry, tmp_path: Path) -> list[Path]:
    """Three published mosaics, in the registry."""
    output_dir, publish_dir = tmp_path / "products", tmp_path / "products" / "published"
    publish_dir.mkdir(parents=True)
    folders = []
    for number in range(1, 4):
        source = toy_product(output_dir, number=number)
        folders.append(publish_copy(source, publish_dir).folder)
    assert enter_publications(file_registry.database, publish_dir, output_dir) == 3
    return folders


def problems(file_registry: Registry, copies: list[Path]) -> list[str]:
    return publication_problems(file_registry.database, copies[0].parents[1])


def test_copies_on_disk_are_entered_once(file_registry: Registry, copies: list[Path]) -> None:
    """As they were published: the registry may be lost."""
    publish_dir = copies[0].parents[1]
    assert enter_publications(file_registry.database, publish_dir, publish_dir.parent) == 0
    rows = file_registry.rows(PublicationRow)
    assert {row["destination"] for row in rows} == {str(path) for path in copies}
    assert {Path(row["source"]).parents[1] for row in rows} == {copies[0].parents[2]}
    assert {(row["state"], row["kind"], row["attempts"]) for row in rows} == {
        ("published", "mosaic", 0)
    }
    assert problems(file_registry, copies) == []


def test_copy_that_is_gone_damaged_or_another_is_named(
    file_registry: Registry, copies: list[Path]
) -> None:
    shutil.rmtree(copies[0])
    (copies[1] / "image.fits").write_bytes(b"")
    with file_registry.database.writing() as session:
        session.execute(
            update(PublicationRow)
            .where(PublicationRow.destination == str(copies[2]))
            .values(product_key="another")
        )
    texts = problems(file_registry, copies)
    assert len(texts) == 3
    assert sorted(copies[0].name in text and "missing" in text for text in texts)[-1]
    assert sorted("image.fits has 0 bytes" in text for text in texts)[-1]
    assert sorted("not of another" in text for text in texts)[-1]


def test_copy_without_a_row_is_named(file_registry: Registry, copies: list[Path]) -> None:
    source = toy_product(copies[0].parents[2], number=9)
    folder = publish_copy(source, copies[0].parents[1]).folder
    assert problems(file_registry, copies) == [
        f"{folder} is published and not in the registry: contimg registry rebuild."
    ]


def test_copy_of_a_failed_publication_is_named_with_its_reason(
    file_registry: Registry, copies: list[Path]
) -> None:
    """It was called unknown to the registry. And one in another folder than the registry has."""
    key = load_committed(copies[0]).key
    file_registry.publications.begin(key, "mosaic", copies[0], copies[0])
    with file_registry.database.writing() as session:
        session.execute(
            update(PublicationRow)
            .where(PublicationRow.product_key == key)
            .values(state="failed", reason="it differs.")
        )
        session.execute(
            update(PublicationRow)
            .where(PublicationRow.destination == str(copies[1]))
            .values(state="staging", destination="/elsewhere")
        )
    moved_text, text = sorted(problems(file_registry, copies))
    assert text == (
        f"The publication of {key} has failed (it differs), and {copies[0]} is in its place. Move "
        f"that away, then: contimg publish retry {key}"
    )
    assert f"{copies[1]} is a copy of" in moved_text
    assert "the registry has at /elsewhere" in moved_text
    shutil.rmtree(copies[0])
    assert problems(file_registry, copies) == [moved_text]


def test_copy_that_a_dead_process_began_is_named(
    file_registry: Registry, copies: list[Path]
) -> None:
    """While its process lives it is none of the operator's business."""
    with file_registry.database.writing() as session:
        session.execute(
            update(PublicationRow)
            .where(PublicationRow.destination == str(copies[0]))
            .values(state="publishing")
        )
    lock = copies[0].with_name(f".publishing-{copies[0].name}.lock")
    held = LOCAL.try_lock(lock)
    assert problems(file_registry, copies) == []
    LOCAL.remove(lock)
    LOCAL.unlock(held)
    (text,) = problems(file_registry, copies)
    assert "is not finished: contimg publish retry" in text


def test_windows_of_unknown_groups_are_named(registry: Registry) -> None:
    with registry.database.writing() as session:
        session.add(ObservationGroup(group_id="G1", status="done"))
    members = (WindowMember("G1", 61065.9), WindowMember("G2", 61065.91))
    window = Window("w", WindowState.CLOSED, 61065.9, 61065.91, 16.0, members, {}, None, "v")
    store_windows(registry.database, [window])
    assert window_problems(registry.database) == [
        "Window w has groups that are not in the registry: G2.",
        "Window w is superseded by v, which is not in the registry.",
    ]


def test_products_without_all_their_rows_are_named(registry: Registry, tmp_path: Path) -> None:
    """A rebuild enters them again."""
    commit_all(tmp_path)
    registry.rebuild(tmp_path)
    assert derived_problems(registry.database) == []
    with registry.database.writing() as session:
        session.execute(delete(MosaicRow))
        session.execute(delete(PhotometryRow).where(PhotometryRow.source == "S1"))
    texts = derived_problems(registry.database)
    assert len(texts) == 4
    assert texts[0].startswith(f"Product mosaic-{WINDOW}-x has 0 of 1 rows in mosaics: contimg")
    assert "has 1 of 2 rows in photometry: contimg registry rebuild" in texts[1]
    registry.rebuild(tmp_path)
    assert derived_problems(registry.database) == []


def test_commands_check_and_rebuild_all_of_it(tmp_path: Path) -> None:
    """From the command line, with the exit code of what is wrong."""
    output_dir = tmp_path / "products"
    publish_dir = output_dir / "published"
    publish_dir.mkdir(parents=True)
    copy = publish_copy(toy_product(output_dir), publish_dir).folder
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    rebuilt = contimg(tmp_path, output_dir, "rebuild", "--json")
    assert json.loads(rebuilt.output)["publications_entered"] == 1
    registry = Registry(tmp_path / "state" / "registry.sqlite3", output_dir=output_dir)
    registry.register_files([incoming / NAMES[0]])
    checked = contimg(tmp_path, output_dir, "check")
    assert checked.exit_code == 0, checked.output
    assert "Raw files: 1 gone since the last look, 0 there again, of 1." in checked.output
    (copy / MANIFEST_NAME).unlink()
    checked = contimg(tmp_path, output_dir, "check", "--json")
    assert checked.exit_code == 1
    assert len(json.loads(checked.output)["publications"]) == 1
    assert load_committed(copy.parents[2] / "mosaics" / copy.name)
