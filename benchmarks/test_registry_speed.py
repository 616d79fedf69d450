"""What a poll of the daemon asks of a full registry, and how long it takes.

    pytest benchmarks/test_registry_speed.py -s

40,000 raw files of 2,500 groups, 10,000 products, 50,000 fluxes, in SQLite. The times are seconds
of CPU, the least of five calls, so that other programs count little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, update

from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.grouping import group_name
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.models import (
    ImageRow,
    IngestState,
    ObservationGroup,
    Product,
    SubbandFile,
    row_values,
)
from absurd_contimg.registry.photometry import (
    PhotometryRow,
    list_measurements,
)
from absurd_contimg.registry.subband_files import known_paths, list_files
from absurd_contimg.registry.windows import (
    Window,
    WindowMember,
    WindowRow,
    WindowState,
    list_windows,
)

START = 1_769_380_000
GROUPS, SUBBANDS, SOURCES = 2_500, 16, 20
STAGES = ("convert", "image", "validate", "photometry")
SEEN = "2026-01-26T00:00:00.000000+00:00"
POLL_SECONDS_MAX = 0.05


def raw_files() -> list[Path]:
    return [
        Path(f"/incoming/{group_name(START + 309 * group + subband)}_sb{subband:02}.hdf5")
        for group in range(GROUPS)
        for subband in range(SUBBANDS)
    ]


def fill(registry: Registry) -> None:
    """All but the last group have their products."""
    names = [group_name(START + 309 * group) for group in range(GROUPS)]
    products: list[dict[str, Any]] = [
        {
            "key": f"{stage}-{name}", "stage": stage, "stage_version": 1, "group_id": name,
            "folder": f"./{stage}/{name}", "outputs": {stage: {"path": "x" * 500}},
            "created_at": "2026-01-26T00:00:00+00:00", "attempt": "1", "host": "h", "size_bytes": 9,
        }
        for name in names
        for stage in (STAGES[:-1] if name == names[-1] else STAGES)
    ]  # fmt: skip
    images = [
        {
            "product_key": f"image-{name}",
            "group_id": name,
            "folder": ".",
            "details": {"a": "x" * 500},
        }
        for name in names
    ]
    fluxes = [
        {
            "product_key": f"photometry-{name}", "source": f"S{source:03}", "group_id": name,
            "mjd": 61065.0 + number * 309 / 86400, "ra_deg": 1.0, "dec_deg": 2.0, "flux_jy": 3.0,
            "error_jy": 0.1, "catalogue_jy": 3.0, "flags": "",
        }
        for number, name in enumerate(names[:-1])
        for source in range(SOURCES)
    ]  # fmt: skip
    windows = [
        Window(
            f"w{first}",
            WindowState.CLOSED if first < GROUPS - 20 else WindowState.OPEN,
            61065.0 + first * 309 / 86400,
            61065.0 + (first + 10) * 309 / 86400,
            16.0,
            tuple(WindowMember(name, 61065.0) for name in names[first : first + 10]),
            {},
        )
        for first in range(0, GROUPS, 8)
    ]
    with registry.database.writing() as session:
        session.execute(insert(Product), products)
        session.execute(insert(ImageRow), images)
        session.execute(insert(PhotometryRow), fluxes)
        session.execute(update(SubbandFile).values(first_seen=SEEN, unchanged_since=SEEN))
        session.execute(
            update(ObservationGroup)
            .where(ObservationGroup.group_id != names[-1])
            .values(
                status="done", ingest_state="closed", closed_at=SEEN, task_id="t",
                photometry_task_id="p", n_subbands=16, mid_mjd=61065.0, declination_deg=16.0,
            )
        )  # fmt: skip
        session.execute(insert(WindowRow), [row_values(window) for window in windows])


def cpu_seconds(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(5):
        started = time.process_time()
        call()
        times.append(time.process_time() - started)
    return min(times)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    registry = Registry(tmp_path_factory.mktemp("registry") / "registry.sqlite3")
    files = raw_files()
    started = time.process_time()
    registry.register_files(files)
    print(f"\nregister {len(files)} files: {time.process_time() - started:.1f} s")
    fill(registry)
    return registry


def test_poll(registry: Registry) -> None:
    database, files = registry.database, raw_files()
    last = START + 309 * GROUPS
    ingestion = IngestionTables(database)
    after = START + 309.0 * GROUPS
    calls: dict[str, Callable[[], Any]] = {
        "ingestion: collecting groups": lambda: ingestion.groups([IngestState.COLLECTING]),
        "ingestion: watched groups": lambda: ingestion.watched_groups(after + 1e7),
        "ingestion: next file of a group": lambda: ingestion.next_seen("G", START),
        "ingestion: groups to spawn": ingestion.groups_to_spawn,
        "ingestion: groups for photometry": ingestion.groups_for_photometry,
        "ingestion: all observations": ingestion.observations,
        "ingestion: all windows": ingestion.windows,
        "all known paths": lambda: known_paths(database),
        "files of the last hour": lambda: list_files(
            database, start_seconds=last - 3600, end_seconds=last
        ),
        "register the 16 files of one group": lambda: registry.register_files(files[-16:]),
        "groups of one status": lambda: registry.groups(GroupStatus.FAILED),
        "open windows": lambda: list_windows(database, WindowState.OPEN),
        "windows of a night": lambda: list_windows(database, None, 61070.0, 61070.5),
        "products of a group": lambda: registry.rows(Product, group_name(START)),
    }
    seconds = {name: cpu_seconds(call) for name, call in calls.items()}
    for name, value in seconds.items():
        print(f"{name:40} {value * 1000:6.1f} ms")
    print(
        f"{'light curve of a source':40} "
        f"{cpu_seconds(lambda: list_measurements(database, source='S001')) * 1000:6.1f} ms"
    )
    print(f"{'all groups with their files':40} {cpu_seconds(registry.groups) * 1000:6.1f} ms")
    assert len(registry.rows(ObservationGroup)) == GROUPS
    assert {name: value for name, value in seconds.items() if value > POLL_SECONDS_MAX} == {}
