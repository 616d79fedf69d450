"""Publication: a whole copy or none; nothing is overwritten; what a dead process left is redone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from toy_products import toy_product

from absurd_contimg.config import PathsConfig
from absurd_contimg.errors import (
    BrokenProductError,
    DestinationAwayError,
    OutputError,
    PublicationBusyError,
    SettingError,
)
from absurd_contimg.owned_folders import MARK_NAME, ForeignFolderError
from absurd_contimg.products import filesystem
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.products.publication import (
    check_publish_dir,
    publish_copy,
)
from absurd_contimg.products.store import (
    find_committed,
    load_committed,
    product_folders,
    read_products,
    verify,
)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output folder with the default folder for publications."""
    (tmp_path / "products" / "published").mkdir(parents=True)
    return tmp_path / "products"


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_the_copy_is_whole_and_alone(output: Path) -> None:
    """The destination has the bytes of the manifest; the committed product stays as it was."""
    source = toy_product(output)
    before = find_committed(source, load_committed(source).key, deep=True)
    published = publish_copy(source, output / "published")
    assert not published.adopted
    assert published.folder == output / "published" / "mosaics" / source.name
    verify(published.folder, load_committed(published.folder), deep=True)
    assert names(output / "published" / "mosaics") == [
        source.name,
        *(f"{source.name}/{name}" for name in names(source)),
    ]
    assert find_committed(source, load_committed(source).key, deep=True) == before


def test_a_reader_who_changes_the_copy_changes_no_product(output: Path) -> None:
    """The published file shares no bytes with the committed one."""
    source = toy_product(output)
    published = publish_copy(source, output / "published").folder
    (published / "image.fits").write_bytes(b"changed")
    verify(source, load_committed(source), deep=True)


def test_published_again_is_adopted(output: Path) -> None:
    """Crash hole (c) of the existing pipeline: a retry made a second copy with another name."""
    source = toy_product(output)
    first = publish_copy(source, output / "published")
    before = names(output / "published")
    again = publish_copy(source, output / "published")
    assert again.adopted
    assert again.folder == first.folder
    assert names(output / "published") == before


def test_the_last_product_stays_when_a_new_one_comes(output: Path) -> None:
    """A window that is made again has another key and another folder."""
    old = publish_copy(toy_product(output), output / "published").folder
    new = publish_copy(toy_product(output, number=2), output / "published").folder
    assert old != new
    for folder in (old, new):
        verify(folder, load_committed(folder), deep=True)


@pytest.mark.parametrize("content", ["folder", "file", "empty", "other product", "damaged"])
def test_nothing_is_overwritten(output: Path, content: str) -> None:
    """Whatever lies in the place stays, and the error names it."""
    source = toy_product(output)
    place = output / "published" / "mosaics" / source.name
    if content == "file":
        place.parent.mkdir()
        place.write_text("notes")
    elif content == "damaged":
        publish_copy(source, output / "published")
        (place / "image.fits").write_bytes(b"image 9")
    else:
        place.mkdir(parents=True)
        if content == "folder":
            (place / "notes").write_text("notes")
        elif content == "other product":
            other = toy_product(output, "mosaics/other", number=2)
            for name in ("manifest.json", "image.fits"):
                (place / name).write_bytes((other / name).read_bytes())
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises(BrokenProductError, match=source.name):
        publish_copy(source, output / "published")
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    assert place.exists()
    assert names(place.parent)[0] == source.name, "leftovers of the refused copy"


def test_copies_are_no_products_of_the_output_folder(output: Path) -> None:
    """A rebuild of the registry would enter the copy in place of the product."""
    source = toy_product(output)
    publish_copy(source, output / "published")
    assert list(product_folders(output)) == [source]
    products, broken = {}, {}
    read_products(output, products, broken)
    assert (list(products), broken) == ([source], {})


def test_a_folder_that_is_away_is_not_made(output: Path) -> None:
    """A mount point without its disk would be filled instead."""
    source = toy_product(output)
    away = output.parent / "unmounted"
    with pytest.raises(DestinationAwayError, match=r"unmounted.*not there"):
        publish_copy(source, away)
    assert not away.exists()


def test_a_damaged_source_is_named(output: Path) -> None:
    """A byte that changed on the disk is found by the digest of the copy."""
    source = toy_product(output)
    (source / "image.fits").write_bytes(b"image 9")
    with pytest.raises(BrokenProductError, match=f"Product {source} differs.*other content"):
        publish_copy(source, output / "published")
    assert names(output / "published") == ["mosaics"]


