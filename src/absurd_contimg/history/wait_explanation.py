"""Why a task that has not ended does nothing now, or what it does: one sentence for every task.

`wait_reason` tells what the history says. Here it is joined with what is known of the site, which
others read: who works, what is paused, who holds the slots. No registry and no disk is known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

from absurd_contimg.core.failures import FailureKind, action_of
from absurd_contimg.core.records import INFINITY, LIVE_STATES, TERMINAL_STATES, History, Run
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.core.task_queries import LEASE_EXPIRED
from absurd_contimg.history.durations import duration_text
from absurd_contimg.history.failures import failed_runs, reason_of
from absurd_contimg.history.stage_tasks import stage_task_ids
from absurd_contimg.history.timeline import group_of, step_starts
from absurd_contimg.history.wait_reason import CALIBRATION_EVENT, WaitReason, find_wait_reason

_PAST = datetime.min.replace(tzinfo=UTC)


WITHOUT_REGISTRY = "Workers that cannot ask the registry either claim nothing"


@dataclass(frozen=True, slots=True)
class WorkerFact:
    """A worker as far as it concerns those who wait for one."""

    name: str
    host: str | None = None
    queues: frozenset[str] | None = None
    """Those that it serves; None: all."""
    silent_seconds: float | None = None
    """Since it was heard of, if that is too long ago."""
    problem: str = ""
    """Why it claims nothing, such as a full disk; empty if it does."""
    tasks: int = 0
    """How many it runs."""
    is_dead: bool = False
    """Its process is known to be gone."""

    def serves(self, queue_name: str) -> bool:
        """Whether it claims from this queue."""
        return self.queues is None or queue_name in self.queues

    def __str__(self) -> str:
        return self.name if self.host is None else f"{self.name} on {self.host}"


@dataclass(frozen=True, slots=True)
class CalibrationProspect:
    """What a group that waits for a calibration can hope for."""

    sentence: str
    """``it may come from GROUP``, or which group has failed to bring it, and why."""
    advice: str | None = None
    """What to do where nothing under way can bring it."""


@dataclass(frozen=True, slots=True)
class WaitContext:
    """What is known of a site at a moment beside the histories of its tasks."""

    now: datetime
    """The database's clock."""
    workers: Sequence[WorkerFact] | None = None
    """Living and silent ones; None where nobody can see them."""
    pauses: Mapping[str, str] = field(default_factory=dict)
    """By queue, who has paused it since when and why."""
    blocked: Mapping[str, str] = field(default_factory=dict)
    """By queue, the task that makes every claim fail, and what to do."""
    registry_problem: str = ""
    """Why it could not be asked from here; it is not known whether workers can ask it."""
    slot_waits: Mapping[str, str] = field(default_factory=dict)
    """By ``STEP of GROUP``: for which resource it waits for a slot, and who holds them."""
    calibrations: Mapping[str, CalibrationProspect] = field(default_factory=dict)
    """By group, of those that wait for a calibration."""
    calibration_reach_hours: float | None = None
    """How near in time a calibration has to be; None where the site's settings are not known."""
    stage_tasks: Mapping[UUID, str] = field(default_factory=dict)
    """By task, what it does: for those who wait for it."""
    policy: RetryPolicy = field(default_factory=RetryPolicy)


@dataclass(frozen=True, slots=True)
class WaitExplanation:
    """Why a task does nothing now, or what it does."""

    sentence: str
    """For people, about the task: ``waits 43 s more (until 03:12:10 UTC), then tries again``."""
    fact: str
    """Which kind of fact decides: ``running``, ``silent-worker``, ``event``, ``retry``, ``time``,
    ``resource``, ``paused``, ``registry``, ``blocked``, ``no-worker``, ``disk``, ``busy``,
    ``claimable`` or ``stuck``."""
    until: datetime | None
    """When that changes by itself; None: nobody knows, or never."""
    advice: str | None = None
    """What to do; None: nothing needs to be done."""


def explain_wait(history: History, context: WaitContext) -> WaitExplanation | None:
    """Why the task does nothing now, or what it does; None of a task that has ended."""
    if history.task.state in TERMINAL_STATES:
        return None
    explanation = _explain(history, context)
    return replace(explanation, sentence=explanation.sentence.rstrip("."))


