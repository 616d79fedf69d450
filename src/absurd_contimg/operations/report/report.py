"""One HTML file that says what happened to a set of tasks, and what came of it.

Reads histories and the products that they name; asks no worker and no database. A product that
has gone, or is damaged, is said to be so: a report must come out of every history. The page
needs no network and no script. Needs the plots extra.
"""

# jinja2 may be missing: it is imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from absurd_contimg.core.records import History, Json
from absurd_contimg.core.step_journal import START_PREFIX
from absurd_contimg.errors import SettingError, UserError
from absurd_contimg.history.timeline import group_of
from absurd_contimg.operations.report.quicklook import SourceMark, write_quicklook
from absurd_contimg.operations.report.timeline import (
    Span,
    Timeline,
    by_stage,
    overview,
    spans,
    worker_names,
)
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
_TEMPLATE = "report.html.jinja"

_LEASE_LAPSED = "$ClaimTimeout"
"""What Absurd writes on a run whose worker did not renew its claim: it died, or lost touch."""

_NUMBER = re.compile(r"[-+−]?[\d.,]+(e[-+]?\d+)?\s*(%|Jy|mJy|s|deg|arcsec)?")

Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report that its caller adds: text, a table, and whether all is well.

    `ok` None says that nothing was judged. Floats are shown with four figures.
    """

    title: str
    paragraphs: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    ok: bool | None = None


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failed run, as its reason tells it."""

    attempt: int
    when: datetime | None
    kind: str
    step: str
    worker: str
    message: str
    advice: str
    rule: str
    logs: tuple[str, ...]
    traceback: str
    final: bool
    """The task ended with it; otherwise it was tried again, or will be."""


@dataclass(frozen=True, slots=True)
class _Product:
    """What a finished step left: where it is, whether it is still there, its logs."""

    step: str
    seconds: float | None
    adopted: bool
    path: str
    exists: bool
    logs: tuple[str, ...]


@dataclass(slots=True)
class _Picture:
    """The image of a group, or why there is none."""

    path: Path | None = None
    data: str = ""
    problem: str = ""


@dataclass(slots=True)
class _Group:
    """All that the page shows of one task."""

    anchor: str
    name: str
    task_id: str
    state: str
    verdict: str
    waiting: str
    spans: list[Span]
    timeline: Timeline | None
    failures: list[_Failure]
    products: list[_Product]
    image: ContinuumImage | None
    validation: Validation | None
    sources: Sequence[SourceCheck] = ()
    sources_problem: str = ""
    picture: _Picture = field(default_factory=_Picture)
    software: Mapping[str, Json] = field(default_factory=dict)
    config_digest: str = ""

    @property
    def tone(self) -> str:
        """The colour of its badge: ``good``, ``fair``, ``bad`` or ``open``."""
        if self.state == "completed":
            return "fair" if self.verdict == "degraded" else "good"
        return "bad" if self.state in ("failed", "cancelled") else "open"


def write_report(
    target: Path, histories: Sequence[History], extra: Sequence[Section] = ()
) -> list[Path]:
    """Write the report and the pictures in it; returns all paths written, the HTML first.

    The pictures go into a folder ``<stem>_images`` beside the report, and into the report
    itself. `extra` comes first on the page, after the summary. The report appears under its name
    only when it is complete.

    Raises `SettingError` when the plots extra is not installed.
    """
    page = _template()
    target.parent.mkdir(parents=True, exist_ok=True)
    workers = worker_names(histories)
    groups = [_group(history, workers) for history in histories]
    pictures = []
    for group in groups:
        group.picture = _picture(group, target.with_name(f"{target.stem}_images"))
        if group.picture.path is not None:
            pictures.append(group.picture.path)
    text = page.render(
        title="Absurd continuum imaging: what happened",
        summary=_summary(groups, workers),
        groups=groups,
        workers=workers,
        overview=overview(histories, workers),
        sections=extra,
    )
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)
    return [target, *pictures]


