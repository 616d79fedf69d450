"""The figures of a site in the text format of Prometheus."""

from absurd_contimg.operations.metrics.exporter import (
    CONTENT_TYPE,
    metrics_text,
    read_metrics,
    write_metrics,
)
from absurd_contimg.operations.metrics.metric import Metric
from absurd_contimg.operations.metrics.site_metrics import METRICS

__all__ = ["CONTENT_TYPE", "METRICS", "Metric", "metrics_text", "read_metrics", "write_metrics"]
