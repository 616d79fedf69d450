"""The exporter: its text is read back by a parser, and says what the overview says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
import site_overviews as sites
from hypothesis import given, settings
from prometheus_client.parser import text_string_to_metric_families

from absurd_contimg.history.stage_figures import StageFigures
from absurd_contimg.operations.metrics import METRICS, metrics_text, write_metrics
from absurd_contimg.operations.metrics.metric import LABEL_VALUES_MAX, OTHER
from absurd_contimg.operations.overview import SiteOverview

FIGURES = StageFigures(
    {("image", "done"): [50.0, 300.0, 4000.0]},
    {("image", "done", ""): 3, ("image", "retry", "transient"): 2},
    {"dsa110-pipeline": [0.5, 2.0]},
)


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample by its name and labels; no sample is there twice."""
    known: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in known
            known[key] = sample.value
    return known


def value(text: str, name: str, /, **labels: str) -> float | None:
    return samples(text).get((name, frozenset(labels.items())))


def test_text_says_what_the_overview_says() -> None:
    text = metrics_text(sites.healthy(), FIGURES, {("disk-full", "critical"): 1})
    queue = {"queue": "dsa110-pipeline"}
    assert value(text, "contimg_tasks", **queue, state="completed") == 40
    assert value(text, "contimg_oldest_claimable_seconds", **queue) == 4.0
    assert value(text, "contimg_recent_latency_seconds", **queue, quantile="0.95") == 900.0
    assert value(text, "contimg_service_silent", kind="worker", name="h1:1", host="h1") == 0
    assert value(text, "contimg_worker_lease_seconds", name="h1:1") == 50.0
    assert value(text, "contimg_newest_file_age_seconds") == 100.0
    assert value(text, "contimg_image_noise_janskys") == 0.005
    assert value(text, "contimg_alerts_raised", rule="disk-full", severity="critical") == 1
    image = {"stage": "image", "outcome": "done"}
    buckets = [
        value(text, "contimg_stage_duration_seconds_bucket", **image, le=le)
        for le in ("30", "60", "300", "3600", "+Inf")
    ]
    assert buckets == [0, 1, 2, 2, 3]
    retried = {"stage": "image", "outcome": "retry", "kind": "transient"}
    assert value(text, "contimg_stage_starts", **retried) == 2


def test_what_was_not_measured_has_no_sample() -> None:
    """A zero in its place would clear an alert, or raise it."""
    disk = replace(sites.DISK, hours_to_full=None, free_bytes=None, used_share=math.nan)
    text = metrics_text(sites.healthy(disks=(disk,), data=None, images=()))
    missing = ("contimg_disk_f", "contimg_disk_used", "contimg_newest", "contimg_image")
    known = {name for name, _ in samples(text)}
    assert {name for name in known if name.startswith(missing)} == {
        "contimg_disk_free_inodes_ratio"
    }


def test_every_metric_has_a_help_a_unit_and_the_name_of_the_package() -> None:
    units = ("_seconds", "_bytes", "_ratio", "_janskys")
    for metric in METRICS:
        assert metric.name.startswith("contimg_")
        assert metric.help.endswith(".")
        assert "id" not in metric.labels
        assert metric.name.endswith(units) or not metric.durations
    assert len({metric.name for metric in METRICS}) == len(METRICS)


@given(site=sites.overviews())
@settings(max_examples=60, deadline=None)
def test_any_overview_gives_text_that_prometheus_reads(site: SiteOverview) -> None:
    known = samples(metrics_text(site, FIGURES))
    assert not any(math.isnan(each) for each in known.values())


def test_labels_are_bounded_and_hold_no_task() -> None:
    """A thousand kinds of errors by name become a hundred series and one for the others."""
    kinds = {f"Error{number}": 2 for number in range(1000)}
    tasks = tuple(replace(sites.STEP, task_id=uuid4()) for _ in range(50))
    site = sites.healthy(
        queues=(replace(sites.QUEUE, failures_by_kind=kinds),),
        services=tuple(replace(sites.WORKER, name=f"w{n}", running=tasks) for n in range(300)),
    )
    text = metrics_text(site)
    known = samples(text)
    failed = {k: v for k, v in known.items() if k[0] == "contimg_recent_failed_attempts"}
    assert len(failed) == LABEL_VALUES_MAX + 1
    assert sum(failed.values()) == 2000
    others = {"queue": OTHER, "kind": OTHER}
    assert value(text, "contimg_recent_failed_attempts", **others) == 1800
    assert sum(name == "contimg_service_silent" for name, _ in known) == LABEL_VALUES_MAX
    assert not any(str(step.task_id) in text for step in tasks)


def test_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "contimg.prom"
    write_metrics("contimg_a 1\n", target)
    with pytest.raises(UnicodeEncodeError):
        write_metrics("contimg_b \ud800\n", target)
    assert target.read_text() == "contimg_a 1\n"
    assert list(tmp_path.iterdir()) == [target]
