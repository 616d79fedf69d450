"""Overview (monitor), metrics, night report and audit tell the same of one night, by number."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from night_site import NIGHT, QUEUE, Defects, SyntheticNight
from prometheus_client.parser import text_string_to_metric_families

from absurd_contimg.history.metrics import measure
from absurd_contimg.history.summary import read_histories
from absurd_contimg.operations.metrics import metrics_text
from absurd_contimg.operations.night_report import parse_night, read_report
from absurd_contimg.operations.night_report.stored import to_json
from absurd_contimg.operations.overview import SiteOverview, read_site
from absurd_contimg.registry.disk_samples import DiskSample, store_samples
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.ingestion_records import FileSighting

WAITING = ("2025-01-15T10:40:00", "2025-01-15T10:45:00", "2025-01-15T10:50:00")


async def night_at_work(root: Path) -> SyntheticNight:
    """Two groups imaged, one failed, one running, one waiting, one ready, one collecting."""
    night = await SyntheticNight(root, Defects(failed_group=2), n_groups=3).make()
    tables = IngestionTables(night.registry.database)
    newest = [FileSighting(root / f"2025-01-15T11:00:00_sb{n:02d}.hdf5", 10, 5) for n in range(9)]
    tables.enter_files(newest, (night.now - timedelta(minutes=40)).timestamp(), 60)
    for group in WAITING:
        night._enter_files(group)
        await night.backend.spawn_task(QUEUE, "pipeline", {"group_id": group})
    claimed = await night.backend.claim_task(QUEUE, "worker-1", 600, 2)
    first = claimed[0]
    event = f"calibration.available:{WAITING[0]}"
    await night.backend.await_event(QUEUE, first.task_id, first.run_id, "wait", event, 3600)
    samples = [
        DiskSample("dsa-2", "/data", night.now.timestamp() - 600 * age, 1e12 + 5e10 * age, 2e12)
        for age in range(12)
    ]
    store_samples(night.registry.database, samples)
    return night


def samples_of(overview: SiteOverview) -> dict[str, dict[frozenset[str], float]]:
    """The metrics as Prometheus reads them: by name, then by what the labels say."""
    read: dict[str, dict[frozenset[str], float]] = {}
    for family in text_string_to_metric_families(metrics_text(overview)):
        for sample in family.samples:
            labels = frozenset(sample.labels.values())
            read.setdefault(sample.name, {})[labels] = sample.value
    return read


async def test_overview_metrics_night_report_and_audit_agree(tmp_path: Path) -> None:
    night = await night_at_work(tmp_path)
    overview = await read_site(night.site.watched)
    metrics = samples_of(overview)
    read = await read_report(
        night.site, parse_night("last", night.registry.database), night.read_data
    )
    report: dict[str, Any] = json.loads(json.dumps(to_json(read)))
    audited = await read_histories(night.backend, QUEUE)
    figures = measure(audited)
    (queue,) = overview.queues
    assert report["night"] == NIGHT

    went = report["operations"]
    assert went["tasks_by_state"] == figures.tasks_by_state == dict(queue.tasks_by_state)
    assert (went["tasks_by_state"]) == {
        "completed": 2,
        "failed": 1,
        "pending": 1,
        "running": 1,
        "sleeping": 1,
    }
    assert sum(went["tasks_by_state"].values()) == len(audited)
    for state, number in went["tasks_by_state"].items():
        assert metrics["contimg_tasks"][frozenset({QUEUE, state})] == number
    assert went["failures_by_kind"] == figures.failures_by_kind == dict(queue.failures_by_kind)
    for kind, number in went["failures_by_kind"].items():
        assert metrics["contimg_recent_failed_attempts"][frozenset({QUEUE, kind})] == number

    assert overview.data is not None
    assert report["groups_by_state"] == dict(overview.data.groups_by_state)
    assert report["groups_by_state"] == {"collecting": 4, "done": 2, "failed": 1}
    for state, number in report["groups_by_state"].items():
        assert metrics["contimg_groups"][frozenset({state})] == number

    rows = {row["key"]: row for row in report["rows"]}
    (age,) = metrics["contimg_newest_file_age_seconds"].values()
    assert rows["data_age"]["number"] * 3600.0 == pytest.approx(age) == pytest.approx(2400.0)
    assert overview.data.newest_file_seconds_ago == pytest.approx(age)
    (seconds,) = metrics["contimg_disk_full_in_seconds"].values()
    assert went["hours_to_full"] * 3600.0 == pytest.approx(seconds)
    assert went["hours_to_full"] == min(d.hours_to_full or 1e9 for d in overview.disks)

    why = {item["task_id"]: item["why"] for item in report["unprocessed"]}
    assert len(overview.waiting) == 2
    for task in overview.waiting:
        assert why[str(task.task_id)] == task.why
    newest = report["groups"][1]
    assert overview.images[0].group == newest["group_id"]
    # The validation writes its figures rounded.
    assert overview.images[0].noise_jy == pytest.approx(newest["stage_noise_jy"], rel=1e-4)
    assert overview.images[0].flagged_share == newest["flagged_calibrated"]
    (noise,) = metrics["contimg_image_noise_janskys"].values()
    assert noise == overview.images[0].noise_jy
