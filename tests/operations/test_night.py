"""What a night must end with, and that anything else is found."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from absurd_contimg.config import PathsConfig, PipelineConfig, StreamingConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.ingest.windows import Observation, WindowRules, form_windows
from absurd_contimg.operations.night import NightOptions, run_night
from absurd_contimg.operations.night.expectations import (
    _limited,
    expected_windows,
    registry_findings,
    report_findings,
    task_findings,
)
from absurd_contimg.operations.night.night import keep_full
from absurd_contimg.operations.night.processes import Processes
from absurd_contimg.owned_folders import ForeignFolderError
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.registry import Registry
from absurd_contimg.synthesis.night import Plan, TrueGroup, TrueNight, TrueSource

_DECLINATIONS = {"calibrator": 59.0, "first": 63.8, "second": 54.2, "third": 54.2}
_MINUTES = 309.24 / 60.0


def _night(groups: int) -> TrueNight:
    plan = Plan.of(groups)
    lengths = {"calibrator": 1, "first": plan.first, "second": plan.second, "third": plan.third}
    strips = [strip for strip, length in lengths.items() for _ in range(length)]
    return TrueNight(
        tuple(
            TrueGroup(f"{n:03d}", strip, 16, sources=(TrueSource(f"S{n}", 1.0),))
            for n, strip in enumerate(strips)
        )
    )


def _observations(night: TrueNight) -> Iterator[Observation]:
    minutes = 0.0
    before = ""
    for group in night.groups:
        minutes += _MINUTES * (3 if (before, group.strip) == ("second", "third") else 1)
        before = group.strip
        yield Observation(group.group_id, minutes / 1440.0, _DECLINATIONS[group.strip])


@pytest.fixture
def config(tmp_path: Path) -> PipelineConfig:
    return PipelineConfig(paths=PathsConfig.below(tmp_path))


@pytest.mark.parametrize("groups", [10, 17, 30, 43, 60])
@pytest.mark.parametrize(("size", "stride", "least"), [(10, 8, 5), (3, 2, 3), (4, 1, 2)])
def test_the_expected_windows_are_those_of_the_rules(
    config: PipelineConfig, groups: int, size: int, stride: int, least: int
) -> None:
    """Two ways to the same windows: by the strips of the telescope, and by times in the files."""
    night = _night(groups)
    streaming = StreamingConfig(window_size=size, window_stride=stride, window_min=least)
    config = config.model_copy(update={"streaming": streaming})
    rules = WindowRules(size=size, stride=stride, members_min=least)
    formed = form_windows(_observations(night), rules, quiet_seconds=1e6).windows
    members = [tuple(member.group_id for member in window.members) for window in formed]
    assert expected_windows(night, config) == members
    assert len(members) >= groups // 10 - 1


def test_a_night_without_any_result_is_wrong_in_every_count(
    config: PipelineConfig, tmp_path: Path
) -> None:
    night = _night(30)
    with closing(Registry(tmp_path / "registry.sqlite3")) as registry:
        findings = registry_findings(night, config, registry)
    findings += task_findings(night, config, [])
    wrong = {finding.subject for finding in findings if not finding.ok}
    assert {
        "groups that the telescope wrote",
        "sub-bands accepted",
        "groups processed",
        "windows",
        "sources not measured in images",
        "fluxes in images: median error",
        "positions in images: largest",
        "light curves, one of each source",
        "pipeline tasks completed",
        "stages interrupted by the kills",
    } <= wrong


def test_a_report_of_another_night_is_wrong(config: PipelineConfig) -> None:
    """A row that does not turn, one that turns without a fault, a group that is not in it."""
    night = TrueNight(
        tuple(replace(g, n_subbands=15 + (g.group_id > "002")) for g in _night(30).groups)
    )
    rows: dict[str, dict[str, Any]] = {
        "processed": {"status": "pass", "numbers": {"processed": 30}},
        "subbands": {"status": "warn", "numbers": {"partial": 3}},
        "mosaics": {"status": "pass"},
        "data_age": {"status": "not measured", "expected": False},
        "operations": {"status": "pass", "numbers": {"wasted_starts": 1}},
    }
    group = {"flagged_after": 0.01}
    report = {"groups": [group] * 30, "unprocessed": [], "mosaics": [{}] * 4, "verdict": "DEGRADED"}

    def wrong(**changes: Any) -> list[str]:
        content = {**report, "rows": [{"key": key, **row} for key, row in rows.items()], **changes}
        return [f.subject for f in report_findings(night, config, content) if not f.ok]

    assert wrong() == []
    assert wrong(groups=[group] * 29, verdict="CLEAN") == [
        "night report: groups in it",
        "night report: verdict in it",
    ]
    for key, status in (("subbands", "pass"), ("mosaics", "fail")):
        before, rows[key]["status"] = rows[key]["status"], status
        assert wrong() == ["night report: rows that do not pass"]
        rows[key]["status"] = before
    assert wrong(groups=[group] * 29 + [{"flagged_after": 0.0}]) == [
        "night report: verdict in it",
        "night report: rows that do not pass",
    ]
    rows["mosaics"] |= {"status": "not measured", "expected": True}
    assert wrong() == ["night report: rows that do not pass"]


def test_errors_beyond_a_limit_are_wrong() -> None:
    """A median may hide one bad flux, and a largest error one wrong scale."""
    assert [f.ok for f in _limited("fluxes", [0.01, -0.01, 0.3], 0.02, 0.1)] == [True, False]
    assert [f.ok for f in _limited("fluxes", [0.05, 0.06, 0.07], 0.02, 0.1)] == [False, True]
    assert [f.ok for f in _limited("fluxes", [0.01, -0.02], 0.02, 0.1)] == [True, True]
    assert [f.ok for f in _limited("fluxes", [], 0.02, 0.1)] == [False, False]


def test_night_refuses_folders_of_others(tmp_path: Path) -> None:
    """``contimg night --force /data`` would remove the telescope's files."""
    raw = tmp_path / "incoming" / "2026-01-01T00:00:00_sb00.hdf5"
    raw.parent.mkdir()
    raw.write_text("raw")
    with pytest.raises(ForeignFolderError, match="incoming"):
        asyncio.run(run_night(tmp_path, Console(quiet=True), NightOptions(), force=True))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [raw]


def test_a_short_night_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="9 groups"):
        asyncio.run(run_night(tmp_path, Console(quiet=True), NightOptions(groups=9)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("free", [[100, 40], [100, 100], [0, 100]])
def test_the_disk_is_kept_full_though_others_free_space(
    tmp_path: Path, free: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test run beside the night removed its folders, and the workers went on at once."""
    filler = tmp_path / "filler"
    filler.touch()
    for number in free:
        monkeypatch.setattr(type(LOCAL), "free_bytes", lambda *_, number=number: number)
        keep_full(filler, 30)
    assert filler.stat().st_size == sum(max(0, number - 30) for number in free)


def test_processes_of_a_killed_night_are_stopped(tmp_path: Path) -> None:
    """The telescope of one went on for a whole night, and the daemon without an end."""

    async def start() -> None:
        processes = Processes(tmp_path, ())
        await processes.start("telescope", "-c", "import time; time.sleep(60)")
        (tmp_path / "pid").write_text(str(processes.running["telescope"].pid))

    night = os.fork()
    if night == 0:
        asyncio.run(start())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(night, 0)
    pid, give_up = (tmp_path / "pid").read_text(), time.monotonic() + 10
    while _runs(pid):
        assert time.monotonic() < give_up
        time.sleep(0.02)


def _runs(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
