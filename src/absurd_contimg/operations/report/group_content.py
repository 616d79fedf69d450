"""What the report shows of one task, from its history and the products that it names.

A product that is missing or damaged becomes a sentence in the report: every history gives one.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from absurd_contimg.core.records import History, Json
from absurd_contimg.core.step_journal import START_PREFIX
from absurd_contimg.errors import SettingError, UserError
from absurd_contimg.history.failures import FailedRun
from absurd_contimg.history.summary import summarize
from absurd_contimg.history.wait_reason import WaitReason
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

_T = TypeVar("_T")


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
    waiting: WaitReason | None
    spans: list[Span]
    timeline: Timeline | None
    failures: Sequence[FailedRun]
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
    summary = summarize(history)
    group = GroupContent(
        name=summary.group or summary.task_name,
        task_id=str(summary.task_id),
        state=summary.state,
        verdict=str(result.get("verdict", "")),
        waiting=summary.waiting,
        spans=spans(history),
        timeline=stage_timeline(history, workers),
        failures=summary.failures,
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
    path, seconds, logs = state.get("product"), state.get("seconds"), state.get("logs")
    return Product(
        step=step,
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        path="" if path is None else str(path),
        exists=path is not None and Path(str(path)).exists(),
        logs=tuple(map(str, logs)) if isinstance(logs, list) else (),
    )


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
