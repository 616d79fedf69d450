"""The report of a night: the right row turns for each defect, and the verdict says why."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from night_site import ANTENNAS, NIGHT, Defects, SyntheticNight

from absurd_contimg.operations.night_report import (
    Night,
    NightReport,
    read_report,
)
from absurd_contimg.registry.outages import Outage, store_outage

GOOD = Defects()
DAY = Night(date.fromisoformat(NIGHT))


async def made(root: Path, defects: Defects = GOOD, **options: Any) -> SyntheticNight:
    return await SyntheticNight(root, defects, **options).make()


async def report_of(night: SyntheticNight) -> NightReport:
    return await read_report(night.site, DAY, night.read_data)


def statuses(report: NightReport) -> dict[str, str]:
    return {row.key: row.status for row in report.rows}


def turned(report: NightReport) -> dict[str, str]:
    """The rows that are not as in a good night."""
    return {
        key: status
        for key, status in statuses(report).items()
        if status in ("warn", "fail")
        or (status == "not measured" and key not in ("mosaics", "variability", "data_age"))
    }


async def test_a_good_night_is_clean(tmp_path: Path) -> None:
    """Each row that data exist for is measured, with its figures, and an outage is named."""
    night, began = await made(tmp_path), DAY.begins_at + timedelta(hours=3)
    for at in (began, began - timedelta(days=1)):
        outage = Outage(at, at + timedelta(seconds=125), "worker-1", "The server was away.")
        store_outage(night.site.database, outage)
    report = await report_of(night)
    assert turned(report) == {}
    assert (report.verdict, report.reasons) == ("CLEAN", ())
    rows = {row.key: row for row in report.rows}
    (outage_line,) = (each for each in rows["operations"].details if "database" in each)
    assert outage_line == (
        f"{began:%Y-%m-%d} 03:00:00 UTC, worker-1: the database was away for 2 min: The server was "
        "away."
    )
    assert rows["noise"].number == pytest.approx(2.0, rel=0.1)
    assert rows["flux_scale"].number == pytest.approx(1.0, abs=0.01)
    assert rows["astrometry"].number == pytest.approx(0.0, abs=0.3)
    assert rows["source_completeness"].number == 100.0
    assert rows["coverage"].number == pytest.approx(99.9, abs=0.2)
    assert rows["latency"].number == pytest.approx(10.0 + 1.0, abs=0.2)
    assert rows["latency"].numbers["group_seconds"] == pytest.approx(309.0, abs=1.0)
    assert rows["solver_yield"].number == 100.0
    assert rows["uv_coverage"].number == 100.0
    assert dict(rows["flux_scale"].tasks) == night.tasks
    assert report.facts.unprocessed == ()


DEFECTS = {
    "flux scale": (Defects(flux_scale=1.3), {"flux_scale": "warn", "calibrator": "fail"}),
    "shifted image": (Defects(shift_px=1.5), {"astrometry": "warn"}),
    "antenna flagged": (Defects(flagged_antenna="DSA007"), {"flagged": "warn"}),
    "nothing flagged": (Defects(nothing_flagged=True), {"flagged": "fail"}),
    "noise times 4": (Defects(noise=4.0), {"noise": "fail"}),
    "missing sub-band": (Defects(missing_subbands=(5,)), {"subbands": "warn"}),
    "negative bowl": (Defects(bowl_jy=0.6), {"deepest_negative": "fail"}),
    "antennas dropped": (Defects(unsolved=ANTENNAS[:3]), {"solver_yield": "warn"}),
    "backlog": (Defects(late_seconds_a_group=100.0), {"latency": "warn"}),
    "failed group": (Defects(failed_group=1), {"processed": "warn", "operations": "warn"}),
}


@pytest.mark.parametrize("name", DEFECTS)
async def test_a_defect_turns_its_rows_and_no_other(tmp_path: Path, name: str) -> None:
    defects, expected = DEFECTS[name]
    night = await made(tmp_path, defects)
    # 2 mJy is the usual noise of these images.
    gates = night.site.config.night_report.model_copy(update={"expected_noise_jy": 0.002})
    config = night.site.config.model_copy(update={"night_report": gates})
    object.__setattr__(night.site, "config", config)
    report = await report_of(night)
    assert turned(report) == expected
    assert report.verdict == ("FAILED" if "fail" in expected.values() else "DEGRADED")
    assert len(report.reasons) == len(expected)
