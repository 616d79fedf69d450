"""The text format of Prometheus from an overview of the site, and from figures of its stages.

Nothing is counted here. What was not measured has no sample, so that no rule takes it for 0. No
label holds the id of a task or group, and each has a bounded number of values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from typing_extensions import override

from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.core.errors import BackendError
from absurd_contimg.history.stage_figures import StageFigures, read_stage_figures
from absurd_contimg.operations.metrics.metric import Source
from absurd_contimg.operations.metrics.site_metrics import METRICS
from absurd_contimg.operations.overview import Site, SiteOverview, read_site
from absurd_contimg.whole_files import replaced_file

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the answer to a scrape."""


class _SiteCollector(Collector):
    """The metrics of one look at the site; `CollectorRegistry` asks it for each text."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @override
    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            yield metric.family(self._source)


def metrics_text(
    overview: SiteOverview,
    figures: StageFigures | None = None,
    alerts: Mapping[tuple[str, str], int] | None = None,
) -> str:
    """All metrics; stages are left out without `figures`.

    `alerts` is the number of raised alerts by rule and severity.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_SiteCollector(Source(overview, figures or StageFigures(), alerts or {})))
    return generate_latest(registry).decode()


async def read_metrics(site: Site, alerts: Mapping[tuple[str, str], int]) -> str:
    """All metrics of a site now, with its stages; never raises for what is away.

    What is counted over a time is counted over that of the alerts, so that both say the same.
    """
    config = AlertsConfig() if site.settings is None else site.settings.pipeline.alerts
    overview = await read_site(site, 60.0 * config.failed_window_minutes)
    figures = StageFigures()
    with suppress(BackendError):
        figures = await read_stage_figures(
            site.inspection, [queue.queue_name for queue in overview.queues]
        )
    return metrics_text(overview, figures, alerts)


def write_metrics(text: str, path: Path) -> None:
    """Write for a textfile collector: the file is there whole or as it was before.

    Raises `SettingError` if something else than such figures is there.
    """
    with replaced_file(path, "file of these figures", lambda head: b"contimg_" in head) as file:
        file.write(text.encode())