def test_a_bad_copy_is_no_publication(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that lost bytes without an error may go well the next time."""
    source = toy_product(output)
    monkeypatch.setattr(
        filesystem._LocalFileSystem, "copy_file", lambda _, source, target: target.touch()
    )
    with pytest.raises(OutputError, match="copy differs"):
        publish_copy(source, output / "published")
    assert names(output / "published") == ["mosaics"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ESTALE])
def test_trouble_of_the_destination_names_it(
    output: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Full, read-only or gone: nothing is left, and the next attempt succeeds."""
    source = toy_product(output)

    def fail(_: object, source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(filesystem._LocalFileSystem, "copy_file", fail)
        with pytest.raises(DestinationAwayError, match=os.strerror(code)) as raised:
            publish_copy(source, output / "published")
    assert raised.value.failed_path == str(output / "published" / "mosaics")
    assert names(output / "published") == ["mosaics"]
    assert not publish_copy(source, output / "published").adopted


def test_a_full_disk(output: Path, small_disk: Path) -> None:
    """A real file system of 8 MB without space."""
    source = toy_product(output)
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(9_000_000))
    with pytest.raises(DestinationAwayError, match="No space left"):
        publish_copy(source, small_disk)
    ballast.unlink()
    assert not publish_copy(source, small_disk).adopted
    assert [path.name for path in (small_disk / "mosaics").iterdir()] == [source.name]


def test_two_processes_do_not_publish_the_same_product_at_once(output: Path) -> None:
    """A worker that was stopped for an hour holds the lock when it goes on."""
    source = toy_product(output)
    lock_file = output / "published" / "mosaics" / f".publishing-{source.name}.lock"
    lock_file.parent.mkdir()
    lock = LOCAL.try_lock(lock_file)
    assert lock is not None
    with pytest.raises(PublicationBusyError, match="Another process"):
        publish_copy(source, output / "published")
    LOCAL.unlock(lock)
    assert not publish_copy(source, output / "published").adopted


def test_only_marked_leftovers_are_removed(output: Path) -> None:
    """A folder of somebody else at the temporary name stays, and the error names it."""
    source = toy_product(output)
    parent = output / "published" / "mosaics"
    temporary = parent / f".publishing-{source.name}"
    temporary.mkdir(parents=True)
    (temporary / "notes").write_text("mine")
    (parent / f"{temporary.name}.lock").touch()
    with pytest.raises(ForeignFolderError, match=temporary.name):
        publish_copy(source, output / "published")
    assert (temporary / "notes").read_text() == "mine"


def test_leftovers_of_a_dead_process_are_removed(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a kill leaves is removed by the next attempt."""
    source = toy_product(output)
    with monkeypatch.context() as patch:
        patch.setattr(filesystem._LocalFileSystem, "remove_tree", lambda *_: None)
        patch.setattr(filesystem._LocalFileSystem, "remove", lambda *_: None)
        patch.setattr(
            filesystem._LocalFileSystem, "rename", lambda *_: (_ for _ in ()).throw(KeyError)
        )
        with pytest.raises(KeyError):
            publish_copy(source, output / "published")
    temporary = output / "published" / "mosaics" / f".publishing-{source.name}"
    assert (temporary / MARK_NAME).is_file()
    assert (temporary / "product").is_dir()
    assert not publish_copy(source, output / "published").adopted
    assert [path.name for path in temporary.parent.iterdir()] == [source.name]


def test_a_folder_inside_another_is_refused(tmp_path: Path) -> None:
    """Scratch is emptied, incoming is read as raw data, and products are walked through."""
    paths = PathsConfig.below(tmp_path)
    check_publish_dir(paths)
    inside = ("scratch/out", "incoming", "products/mosaics", "products")
    for name in (*inside, "products/published/more"):
        with pytest.raises(SettingError, match="or lies in it"):
            check_publish_dir(paths.model_copy(update={"publish_dir": tmp_path / name}))
    for name in ("elsewhere", "products/published"):
        check_publish_dir(paths.model_copy(update={"publish_dir": tmp_path / name}))
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match="is no folder"):
        check_publish_dir(paths.model_copy(update={"publish_dir": tmp_path / "file" / "out"}))
    assert names(tmp_path) == ["file"], "the check makes nothing"
