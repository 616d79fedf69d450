"""The index of raw files: by time, by group, by state; and no query reads all of a large table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from toy_products import toy_product

from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.products.manifest import InputEntry
from absurd_contimg.products.store import load_committed
from absurd_contimg.registry import Registry
from absurd_contimg.registry.grouping import group_name
from absurd_contimg.registry.models import FileState, Product, SubbandFile
from absurd_contimg.registry.photometry import list_measurements
from absurd_contimg.registry.subband_files import (
    known_paths,
    list_files,
)
from absurd_contimg.registry.windows import WindowState, list_windows

from .test_absence import contimg

START = 1_769_380_000
FILES = tuple(
    Path(f"/in/{group_name(START + 309 * group)}_sb{subband:02}.hdf5")
    for group in range(3)
    for subband in (1, 0)
)


def test_files_are_listed_by_time_group_and_state(registry: Registry) -> None:
    """In the order of time and sub-band; the ends of a span belong to it."""
    registry.register_files(FILES)
    database = registry.database
    assert known_paths(database) == {str(path) for path in FILES}
    second = list_files(database, start_seconds=START + 309, end_seconds=START + 309)
    assert [file.path for file in second] == [FILES[3], FILES[2]]
    assert list_files(database, group_id=group_name(START + 309)) == second
    assert len(list_files(database, start_seconds=START + 309)) == 4
    with database.writing() as session:
        session.get_one(SubbandFile, str(FILES[0])).state = FileState.CHANGED.value
    (changed,) = list_files(database, states=[FileState.CHANGED])
    assert (changed.path, changed.state) == (FILES[0], FileState.CHANGED)


def test_a_file_that_was_replaced_counts_as_accepted_when_it_is_converted(
    registry: Registry, tmp_path: Path
) -> None:
    """It stayed changed for ever; one that is not what the product was made from does."""
    paths = [tmp_path / path.name for path in FILES[:2]]
    for path in paths:
        path.write_text("new")
    registry.register_files(paths)
    group = group_name(START)
    with registry.database.writing() as session:
        for path in paths:
            session.get_one(SubbandFile, str(path)).state = FileState.CHANGED.value
    digests = (LOCAL.digest(paths[0]), "of another file")
    inputs = [InputEntry(str(path), "file", d) for path, d in zip(paths, digests, strict=True)]
    folder = toy_product(tmp_path / "products", stage="convert", group_id=group)
    manifest = replace(load_committed(folder), inputs=tuple(inputs))
    registry.register(folder, manifest)
    states = {file.path: (file.state, file.size) for file in list_files(registry.database)}
    assert states == {paths[0]: (FileState.WHOLE, 3), paths[1]: (FileState.CHANGED, None)}


@contextmanager
def recorded_statements() -> Iterator[list[tuple[str, Any]]]:
    statements: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, text: str, parameters: Any, *_rest: Any) -> None:
        statements.append((text, parameters))

    event.listen(Engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", record)


def test_no_poll_reads_all_of_a_large_table(tmp_path: Path) -> None:
    """Each query of a span, a group, a state or a source uses an index."""
    registry = Registry(tmp_path / "registry.sqlite3")
    database = registry.database
    with recorded_statements() as statements:
        registry.register_files(FILES)
        list_files(database, start_seconds=START, end_seconds=START + 3600)
        list_files(database, group_id="G")
        list_files(database, states=[FileState.ARRIVING])
        list_windows(database, WindowState.OPEN)
        list_measurements(database, source="S")
        list_measurements(database, group_id="G")
        registry.rows(Product, "G")
    plans = []
    with database._engine.connect() as connection:
        for text, parameters in statements:
            if text.startswith("SELECT"):
                rows = connection.exec_driver_sql(f"explain query plan {text}", parameters)
                plans += [(text, row.detail) for row in rows]
    assert len(plans) > 10
    assert [plan for plan in plans if plan[1].startswith("SCAN")] == []


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An output folder with a registry of `FILES`."""
    output_dir = tmp_path / "products"
    output_dir.mkdir()
    registry = Registry(tmp_path / "state" / "registry.sqlite3", output_dir=output_dir)
    registry.register_files(FILES)
    return tmp_path


def test_command_lists_files_of_a_span(site: Path) -> None:
    """As a table, or as JSON with all columns."""
    begin, end = group_name(START), group_name(START + 309)
    shown = contimg(site, site / "products", "files", begin, end)
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("whole") == 4
    assert max(map(len, shown.output.splitlines())) <= 80
    as_json = contimg(site, site / "products", "files", end, "--json")
    assert [file["subband"] for file in json.loads(as_json.output)] == [0, 1, 0, 1]
    wrong = contimg(site, site / "products", "files", "yesterday")
    assert wrong.exit_code != 0
    assert "START 'yesterday' is no time" in str(wrong.exception)
    state = contimg(site, site / "products", "files", begin, "--state", "gone", "--json")
    assert json.loads(state.output) == []


def test_command_makes_no_registry(tmp_path: Path) -> None:
    (tmp_path / "products").mkdir()
    ran = contimg(tmp_path, tmp_path / "products", "files", group_name(START))
    assert "There is no registry yet" in str(ran.exception)
    assert not (tmp_path / "state").exists()
