"""What the report shows of one task, from its history and the products that it names.

A product that is missing or damaged becomes a sentence in the report: every history gives one.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from absurd_contimg.core.records import History, Json
from absurd_contimg.core.step_journal import START_PREFIX
from absurd_contimg.errors import SettingError, UserError
from absurd_contimg.history.timeline import group_of
from absurd_contimg.operations.report.formats import moment
from absurd_contimg.operations.report.quicklook import SourceMark, write_quicklook
from absurd_contimg.operations.report.timeline import Span, Timeline, spans, stage_timeline
from absurd_contimg.products.outputs import (
    ContinuumImage,
    ImageOutputs,
    SourceCheck,
    SourceTable,
    ValidateOutputs,
    Validation,
    from_json,
)

_LEASE_LAPSED = "$ClaimTimeout"
"""Absurd's name for the failure of a run whose worker did not renew its claim."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed run, from its failure reason."""

    attempt: int
    failed_at: datetime | None
    kind: str
    step: str
    worker: str
    message: str
    advice: str
    rule: str
    logs: tuple[str, ...]
    traceback: str
    final: bool
    """It failed the task; any other failure is retried."""


@dataclass(frozen=True, slots=True)
class Product:
    """The product and the logs of a finished step."""

    step: str
    seconds: float | None
    path: str
    exists: bool
    logs: tuple[str, ...]


@dataclass(slots=True)
class GroupContent:
    """Everything that the page shows of one task."""

    name: str
    task_id: str
    state: str
    verdict: str
    waiting: str
    spans: list[Span]
    timeline: Timeline | None
    failures: list[Failure]
    products: list[Product]
    config_digest: str
    image: ContinuumImage | None = None
    validation: Validation | None = None
    sources: Sequence[SourceCheck] = ()
    """The rows of the validation table, one for each catalogue source."""
    problems: list[str] = field(default_factory=list)
    """Outputs and products that cannot be shown, and why."""
    picture_path: Path | None = None
    picture: str = ""
    """The quick-look, base64; empty without an image."""
    software: Mapping[str, Json] = field(default_factory=dict)
    """Versions of the software that made the last product."""

    @property
    def anchor(self) -> str:
        """The id of its section."""
        return f"g-{self.task_id}"

    @property
    def tone(self) -> str:
        """The colour class of its state: ``good``, ``fair``, ``bad`` or ``open``."""
        if self.state == "completed":
            return "fair" if self.verdict == "degraded" else "good"
        return "bad" if self.state in ("failed", "cancelled") else "open"


def group_content(history: History, workers: Sequence[str], picture_folder: Path) -> GroupContent:
    """The content for one task; writes its quick-look into `picture_folder`.

    Raises `SettingError` if the plots extra is not installed.
    """
    steps = _finished_steps(history)
    outputs: dict[str, Any] = {}
    for state in steps.values():
        outputs |= _mapping(state.get("outputs"))
    result = _mapping(history.task.completed_payload)
    name = group_of(history)
    group = GroupContent(
        name=history.task.task_name if name == "?" else name,
        task_id=str(history.task.task_id),
        state=history.task.state,
        verdict=str(result.get("verdict", "")),
        waiting=_waiting(history),
        spans=spans(history),
        timeline=stage_timeline(history, workers),
        failures=_failures(history),
        products=[_product(step, state) for step, state in steps.items()],
        config_digest=str(_mapping(result.get("config_ref")).get("digest", "")),
    )
    group.software = _software(group.products)
    if outputs.get("image") and (images := _outputs(ImageOutputs, outputs, group)) is not None:
        group.image = images.image
    if outputs.get("validation") and (
        (checks := _outputs(ValidateOutputs, outputs, group)) is not None
    ):
        group.validation = checks.validation
        _read_sources(group, checks.validation.report)
    if group.image is not None:
        _draw_picture(group, group.image, picture_folder)
    return group


def _outputs(kind: type[_T], outputs: Mapping[str, Any], group: GroupContent) -> _T | None:
    try:
        return from_json(kind, outputs)
    except ValueError as error:
        group.problems.append(f"{error}.")
        return None


def _finished_steps(history: History) -> dict[str, Mapping[str, Any]]:
    """The checkpoints of completed tracked steps, in the order of their ends."""
    states = {checkpoint.checkpoint_name: checkpoint.state for checkpoint in history.checkpoints}
    return {
        name: state
        for name, state in states.items()
        if START_PREFIX + name in states and isinstance(state, Mapping)
    }


def _product(step: str, state: Mapping[str, Any]) -> Product:
    path = state.get("product")
    seconds = state.get("seconds")
    return Product(
        step=step,
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        path="" if path is None else str(path),
        exists=path is not None and Path(str(path)).exists(),
        logs=_texts(state.get("logs")),
    )


def _failures(history: History) -> list[Failure]:
    failures = []
    for run in history.runs:
        if not isinstance(run.failure_reason, Mapping):
            continue
        reason = run.failure_reason
        lapsed = reason.get("name") == _LEASE_LAPSED
        failures.append(
            Failure(
                attempt=run.attempt,
                failed_at=run.failed_at,
                kind="interrupted" if lapsed else _text(reason, "kind", "name"),
                step=_text(reason, "step", "stage"),
                worker=_text(reason, "worker") or (run.claimed_by or ""),
                message=_text(reason, "message", "name"),
                advice=_text(reason, "advice"),
                rule=_text(reason, "rule"),
                logs=_texts(reason.get("logs")),
                traceback=_text(reason, "traceback"),
                final=history.task.state == "failed" and run is history.runs[-1],
            )
        )
    return failures


def _waiting(history: History) -> str:
    if not history.waits or history.task.state in ("completed", "failed", "cancelled"):
        return ""
    wait = history.waits[0]
    until = "" if wait.timeout_at is None else f" until {moment(wait.timeout_at)} at the latest"
    return f"Waits for {wait.event_name}{until}."


def _read_sources(group: GroupContent, path: Path) -> None:
    try:
        group.sources = from_json(SourceTable, json.loads(path.read_bytes())).sources
    except FileNotFoundError:
        group.problems.append(f"The validation table {path} is no longer there.")
    except (OSError, ValueError) as error:
        group.problems.append(f"The validation table {path} cannot be read: {error}.")


def _software(products: Sequence[Product]) -> Mapping[str, Json]:
    for product in reversed(products):
        try:
            manifest = json.loads(Path(product.path, "manifest.json").read_bytes())
            return _mapping(manifest["software"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # missing or damaged; the table of products says so
    return {}


def _draw_picture(group: GroupContent, image: ContinuumImage, folder: Path) -> None:
    safe = re.sub(r"[^0-9A-Za-z._+-]", "-", group.name).lstrip(".")[:80]
    path = folder / f"{safe}-{group.task_id[-6:]}.png"
    try:
        write_quicklook(
            image.path,
            path,
            title=group.name,
            sources=[
                SourceMark(row.name, row.ra_deg, row.dec_deg, row.flux_jy, row.measured_jy)
                for row in group.sources
            ],
            beam_path=image.beam_path if image.beam_path.is_file() else None,
            rms_jy=image.rms_jy,
        )
    except SettingError:
        raise
    except UserError as error:
        group.problems.append(f"There is no picture. {error}")
        return
    group.picture_path = path
    group.picture = base64.b64encode(path.read_bytes()).decode()


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(reason: Mapping[str, Any], *names: str) -> str:
    return next((str(reason[name]) for name in names if reason.get(name)), "")


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else ()
