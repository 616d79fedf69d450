"""The processes of a site: what they say of themselves, joined with the leases that they hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from absurd_contimg.core.records import INFINITY, History, Run
from absurd_contimg.history.durations import duration_text
from absurd_contimg.history.timeline import group_in, step_starts
from absurd_contimg.history.wait_explanation import WorkerFact
from absurd_contimg.operations.overview.records import Health, RunningStep, ServiceOverview
from absurd_contimg.operations.services import given_worker_id
from absurd_contimg.registry.service_records import CLOCK_OFFSET_SECONDS_MAX, ServiceRecord

FORGOTTEN_HOURS = 24.0
"""A process that was not heard of for so long, and holds nothing, is gone for good: no warning."""


@dataclass(frozen=True, slots=True)
class RunningTask:
    """A run that a worker holds, with its history."""

    run: Run
    history: History

    def step(self, now: datetime) -> RunningStep:
        """What its worker does for it."""
        starts = step_starts(self.history)
        current = starts[-1] if starts and starts[-1].outcome == "running" else None
        ends = self.run.claim_expires_at
        return RunningStep(
            task_id=self.run.task_id,
            queue_name=self.history.queue_name,
            group=group_in(self.history.task.params),
            step=None if current is None else current.step,
            started_at=self.run.started_at if current is None else current.started_at,
            lease_seconds_left=None
            if ends is None or ends == INFINITY
            else (ends - now).total_seconds(),
        )


def read_services(
    records: Sequence[ServiceRecord],
    running: Sequence[RunningTask],
    now: datetime,
    gone: Collection[ServiceRecord] = (),
) -> list[ServiceOverview]:
    """All processes, by kind and name. A worker may be known only from a lease that it holds.

    Those of `gone` are known to have died. One that was not heard of for `FORGOTTEN_HOURS` and
    holds no lease is left out, but for the last daemon: without any, nothing new is processed.
    """
    leases: dict[str, list[RunningStep]] = {}
    for task in running:
        leases.setdefault(task.run.claimed_by or "", []).append(task.step(now))
    services = []
    for record in records:
        names = [record.name] if record.kind == "worker" else []
        held = [step for name in _claim_names(names, leases) for step in leases.pop(name)]
        if held or not _is_forgotten(record, records, now):
            services.append(_of_record(record, held, now, is_gone=record in gone))
    services += [_of_leases(name, held) for name, held in leases.items()]
    return sorted(services, key=lambda service: (service.kind, service.name))


def _is_forgotten(record: ServiceRecord, records: Sequence[ServiceRecord], now: datetime) -> bool:
    if now.timestamp() - record.seen_at < 3600.0 * FORGOTTEN_HOURS:
        return False
    return record.kind != "daemon" or any(
        other.kind == "daemon" and other.seen_at > record.seen_at for other in records
    )


def _claim_names(names: Sequence[str], leases: Mapping[str, object]) -> list[str]:
    """Under which names the worker of a record claims: its own, or with that of its folder."""
    return [held for held in leases if held in names or given_worker_id(held) in names]


def _of_record(
    record: ServiceRecord, held: Sequence[RunningStep], now: datetime, *, is_gone: bool
) -> ServiceOverview:
    seconds = max(now.timestamp() - record.seen_at, 0.0)
    is_silent = is_gone or record.is_silent(now.timestamp())
    stopped = record.stopped_at is not None
    state: Literal["running", "silent", "stopped"] = (
        "stopped" if stopped else "silent" if is_silent else "running"
    )
    if is_gone:
        health, problem = _judge_gone(record, held)
    else:
        health, problem = _judge(record, state, held, seconds)
    return ServiceOverview(
        kind=record.kind.value,
        name=record.name,
        host=record.host,
        state=state,
        health=health,
        problem=problem,
        seen_seconds_ago=seconds,
        started_at=datetime.fromtimestamp(record.started_at, UTC),
        activity=record.activity,
        running=tuple(held),
        memory_bytes=record.memory_bytes,
        clock_offset_seconds=record.clock_offset_seconds,
        version=record.version,
        is_gone=is_gone,
    )


def _judge_gone(record: ServiceRecord, held: Sequence[RunningStep]) -> tuple[Health, str]:
    command, unit = f"contimg {record.kind}", f"dsa110-contimg-{record.kind}"
    if record.kind == "worker":
        name = given_worker_id(record.name) or record.name
        command, unit = f"contimg worker --worker-id {name}", "dsa110-absurd-worker@*"
    elif record.kind == "daemon":
        unit = "dsa110-mosaic-daemon"
    text = (
        f"The {record.kind} {record.name} on {record.host} is dead: its process {record.pid} is "
        f"gone. Start it again: {command} (as a service: systemctl restart '{unit}')."
    )
    if held:
        text += " Another worker takes up what it ran when its lease is over."
    return "failure" if record.kind == "daemon" or held else "warning", text + _end_of_warning(
        record
    )


def _end_of_warning(record: ServiceRecord) -> str:
    """How the warning ends if the process is not to come back; of the daemon it does not."""
    if record.kind == "daemon":
        return ""
    return (
        f" If it is gone for good: this ends {FORGOTTEN_HOURS:g} h after its last sign, or when "
        "one starts under its name."
    )


def _judge(
    record: ServiceRecord, state: str, held: Sequence[RunningStep], seconds: float
) -> tuple[Health, str]:
    name = f"The {record.kind} {record.name} on {record.host}"
    if state == "stopped":
        if not held:
            return "ok", ""
        tasks = ", ".join(str(step.task_id) for step in held[:3])
        return "failure", (
            f"{name} has stopped and left the lease of {tasks}: the next poll of a worker takes it "
            "up when the lease is over. Start a worker if none lives."
        )
    if state == "silent":
        # A daemon spawns all new work; the leases of a worker are taken up by others.
        health: Health = "failure" if record.kind == "daemon" or held else "warning"
        return health, (
            f"{name} was not heard of for {duration_text(seconds)} and did not say that it ends: "
            "look at the host's power, network and clock, then at its process (systemctl status)."
            + _end_of_warning(record)
        )
    if abs(record.clock_offset_seconds) > CLOCK_OFFSET_SECONDS_MAX:
        side = "ahead of" if record.clock_offset_seconds > 0 else "behind"
        return "warning", (
            f"The clock of host {record.host} is {abs(record.clock_offset_seconds):.0f} s {side} "
            "the database's: start its time service (systemctl status systemd-timesyncd)."
        )
    return ("warning", record.problem) if record.problem else ("ok", "")


def _of_leases(name: str, held: Sequence[RunningStep]) -> ServiceOverview:
    """A worker that no record names: of an earlier version, or of another client."""
    is_over = all(
        step.lease_seconds_left is not None and step.lease_seconds_left <= 0 for step in held
    )
    problem = (
        f"The worker {name or 'without a name'} holds a lease that is over: it is dead or cut "
        "off. The next poll of any worker takes its task up; start one if none lives."
        if is_over
        else ""
    )
    return ServiceOverview(
        kind="worker",
        name=name,
        host=None,
        state="silent" if is_over else "running",
        health="failure" if is_over else "ok",
        problem=problem,
        seen_seconds_ago=None,
        started_at=None,
        activity="",
        running=tuple(held),
        memory_bytes=None,
        clock_offset_seconds=None,
        version=None,
    )


def worker_facts(
    records: Sequence[ServiceRecord], services: Sequence[ServiceOverview]
) -> list[WorkerFact]:
    """The workers that have not stopped, as `history.explain_wait` sees them.

    One that holds leases is named as in them.
    """
    queues = {
        (record.name, record.host): frozenset(filter(None, record.queues.split(",")))
        for record in records
    }
    return [
        WorkerFact(
            service.name,
            service.host,
            queues.get((service.name, service.host or "")) or None,
            service.seen_seconds_ago or 0.0 if service.state == "silent" else None,
            service.problem if service.state == "running" and _closed(service, records) else "",
            len(service.running),
            is_dead=service.is_gone,
        )
        for service in services
        if service.kind == "worker" and service.state != "stopped"
    ]


def _closed(service: ServiceOverview, records: Sequence[ServiceRecord]) -> bool:
    """Whether the worker itself says that it does not do its work."""
    return any(
        record.problem and (record.name, record.host) == (service.name, service.host)
        for record in records
    )
