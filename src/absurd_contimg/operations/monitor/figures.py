"""What the monitor shows of a site, as lines of sections: keys, values, and what they mean.

The guide's key metrics have the guide's names. Counts nothing: all is in the overview.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich.text import Text

from absurd_contimg.execution.disk_usage import size_text
from absurd_contimg.history.durations import duration_text
from absurd_contimg.operations.console import cut, one_line, printable_lines
from absurd_contimg.operations.overview import (
    DiskOverview,
    Health,
    QueueOverview,
    ServiceOverview,
    SiteOverview,
    WaitingTask,
)

_COLOURS: dict[Health, str] = {
    "ok": "green",
    "warning": "yellow",
    "failure": "bold red",
    "unknown": "magenta",
}
_MARKS: dict[Health, str] = {"ok": "●", "warning": "▲", "failure": "✗", "unknown": "?"}
_SEVERITY: Sequence[Health] = ("failure", "unknown", "warning", "ok")
_SENTENCE_LENGTH_MAX = 1000
_Part = TypeVar("_Part", ServiceOverview, DiskOverview)


@dataclass(frozen=True, slots=True)
class Section:
    """Some lines under a title: a key, which is never cut, and what is said of it."""

    title: str
    lines: Sequence[tuple[Text, Text]]
    is_main: bool = True
    """Shown in the first column of a wide screen."""


def key_metrics(overview: SiteOverview) -> list[tuple[str, Text]]:
    """The guide's key metrics, by the guide's names."""
    queues = overview.queues
    completed = sum(queue.completed_recently for queue in queues)
    failed = sum(queue.failed_recently for queue in queues)
    ended = completed + failed
    main = max(queues, key=lambda queue: queue.completed_recently, default=None)
    latency = Text("-", "dim")
    if main is not None and main.latency_seconds_p50 is not None:
        late = "" if main.latency_seconds_p95 is None else (
            f" (95 %: {duration_text(main.latency_seconds_p95)})"
        )  # fmt: skip
        latency = Text(duration_text(main.latency_seconds_p50) + late)
    fullest = max(
        (disk for disk in overview.disks if disk.used_share is not None),
        key=lambda disk: disk.used_share or 0.0,
        default=None,
    )
    utilisation = overview.worker_utilisation
    living = sum(
        service.kind == "worker" and service.state == "running" for service in overview.services
    )
    return [
        ("Task Queue Depth", number(sum(queue.depth for queue in queues)) if queues else _dash()),
        (
            "Task Success Rate",
            Text(f"{completed / ended:.0%} of {ended} in {_recent(queues)}") if ended else _dash(),
        ),
        (
            "Worker Utilization",
            _dash() if utilisation is None else Text(f"{utilisation:.0%} of {living}"),
        ),
        ("Processing Latency", latency),
        (
            "Disk Usage",
            _dash()
            if fullest is None
            else Text(f"{fullest.used_share:.0%} {fullest.role}", _COLOURS[fullest.health]),
        ),
    ]


def _recent(queues: Sequence[QueueOverview]) -> str:
    return duration_text(queues[0].recent_seconds).removesuffix(" 0 min")


def sections(overview: SiteOverview) -> list[Section]:
    """What is shown below the key metrics, in the order of reading."""
    return [
        Section(
            "problems", [(Text("!", "bold red"), sentence(each)) for each in overview.problems]
        ),
        Section("services and workers", list(map(_service, _worst_first(overview.services)))),
        Section("queues", [line for queue in overview.queues for line in _queue(queue)]),
        Section("data and failures", [*_data(overview), *_failures(overview)]),
        Section("groups, of those expected", _groups(overview)),
        Section("waiting", list(map(_waiting, overview.waiting)), is_main=False),
        Section("disks", list(map(_disk, _worst_first(overview.disks))), is_main=False),
    ]


def _worst_first(parts: Iterable[_Part]) -> list[_Part]:
    """What an operator has to see is above what may not fit."""
    return sorted(parts, key=lambda part: _SEVERITY.index(part.health))


def _service(service: ServiceOverview) -> tuple[Text, Text]:
    place = "" if service.host is None else f" on {service.host}"
    age = (
        "" if service.seen_seconds_ago is None else f"{duration_text(service.seen_seconds_ago)} ago"
    )
    key = Text.assemble(mark(service.health), " ", text(f"{service.kind} {service.name}"))
    state = "dead" if service.is_gone else service.state
    parts: list[Text] = [Text(state + place, _COLOURS[service.health]), Text(age, "dim")]
    for step in service.running:
        lease = step.lease_seconds_left
        left = "" if lease is None else f", lease {duration_text(lease)}" if lease > 0 else (
            f", lease over for {duration_text(-lease)}"
        )  # fmt: skip
        since = (
            ""
            if step.started_at is None
            else f" since {step.started_at:%H:%M:%S}"
        )  # fmt: skip
        work = f"{step.step or 'works'}" + (f" of {step.group}" if step.group else "")
        parts.append(text(f"{work}{since}{left}"))
    if service.problem:
        parts.insert(1, sentence(service.problem.rstrip(".")))
    elif service.activity and not service.running and service.state != "stopped":
        parts.append(text(service.activity))
    return key, _joined(parts)


def _queue(queue: QueueOverview) -> Iterator[tuple[Text, Text]]:
    states, superseded = queue.tasks_by_state, queue.superseded_recently
    parts = [
        Text.assemble(number(states.get(name, 0)), f" {name}")
        for name in ("pending", "running", "sleeping")
    ]
    parts.append(
        Text.assemble(
            number(queue.completed_recently), " done, ",
            number(queue.failed_recently), f" failed in {_recent([queue])}",
            f" and {superseded} with a later task" if superseded else "",
        )
    )  # fmt: skip
    if queue.oldest_claimable_seconds is not None:
        parts.append(Text(f"{queue.claimable} ready for {_finite(queue.oldest_claimable_seconds)}"))
    if queue.expired_leases:
        parts.append(Text(f"{queue.expired_leases} leases over", "yellow"))
    if queue.pause is not None:
        parts.append(text(queue.pause, "yellow"))
    yield text(queue.queue_name, "bold"), _joined(parts)
    for problem in queue.problems:
        yield Text("!", "bold red"), text(problem)


def _finite(seconds: float) -> str:
    return duration_text(seconds) if seconds < 1e12 else "ever"


def _data(overview: SiteOverview) -> Iterator[tuple[Text, Text]]:
    data = overview.data
    if data is None:
        return
    ages = (
        ("file", data.newest_file_seconds_ago, data.newest_group or ""),
        ("image", data.newest_image_seconds_ago, ""),
        ("mosaic", data.newest_mosaic_seconds_ago, ""),
    )
    parts = [
        text(f"{name} {duration_text(seconds)} ago" + (f" ({group})" if group else ""))
        for name, seconds, group in ages
        if seconds is not None
    ]
    parts.append(Text.assemble(number(data.subbands_missing), " sub-bands missing in 24 h"))
    yield Text("newest"), _joined(parts)
    states = [
        Text.assemble(number(count), " ", text(state))
        for state, count in sorted(data.groups_by_state.items())
    ]
    if states:
        yield Text("groups"), _joined(states)


def _groups(overview: SiteOverview) -> list[tuple[Text, Text]]:
    return [
        (
            text(group.name),
            _joined(
                [
                    Text(
                        f"{group.present} of {group.expected}",
                        "" if group.present >= group.expected else "yellow",
                    ),
                    text(group.state),
                    text(group.waits_for),
                ]
            ),
        )
        for group in overview.groups
    ]


def _waiting(task: WaitingTask) -> tuple[Text, Text]:
    key = task.group or f"{task.task_name} {str(task.task_id)[-12:]}"
    advice = f". {task.advice}" if task.advice else ""
    return text(key), Text.assemble(text(task.why), text(advice, "dim"))


def _failures(overview: SiteOverview) -> Iterator[tuple[Text, Text]]:
    kinds: dict[str, int] = {}
    for queue in overview.queues:
        for kind, count in queue.failures_by_kind.items():
            kinds[kind] = kinds.get(kind, 0) + count
    parts = [
        Text.assemble(number(count), " ", text(kind))
        for kind, count in sorted(kinds.items(), key=lambda item: -item[1])
    ]
    if parts:
        yield Text("failed attempts"), _joined([*parts, Text(f"in {_recent(overview.queues)}")])
    for queue in overview.queues:
        if queue.last_failed is not None:
            command = f"contimg --queue {queue.queue_name} history {queue.last_failed}"
            yield Text("last failed task", "red"), text(f"why, and what to do: {command}")


def _disk(disk: DiskOverview) -> tuple[Text, Text]:
    key = Text.assemble(mark(disk.health), " ", text(f"{disk.role} {disk.folder}"))
    parts = [text(disk.host)]
    if disk.used_share is not None and disk.free_bytes is not None:
        parts.append(Text(f"{disk.used_share:.0%} used", _COLOURS[disk.health]))
        parts.append(Text(f"{size_text(disk.free_bytes)} free"))
    if disk.hours_to_full is not None:
        parts.append(Text(f"full in {disk.hours_to_full:.1f} h", _COLOURS[disk.health]))
    if disk.measured_seconds_ago is not None:
        parts.append(Text(f"{duration_text(disk.measured_seconds_ago)} ago", "dim"))
    if disk.health == "unknown":
        parts.append(text(disk.problem))
    return key, _joined(parts)


def mark(health: Health) -> tuple[str, str]:
    """A character and its colour."""
    return _MARKS[health], _COLOURS[health]


def number(value: int) -> Text:
    """A count; nothing is dimmed, so that what is there stands out."""
    return Text(f"{value:,}", "" if value else "dim")


def text(value: object, style: str = "") -> Text:
    """Text from outside, shown harmlessly."""
    return Text(one_line(value), style)


def sentence(value: object) -> Text:
    """A problem with its remedy, which comes last: it is not cut as a name is, and keeps its lines,
    as those of a log."""
    lines = cut(printable_lines(str(value)).strip(), _SENTENCE_LENGTH_MAX).split("\n")
    return Text("\n".join(line.rstrip() for line in lines if line.strip()))


def _dash() -> Text:
    return Text("-", "dim")


def _joined(parts: Sequence[Text]) -> Text:
    return Text(", ").join([part for part in parts if part.plain])
