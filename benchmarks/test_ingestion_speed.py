"""A poll of an incoming folder with 40,000 files: ``pytest benchmarks/test_ingestion_speed.py -s``.

The first polls enter every file, 2000 each; that all of them were opened and processed long ago is
then written into the registry. After that a poll lists names and looks at few files.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select, update

sys.path.append(str(Path(__file__).parents[1] / "tests" / "shared"))

from arriving_groups import CADENCE_SECONDS, DaemonSite, file_name, write_subband

from absurd_contimg.ingest.closing import ArrivalRules
from absurd_contimg.registry.models import (
    FileState,
    GroupStatus,
    IngestState,
    ObservationGroup,
    SubbandFile,
)

GROUPS = 2500
SUBBANDS = range(16)
POLLS = 7


@pytest.mark.timeout(1800)
def test_a_poll_of_a_folder_with_40_000_files(tmp_path: Path) -> None:
    """Less than a second a poll after the first files are known; a plain stat of all beside it."""
    asyncio.run(_measure(tmp_path))


async def _measure(folder: Path) -> None:
    site = DaemonSite(folder, arrival=ArrivalRules("done"))  # nothing is opened before
    await site.begin()
    content = write_subband(folder, 0, 0).read_bytes()
    for number in range(GROUPS):
        for subband in SUBBANDS:
            path = site.incoming / file_name(number, subband)
            path.write_bytes(content)
            os.utime(path, (site.clock.now() - 86_400, site.clock.now() - 86_400))
    began, polls = time.perf_counter(), 0
    while len(site.tables.known_paths()) < GROUPS * len(SUBBANDS):
        await site.poll(20)
        polls += 1
    print(f"\nentering the files: {polls} polls, {time.perf_counter() - began:.0f} s")
    _process_all(site)
    begin = time.perf_counter()
    await site.poll(20)
    print(f"{GROUPS} groups at once: {time.perf_counter() - begin:.1f} s for windows and tasks")
    seconds = []
    for _ in range(POLLS):
        begin = time.perf_counter()
        await site.poll(20)
        seconds.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    for entry in os.scandir(site.incoming):
        entry.stat()
    stat_seconds = time.perf_counter() - begin
    median = sorted(seconds)[POLLS // 2]
    print(
        f"a poll with {GROUPS * len(SUBBANDS)} known files: {median:.2f} s "
        f"(of {', '.join(f'{each:.2f}' for each in seconds)}); a stat of each: {stat_seconds:.2f} s"
    )
    assert median < 1.0


def _process_all(site: DaemonSite) -> None:
    """As if the groups had been closed, one after the other, and processed long ago."""
    closed = datetime.fromtimestamp(site.clock.now() - 86_400, UTC).isoformat()
    with site.database.writing() as session:
        session.execute(update(SubbandFile).values(state=FileState.WHOLE.value))
        for number, group in enumerate(session.scalars(select(ObservationGroup))):
            group.ingest_state, group.closed_at = IngestState.CLOSED.value, closed
            group.status, group.task_id = GroupStatus.DONE.value, "done"
            group.mid_mjd = 61_000.0 + number * CADENCE_SECONDS / 86_400.0
            group.declination_deg, group.n_subbands = 16.27, len(SUBBANDS)