def _explain(history: History, context: WaitContext) -> WaitExplanation:
    run = next((run for run in history.runs if run.state in LIVE_STATES), None)
    if run is None:
        return _stuck(history, "no run of it can be claimed")
    if run.state == "running":
        return _explain_running(history, run, context)
    return _explain_waiting(history, run, cast(WaitReason, find_wait_reason(history)), context)


def _explain_waiting(
    history: History, run: Run, reason: WaitReason, context: WaitContext
) -> WaitExplanation:
    if reason.cause == "event":
        return _explain_event(history, reason, context)
    if run.available_at == INFINITY:
        return _stuck(history, "it sleeps without an end and waits for no event")
    if run.available_at > context.now:
        return _explain_delay(history, run, reason, context)
    return _explain_claimable(history, run, reason, context)


def _stuck(history: History, text: str) -> WaitExplanation:
    task_id = history.task.task_id
    return WaitExplanation(
        f"cannot go on by itself: {text}",
        "stuck",
        None,
        f"contimg history {task_id}, then: contimg cancel {task_id}",
    )


def _explain_running(history: History, run: Run, context: WaitContext) -> WaitExplanation:
    name = run.claimed_by or "a worker without a name"
    worker = _worker(name, context)
    place = str(worker) if worker is not None else name
    starts = step_starts(history)
    current = starts[-1] if starts and starts[-1].outcome == "running" else None
    since = run.started_at if current is None else current.started_at
    step = "works outside of tracked steps" if current is None else f"runs {current.step}"
    doing = f"{step} on {place}{_since(since, context.now)}"
    ends = run.claim_expires_at
    if ends is None or ends == INFINITY:
        advice = f"contimg history {history.task.task_id}, then: contimg cancel " + str(
            history.task.task_id
        )
        return WaitExplanation(f"{doing}; its lease has no end", "stuck", None, advice)
    left = (ends - context.now).total_seconds()
    if left <= 0:
        return WaitExplanation(
            f"{doing}, which has not renewed its lease: it ended {duration_text(-left)} ago; "
            + _next_poll(history.queue_name, context),
            "silent-worker",
            None,
            _start_advice(history.queue_name, context),
        )
    if worker is not None and worker.silent_seconds is not None:
        if worker.is_dead:
            return WaitExplanation(
                f"{doing}, whose process is gone; its lease ends in {duration_text(left)}, then "
                + _next_poll(history.queue_name, context),
                "silent-worker",
                ends,
                _start_advice(history.queue_name, context),
            )
        return WaitExplanation(
            f"{doing}, which was not heard of for {duration_text(worker.silent_seconds)}; if it is "
            f"dead, its lease ends in {duration_text(left)} and another worker goes on",
            "silent-worker",
            ends,
            f"Look at the host of worker {name}: its power, its network, its clock.",
        )
    work = "" if current is None else f"{current.step} of {group_of(history)}"
    if (slots := context.slot_waits.get(work)) is not None:
        return WaitExplanation(f"{doing}; {slots}; lease {duration_text(left)}", "resource", None)
    return WaitExplanation(f"{doing}, lease {duration_text(left)} left", "running", ends)


def _explain_event(history: History, reason: WaitReason, context: WaitContext) -> WaitExplanation:
    ends = reason.until
    what = _event(history, str(reason.event), context)
    if ends is None or ends >= INFINITY:
        return WaitExplanation(f"waits for {what}, without a deadline", "event", None)
    if ends <= context.now:
        return _after_wait(history, f"has waited long enough for {what}", context)
    text = f"waits for {what}, {_remaining(ends, context.now)} at most"
    prospect = context.calibrations.get(awaited_calibration(history) or "")
    if prospect is None:
        return WaitExplanation(text, "event", ends)
    return WaitExplanation(f"{text}: {prospect.sentence}", "event", ends, prospect.advice)


def awaited_calibration(history: History) -> str | None:
    """The group whose calibration the task waits for; None if it does not."""
    for wait in history.waits:
        name, _, group = wait.event_name.partition(":")
        if name == CALIBRATION_EVENT:
            return group
    return None


