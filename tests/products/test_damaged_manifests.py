"""A damaged manifest is a `BrokenProductError` that names it, whatever the damage is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from search_extent import examples

from absurd_contimg.errors import BrokenProductError
from absurd_contimg.products.manifest import MANIFEST_NAME, Manifest, file_entries, write_manifest
from absurd_contimg.products.store import load_committed, product_folders, read_products, verify
from absurd_contimg.registry import Registry

NAME = "G-0123456789"


def commit(root: Path, name: str = NAME, **changes: Any) -> Path:
    folder = root / "images" / name
    folder.mkdir(parents=True)
    (folder / "file").write_text("x")
    manifest = Manifest(
        *("image", 1, f"key-{name}", f"images/{name}", "/elsewhere", "G", {}, ()),
        *({"image": {"path": "/elsewhere/x"}}, file_entries(folder)),
        *({"python": "3"}, "2026-01-26T00:00:00+00:00", "1", "host"),
    )
    write_manifest(folder, manifest)
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


SPECIAL: dict[str, Callable[[Path], object]] = {
    "nested": lambda path: path.write_bytes(b"[" * 100_000),
    "nested outputs": lambda path: path.write_text(
        path.read_text().replace('"/elsewhere/x"', "[" * 300 + "]" * 300)
    ),
    "long number": lambda path: path.write_bytes(b'{"schema": ' + b"9" * 5000 + b"}"),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
    "device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", SPECIAL)
def test_special_files_are_broken_manifests(damage: str, tmp_path: Path) -> None:
    folder = commit(tmp_path / "out")
    SPECIAL[damage](folder / MANIFEST_NAME)
    assert_broken(folder)
    registry = Registry(tmp_path / "registry.sqlite3")
    other = commit(tmp_path / "out", "H-0123456789")
    report = registry.rebuild(tmp_path / "out")
    assert report.entered == 1
    assert [path for path, _ in report.broken] == [folder]
    assert registry.check(tmp_path / "out").unknown == (folder,)
    assert set(product_folders(tmp_path / "out")) == {folder, other}


def assert_broken(folder: Path) -> None:
    with pytest.raises(BrokenProductError, match=MANIFEST_NAME):
        load_committed(folder)


@pytest.mark.parametrize(
    "field", ["stage", "key", "location", "output_dir", "group_id", "created_at", "attempt", "host"]
)
@pytest.mark.parametrize("value", [None, 5, ["x"], {}, "a\0b", "\ud800"])
def test_texts_of_another_type(field: str, value: object, tmp_path: Path) -> None:
    assert_broken(commit(tmp_path / "out", **{field: value}))


@pytest.mark.parametrize("value", [None, 5, [1], "text"])
@pytest.mark.parametrize("field", ["outputs", "parameters", "software"])
def test_objects_of_another_type(field: str, value: object, tmp_path: Path) -> None:
    assert_broken(commit(tmp_path / "out", **{field: value}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_change_of_a_manifest_is_read_or_named(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Reading, comparing and entering end in nothing else than a product or a named broken one."""
    root = tmp_path_factory.mktemp("changed")
    folder = commit(root / "out")
    path = folder / MANIFEST_NAME
    content = json.loads(path.read_text())
    target: Any = content
    while True:
        name = data.draw(st.sampled_from(sorted(target) if isinstance(target, dict) else [0]))
        inner = target[name]
        if not (isinstance(inner, dict | list) and inner) or data.draw(st.booleans()):
            break
        target = inner
    target[name] = data.draw(json_values)
    path.write_text(json.dumps(content))
    with suppress(BrokenProductError):
        verify(folder, load_committed(folder))
    registry = Registry(root / "registry.sqlite3")
    report = registry.rebuild(root / "out")
    assert report.entered + len(report.broken) == 1
    assert all(str(folder) in reason for _, reason in report.broken)
    registry.check(root / "out")


def test_product_that_is_a_link_counts_everywhere(tmp_path: Path) -> None:
    """Also while its target is away: then it is named as broken."""
    folder = commit(tmp_path / "out")
    moved = tmp_path / "other_disk"
    folder.rename(moved)
    folder.symlink_to(moved)
    (tmp_path / "out" / "unrelated").symlink_to(tmp_path)
    registry = Registry(tmp_path / "registry.sqlite3")
    assert list(product_folders(tmp_path / "out")) == [folder]
    assert registry.rebuild(tmp_path / "out").entered == 1
    check = registry.check(tmp_path / "out")
    assert (check.products, check.broken, check.unknown) == (1, (), ())
    moved.rename(tmp_path / "away")
    products: dict[Path, Manifest] = {}
    broken: dict[Path, str] = {}
    read_products(tmp_path / "out", products, broken)
    assert (products, list(broken)) == ({}, [folder])
