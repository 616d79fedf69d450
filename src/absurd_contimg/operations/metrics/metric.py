"""One metric: name, meaning, labels, and how its values become samples of bounded number."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as Family

from absurd_contimg.history.stage_figures import StageFigures
from absurd_contimg.operations.overview import SiteOverview

LABEL_VALUES_MAX = 100
"""Of one label of one metric; the others are added up as `OTHER`, or left out where no sum is."""

OTHER = "other"

Labels = tuple[str, ...]
Samples = Iterable[tuple[Labels, float | None]]


@dataclass(frozen=True, slots=True)
class Source:
    """What metrics are made of."""

    overview: SiteOverview
    figures: StageFigures
    alerts: Mapping[tuple[str, str], int]
    """The number of raised alerts by rule and severity."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name with its unit, what it means, its labels, and where its values are."""

    name: str
    help: str
    labels: Labels
    samples: Callable[[Source], Samples] | None = None
    durations: Callable[[Source], Mapping[Labels, Sequence[float]]] | None = None
    """Instead of `samples`: a histogram of the newest tasks, whose counts may also go down."""
    buckets: Sequence[float] = ()
    adds_up: bool = False
    """Whether values of labels that are too many are added up as `OTHER`."""

    def family(self, source: Source) -> Family:
        """The metric with its values."""
        if self.durations is not None:
            histogram = GaugeHistogramMetricFamily(self.name, self.help, labels=self.labels)
            for labels, seconds in _bounded_durations(self.durations(source)):
                histogram.add_metric(labels, _cumulative(seconds, self.buckets), sum(seconds))
            return histogram
        gauge = GaugeMetricFamily(self.name, self.help, labels=self.labels)
        known = self.samples(source) if self.samples is not None else ()
        for labels, value in _bounded(known, len(self.labels), adds_up=self.adds_up):
            gauge.add_metric(labels, value)
        return gauge


def _bounded(samples: Samples, count: int, *, adds_up: bool) -> Iterator[tuple[Labels, float]]:
    """The measured samples, at most `LABEL_VALUES_MAX`, each labels once."""
    kept: dict[Labels, float] = {}
    for labels, value in samples:
        if value is None or math.isnan(value):
            continue
        key = tuple(map(_text, labels))
        if key not in kept and len(kept) >= LABEL_VALUES_MAX:
            if not adds_up:
                continue
            key = (OTHER,) * count
        kept[key] = kept.get(key, 0.0) + value if adds_up else value
    yield from kept.items()


def _bounded_durations(
    durations: Mapping[Labels, Sequence[float]],
) -> Iterator[tuple[Labels, Sequence[float]]]:
    for number, (labels, seconds) in enumerate(durations.items()):
        if number < LABEL_VALUES_MAX:
            yield tuple(map(_text, labels)), seconds


def _cumulative(seconds: Sequence[float], bounds: Sequence[float]) -> list[tuple[str, float]]:
    """The counts of ascending durations up to each bound."""
    counts = [(f"{bound:g}", float(bisect_right(seconds, bound))) for bound in bounds]
    return [*counts, ("+Inf", float(len(seconds)))]


def _text(label: str) -> str:
    """A label's value that can be encoded, of bounded length."""
    return label.encode(errors="replace").decode()[:200]