def _event(history: History, event: str, context: WaitContext) -> str:
    name, _, group = event.partition(":")
    if name == CALIBRATION_EVENT:
        hours = context.calibration_reach_hours
        reach = "" if hours is None else f" within {hours:g} h"
        return f"a calibration of its strip{reach}"
    if name.endswith(".ended") and group:
        stage = name.removesuffix(".ended")
        states = [
            context.stage_tasks[task_id]
            for task_id in stage_task_ids(history).values()
            if task_id in context.stage_tasks
        ]
        return f"its stage task {stage}" + (f", which {states[-1]}" if states else "")
    if name == "mosaic.published":
        return f"the publication of mosaic {group}"
    return f"event {event!r}"


def _explain_delay(
    history: History, run: Run, reason: WaitReason, context: WaitContext
) -> WaitExplanation:
    """It may be claimed only later: after a failure, for a resource, as its handler asked."""
    due, remaining = run.available_at, _remaining(run.available_at, context.now)
    step = f"{reason.step}: " if reason.step else ""
    if reason.cause == "resource":
        path = "" if reason.path is None else f", {reason.path}"
        return WaitExplanation(
            f"{step}waits {remaining}, then tries again: {reason.kind} ({reason.rule}){path}",
            "resource",
            due,
            reason.advice,
        )
    failure = _last_failure(history)
    if run.started_at is None and failure:
        return WaitExplanation(
            f"{step}waits {remaining}, then tries again: {_attempt(history, run, context.policy)} "
            f"after {failure}",
            "retry",
            due,
            reason.advice,
        )
    if run.started_at is None:
        return WaitExplanation(f"is not due before {remaining}", "time", due)
    if reason.cause == "handler":
        name = history.task.task_name
        return WaitExplanation(
            f"waits {remaining}, then is offered again: a worker without a handler for {name!r} "
            "has left it to others",
            "no-worker",
            due,
            f"Start a worker of queue {history.queue_name} that has a handler for {name!r}; if the "
            f"name is wrong: contimg --queue {history.queue_name} cancel {history.task.task_id}",
        )
    return WaitExplanation(f"sleeps {remaining}, as its handler asked", "time", due)


def _last_failure(history: History) -> str:
    """Kind and rule, or the name of the last failure; empty without any."""
    last = next(reversed(failed_runs(history)), None)
    if last is None:
        return ""
    if last.name == LEASE_EXPIRED:
        return "the end of its lease"
    if last.kind in (None, FailureKind.UNKNOWN.value):
        return f"{last.name or 'a failure'}, which no rule knows"
    return last.kind if last.rule is None else f"{last.kind} ({last.rule})"


def _attempt(history: History, run: Run, policy: RetryPolicy) -> str:
    """``attempt 2 of 3``, of the step where the worker counts by step, else of the task."""
    reasons = [reason_of(each) for each in history.runs if each.failure_reason is not None]
    last = reasons[-1]
    verdicts = [place for place, reason in enumerate(reasons) if action_of(reason) == "failed"]
    if not verdicts and history.task.max_attempts is not None:
        return f"attempt {run.attempt} of {history.task.max_attempts}"
    if last.get("kind") not in {kind.value for kind in FailureKind} or action_of(last) is None:
        return f"attempt {run.attempt}"
    later = reasons[verdicts[-1] + 1 :] if verdicts else reasons
    same = sum(
        (reason.get("step"), reason.get("kind")) == (last.get("step"), last["kind"])
        for reason in later
    )
    limit = policy.attempts(FailureKind(last["kind"]))
    return f"attempt {min(same + 1, limit)} of {limit}"


def _explain_claimable(
    history: History, run: Run, reason: WaitReason, context: WaitContext
) -> WaitExplanation:
    if run.started_at is not None and reason.cause == "worker":
        return _after_wait(history, "was released when its worker stopped", context)
    failure = _last_failure(history)
    seconds = (context.now - max(run.available_at, run.created_at)).total_seconds()
    ready = f"has been ready for {duration_text(seconds)}" if seconds >= 1.0 else "is ready"
    if run.started_at is not None:
        ready += " after its wait"
    elif failure:
        ready += f" to be tried again after {failure}"
    return _after_wait(history, ready, context)