def _template() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise SettingError(
            f"Reports need the plots extra, and {error.name} is not installed.",
            "Install it: pip install 'absurd-contimg[plots]'",
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("absurd_contimg.operations.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, moment=_moment)
    environment.tests["numeric"] = _is_numeric
    return environment.get_template(_TEMPLATE)


# From a history to what the page shows.


def _group(history: History, workers: Sequence[str]) -> _Group:
    steps = _finished_steps(history)
    outputs: dict[str, Json] = {}
    for state in steps.values():
        outputs |= _mapping(state.get("outputs"))
    result = _mapping(history.task.completed_payload)
    name = group_of(history)
    image = _record(ImageOutputs, outputs)
    validated = _record(ValidateOutputs, outputs)
    group = _Group(
        anchor=f"g-{history.task.task_id}",
        name=history.task.task_name if name == "?" else name,
        task_id=str(history.task.task_id),
        state=history.task.state,
        verdict=str(result.get("verdict", "")),
        waiting=_waiting(history),
        spans=spans(history),
        timeline=by_stage(history, workers),
        failures=_failures(history),
        products=[_product(step, state) for step, state in steps.items()],
        image=None if image is None else image.image,
        validation=None if validated is None else validated.validation,
        config_digest=str(_mapping(result.get("config_ref")).get("digest", "")),
    )
    group.sources, group.sources_problem = _sources(group.validation)
    group.software = _software(group.products)
    return group


def _finished_steps(history: History) -> dict[str, Mapping[str, Any]]:
    """The checkpoints of tracked steps that are done, in the order of their ends."""
    states = {one.checkpoint_name: one.state for one in history.checkpoints}
    return {
        name: state
        for name, state in states.items()
        if START_PREFIX + name in states and isinstance(state, Mapping)
    }


def _product(step: str, state: Mapping[str, Any]) -> _Product:
    path = state.get("product")
    seconds = state.get("seconds")
    return _Product(
        step=step,
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        adopted=bool(state.get("adopted")),
        path="" if path is None else str(path),
        exists=path is not None and Path(str(path)).exists(),
        logs=_texts(state.get("logs")),
    )


def _failures(history: History) -> list[_Failure]:
    found = []
    for run in history.runs:
        if not isinstance(run.failure_reason, Mapping):
            continue
        reason = run.failure_reason
        lapsed = reason.get("name") == _LEASE_LAPSED
        found.append(
            _Failure(
                attempt=run.attempt,
                when=run.failed_at,
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
    return found


def _waiting(history: History) -> str:
    if not history.waits or history.task.state in ("completed", "failed", "cancelled"):
        return ""
    wait = history.waits[0]
    until = "" if wait.timeout_at is None else f" until {_moment(wait.timeout_at)} at the latest"
    return f"Waits for {wait.event_name}{until}."


def _record(kind: type[_T], outputs: Mapping[str, Json]) -> _T | None:
    """A stage's outputs; None if there are none or another version wrote something else."""
    try:
        return from_json(kind, outputs)
    except ValueError:
        return None


def _sources(validation: Validation | None) -> tuple[Sequence[SourceCheck], str]:
    """The rows of the validation table, or why they cannot be shown."""
    if validation is None:
        return (), ""
    try:
        return from_json(SourceTable, json.loads(validation.report.read_bytes())).sources, ""
    except FileNotFoundError:
        return (), f"The validation table {validation.report} is no longer there."
    except (OSError, ValueError) as error:
        return (), f"The validation table {validation.report} cannot be read: {error}."


def _software(products: Sequence[_Product]) -> Mapping[str, Json]:
    """The versions that made the last product which is still there."""
    for one in reversed(products):
        try:
            return _mapping(json.loads(Path(one.path, "manifest.json").read_bytes())["software"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # gone or damaged; the table of products says so
    return {}


def _picture(group: _Group, folder: Path) -> _Picture:
    image = group.image
    if image is None:
        return _Picture()
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
        return _Picture(problem=str(error))
    return _Picture(path, base64.b64encode(path.read_bytes()).decode())


def _summary(groups: Sequence[_Group], workers: Sequence[str]) -> list[tuple[str, str]]:
    """The figures in the header: a number and what it counts."""
    states = Counter(group.state for group in groups)
    every = [span for group in groups for span in group.spans]
    ratios = [
        row.flux_ratio
        for group in groups
        for row in group.sources
        if row.isolated and row.flux_ratio is not None
    ]
    figures = [(str(number), f"{state}") for state, number in states.most_common()]
    degraded = sum(group.verdict == "degraded" for group in groups)
    if degraded:
        figures.append((str(degraded), "degraded"))
    figures += [
        (str(len(workers)), "workers"),
        (str(len(every)), "stage starts"),
        (str(sum(one.died for one in every)), "ended with their worker"),
        (str(sum(one.resumes for one in every)), "resumed"),
    ]
    if every:
        begin = min(one.start.started_at for one in every)
        seconds = (max(one.ends_at for one in every) - begin).total_seconds()
        figures.append((f"{seconds:.0f} s", "first start to last end"))
    if ratios:
        middle = sorted(ratios)[len(ratios) // 2]
        figures.append((f"{middle:.3f}", f"median flux ratio of {len(ratios)} sources"))
    return figures


# Small things.


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(reason: Mapping[str, Any], *names: str) -> str:
    return next((str(reason[name]) for name in names if reason.get(name)), "")


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, list | tuple) else ()


def _is_numeric(value: object) -> bool:
    """Whether a cell belongs on the right: a number, or one that is already text."""
    if isinstance(value, str):
        return _NUMBER.fullmatch(value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object, decimals: int | None = None, scale: float = 1.0) -> str:
    """A number as the page shows it; a dash where there is none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return "–" if value is None or value == "" else str(value)
    if decimals is not None:
        return f"{value * scale:.{decimals}f}"
    return f"{value * scale:.4g}" if isinstance(value, float) or scale != 1.0 else str(value)


def _moment(value: datetime | None) -> str:
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"
