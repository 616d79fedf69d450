"""The failed runs of a task, from the reasons that the database keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from absurd_contimg.core.evidence import distinct_class_name, line_of_handler
from absurd_contimg.core.failures import FailureKind, action_of
from absurd_contimg.core.records import History, Json, Run
from absurd_contimg.core.row_values import Unreadable
from absurd_contimg.core.step_journal import LOST_PREFIX
from absurd_contimg.core.task_queries import LEASE_EXPIRED

_TEXTS = ("name", "message", "kind", "rule", "action", "step", "stage", "worker")


@dataclass(frozen=True, slots=True)
class FailedRun:
    """One failed run. A failure by the SDK or by Absurd knows no kind, rule, step and advice."""

    attempt: int
    failed_at: datetime | None
    name: str
    """Of the exception, or Absurd's own such as `LEASE_EXPIRED`."""
    message: str
    kind: str | None = None
    rule: str | None = None
    action: str | None = None
    """``failed``, ``retry`` or ``fallback``."""
    step: str | None = None
    worker: str | None = None
    path: str | None = None
    advice: str | None = None
    logs: tuple[str, ...] = ()
    traceback: str | None = None
    where: str | None = None
    """The innermost line of the handler's own code: ``orders.py, line 12, in charge``."""
    final: bool = False
    """The task ended with it."""
    class_name: str = ""
    """Of the exception, with its module where Python has another exception of this name."""

    @property
    def text(self) -> str:
        """``ValueError at orders.py, line 12, in charge: no such card``.

        Where no line is known, as with errors of this package, the message alone.
        """
        if self.where is None:
            return self.message or self.name
        return f"{self.class_name or self.name} at {self.where}: {self.message}"


def failed_runs(history: History) -> list[FailedRun]:
    """The failed runs that have a reason, in order of attempt."""
    lost = {
        str(state.get("run_id")): state.get("message")
        for name, state in history.checkpoint_states.items()
        if name.startswith(LOST_PREFIX) and isinstance(state, Mapping)
    }
    return [
        _failed_run(
            run,
            history.task.state == "failed" and run is history.runs[-1],
            lost.get(str(run.run_id)),
        )
        for run in history.runs
        if run.failure_reason is not None
    ]


def _failed_run(run: Run, final: bool, lost: object) -> FailedRun:
    """`lost` is what the worker noted of a lease that it had lost."""
    reason = reason_of(run)

    def text(name: str) -> str | None:
        return None if reason.get(name) is None else str(reason[name])

    logs = reason.get("logs")
    expired = reason.get("name") == LEASE_EXPIRED
    traceback = text("traceback")
    return FailedRun(
        attempt=run.attempt,
        failed_at=run.failed_at,
        name=text("name") or "",
        message=str(lost) if expired and lost is not None else text("message") or "",
        kind=FailureKind.INTERRUPTED.value if expired else text("kind"),
        rule=text("rule"),
        action=None if action_of(reason) is None else str(action_of(reason)),
        step=text("step") or text("stage"),
        worker=text("worker") or run.claimed_by,
        path=text("path"),
        advice=text("advice"),
        logs=tuple(map(str, logs)) if isinstance(logs, list | tuple) else (),
        traceback=traceback,
        where=None if traceback is None else line_of_handler(traceback),
        final=final,
        class_name=_class_name(reason),
    )


def _class_name(reason: Mapping[str, Any]) -> str:
    """``absurd_sdk.TimeoutError``, which ``except TimeoutError`` does not catch."""
    for error in reason.get("evidence", {}).get("exceptions", ())[:1]:
        for name in error["type_names"][:1]:
            return distinct_class_name(str(name))
    return ""


def reason_of(run: Run) -> Mapping[str, Any]:
    """The reason of a run as JSON; empty where there is none.

    Other clients store reasons too: what is no text where ours are is shown as text, evidence
    that is none is left out.
    """
    reason = run.failure_reason
    if isinstance(reason, Unreadable):
        return {"name": "unreadable", "message": reason.unreadable}
    if not isinstance(reason, Mapping):
        return {} if reason is None else {"name": "unreadable", "message": str(reason)}
    texts = {
        name: str(reason[name])
        for name in _TEXTS
        if reason.get(name) is not None and not isinstance(reason[name], str)
    }
    evidence = reason.get("evidence")
    exceptions = evidence.get("exceptions") if isinstance(evidence, Mapping) else None
    errors = [
        error
        for error in (exceptions if isinstance(exceptions, list | tuple) else ())
        if isinstance(error, Mapping) and isinstance(error.get("type_names"), list | tuple)
    ]
    return {**reason, **texts, "evidence": {"exceptions": errors}}


def reason_members(reason: Json) -> tuple[str, str | None, str | None]:
    """Name, kind and rule of a `FailureCount`, as `failed_runs` tells those of a run."""
    if not isinstance(reason, Mapping):
        return "unreadable", None, None
    name, kind, rule = (
        None if reason.get(member) is None else str(reason[member])
        for member in ("name", "kind", "rule")
    )
    if name == LEASE_EXPIRED:
        kind = FailureKind.INTERRUPTED.value
    return name or "", kind, rule