def _after_wait(history: History, begin: str, context: WaitContext) -> WaitExplanation:
    """It can be claimed: what keeps all workers from it, or who will."""
    queue = history.queue_name
    if queue in context.blocked:
        text = f"{begin}, but nothing on its queue can be claimed: {context.blocked[queue]}"
        return WaitExplanation(text, "blocked", None, context.blocked[queue])
    if queue in context.pauses:
        advice = f"To go on: contimg queue resume {queue}"
        return WaitExplanation(f"{begin}, but {context.pauses[queue]}", "paused", None, advice)
    if context.registry_problem:
        reason = context.registry_problem
        text = f"{begin}, but the registry could not be asked what keeps workers from it: {reason}"
        return WaitExplanation(text, "registry", None, WITHOUT_REGISTRY)
    if context.workers is None:
        return WaitExplanation(f"{begin} and waits for a worker", "claimable", None)
    serving = [worker for worker in context.workers if worker.serves(queue)]
    return _explain_by_workers(queue, begin, serving, _start_advice(queue, context))


def _explain_by_workers(
    queue: str, begin: str, serving: Sequence[WorkerFact], start_advice: str | None
) -> WaitExplanation:
    """`serving` are the workers of the queue, living and silent."""
    living = [worker for worker in serving if worker.silent_seconds is None]
    if not living:
        silent = ", ".join(
            f"{each} is {'dead' if each.is_dead else 'silent'}" for each in serving[:3]
        )
        text = f"{begin}, but no worker of queue {queue} lives" + (f": {silent}" if silent else "")
        return WaitExplanation(text, "no-worker", None, start_advice)
    ready = [worker for worker in living if not worker.problem]
    if not ready:
        text = f"{begin}, but worker {living[0]} claims nothing: {living[0].problem}"
        return WaitExplanation(text, "disk", None, living[0].problem)
    idle = [worker for worker in ready if worker.tasks == 0]
    if idle:
        text = f"{begin} and waits for the next poll of worker {idle[0]}"
        return WaitExplanation(text, "claimable", None)
    work = ", ".join(f"{each} runs {each.tasks}" for each in ready[:3])
    more = f", and {len(ready) - 3} more" if len(ready) > 3 else ""
    return WaitExplanation(f"{begin} and waits for a worker: {work}{more}", "busy", None)


def _next_poll(queue: str, context: WaitContext) -> str:
    living = [
        worker
        for worker in context.workers or ()
        if worker.serves(queue) and worker.silent_seconds is None
    ]
    if context.workers is not None and not living:
        return f"no other worker of queue {queue} lives that could take the task up"
    return "the next poll of any worker takes it up"


def _start_advice(queue: str, context: WaitContext) -> str | None:
    """What to do where no worker lives."""
    living = [
        worker
        for worker in context.workers or ()
        if worker.serves(queue) and worker.silent_seconds is None
    ]
    if context.workers is None or living:
        return None
    if any(worker.silent_seconds is None for worker in context.workers):  # of other queues
        return f"Start a worker of this queue: contimg worker --queue {queue}"
    return "Start a worker: contimg worker (as a service: systemctl start dsa110-absurd-worker@1)"


def _worker(name: str, context: WaitContext) -> WorkerFact | None:
    return next((each for each in context.workers or () if each.name == name), None)


def _since(since: datetime | None, now: datetime) -> str:
    if since is None or not _PAST < since < INFINITY:
        return ""
    seconds = (now - since).total_seconds()
    return f" since {since:%H:%M:%S} UTC ({duration_text(seconds)})"


def _remaining(until: datetime, now: datetime) -> str:
    """``43 s more (until 03:12:10 UTC)``; with the date where it is not of this day."""
    form = "%H:%M:%S" if until.date() == now.date() else "%Y-%m-%d %H:%M:%S"
    return f"{duration_text((until - now).total_seconds())} more (until {until:{form}} UTC)"
