"""The daemon writes the report of a night once it has ended, and again when something changed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from night_site import NIGHT, Defects, SyntheticNight

from absurd_contimg.errors import SettingError
from absurd_contimg.operations.night_report import Night, NightlyReports, write_night_report
from absurd_contimg.registry import GroupStatus
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.ingestion_records import Closure
from absurd_contimg.registry.models import IngestState


async def closed_night(root: Path, defects: Defects) -> SyntheticNight:
    """A night whose groups the daemon has closed at 10:15 UTC."""
    night = await SyntheticNight(root, defects, n_groups=1).make()
    tables = IngestionTables(night.registry.database)
    for group in tables.groups():
        files = tuple(file.path for file in group.files)
        closed_at = datetime(2025, 1, 15, 10, 15, tzinfo=UTC).timestamp()
        tables.close_group(
            Closure(
                group.group_id, IngestState.CLOSED, "complete", files, (), None, None, closed_at
            )
        )
    return night


async def test_report_is_written_after_the_night_and_again_only_for_a_change(
    tmp_path: Path,
) -> None:
    night = await closed_night(tmp_path, Defects())
    reports = NightlyReports(night.site)
    page = night.site.reports / f"{NIGHT}.html"
    night.now = datetime(2025, 1, 15, 10, 30, tzinfo=UTC)  # quiet for 15 min only
    await reports.look()
    assert not page.exists()
    night.now += timedelta(hours=1)
    await reports.look()
    written = page.stat().st_mtime_ns
    content = json.loads(page.with_suffix(".json").read_text())
    assert (content["night"], len(content["groups"])) == (NIGHT, 1)
    await NightlyReports(night.site).look()  # of a daemon that was started again
    assert page.stat().st_mtime_ns == written
    night.registry.set_group_status(night.groups[0], GroupStatus.FAILED, "looked at again")
    await reports.look()
    assert page.stat().st_mtime_ns > written
    assert "looked at again" in page.read_text()


async def test_night_with_tasks_under_way_is_written_at_the_deadline(tmp_path: Path) -> None:
    night = await closed_night(tmp_path, Defects())
    await night.backend.spawn_task(
        night.site.queue_name, "photometry", {"group_id": night.groups[0]}
    )
    reports = NightlyReports(night.site)
    night.now = datetime(2025, 1, 15, 16, 0, tzinfo=UTC)
    await reports.look()
    assert not night.site.reports.exists()
    night.now = datetime(2025, 1, 15, 16, 30, tzinfo=UTC)
    await reports.look()
    assert (night.site.reports / f"{NIGHT}.html").is_file()


async def test_report_that_cannot_be_written_is_logged_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file in the place of the folder stops neither the step nor the next look."""
    night = await closed_night(tmp_path, Defects())
    night.site.reports.write_text("not a folder")
    gates = night.site.config.night_report.model_copy(update={"look_minutes": 1e-6})
    config = night.site.config.model_copy(update={"night_report": gates})
    object.__setattr__(night.site, "config", config)
    reports = NightlyReports(night.site)
    with caplog.at_level(logging.WARNING):
        await _step_until(reports, lambda: "tried again" in caplog.text)
    night.site.reports.unlink()
    await _step_until(reports, (night.site.reports / f"{NIGHT}.json").is_file)
    await reports.stop()


async def test_stop_ends_a_look_within_seconds(tmp_path: Path) -> None:
    """Though CASA hangs: systemd gives the daemon 60 s to stop."""
    night = await closed_night(tmp_path, Defects())
    night.now = datetime(2025, 1, 15, 12, 0, tzinfo=UTC)
    for path in night.data:
        path.mkdir(parents=True)
        (path / "table.dat").write_bytes(b"no table")
    reports = NightlyReports(night.site)
    await reports.step()
    async with asyncio.timeout(60):
        while not (readers := _flag_readers()):
            await asyncio.sleep(0.02)
    os.kill(readers[0], signal.SIGSTOP)
    async with asyncio.timeout(20):
        await reports.stop()
        await asyncio.get_running_loop().shutdown_default_executor()
    assert _flag_readers() == []
    assert not night.site.reports.exists()


def _flag_readers() -> list[int]:
    """The child processes that read flags."""
    children = [
        int(pid)
        for path in Path("/proc/self/task").glob("*/children")
        for pid in path.read_text().split()
    ]
    return [pid for pid in children if b"flag_figures" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def _step_until(reports: NightlyReports, reached: Any) -> None:
    async with asyncio.timeout(60):
        while not reached():
            await reports.step()
            await asyncio.sleep(0.02)


async def test_other_files_are_not_overwritten(tmp_path: Path) -> None:
    night = await SyntheticNight(tmp_path, Defects(failed_group=0), n_groups=1).make()
    notes = tmp_path / "notes.html"
    notes.write_text("<p>my notes</p>")
    with pytest.raises(SettingError, match="no night report"):
        await write_night_report(night.site, _night(), notes)
    assert notes.read_text() == "<p>my notes</p>"


def _night() -> Night:
    return Night(datetime.fromisoformat(NIGHT).date())
