"""What the report shows of one task; of a missing or damaged product, a sentence."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from absurd_contimg.core.records import History
from absurd_contimg.core.step_journal import START_PREFIX
from absurd_contimg.errors import SettingError, UserError
from absurd_contimg.history.summary import TaskSummary, summarize
from absurd_contimg.operations.console import one_line
from absurd_contimg.operations.report.quicklook import write_quicklook
from absurd_contimg.operations.report.timeline import Span, Timeline, spans, stage_timeline
from absurd_contimg.products.output_warnings import output_warnings
from absurd_contimg.products.outputs import (
    ContinuumImage,
    ImageOutputs,
    SourceCheck,
    SourceTable,
    ValidateOutputs,
    Validation,
    from_json,
    is_within,
)
from absurd_contimg.regular_files import read_json

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SourceStatistics:
    """Of the isolated sources in the table that were detected, however faint."""

    n_sources: int
    flux_ratio_median: float
    flux_error_max: float
    position_error_median_arcsec: float
    position_error_max_arcsec: float

    @classmethod
    def of(cls, sources: Sequence[SourceCheck]) -> SourceStatistics | None:
        """None where nothing was detected."""
        compared = [
            (row.flux_ratio, row.position_error_arcsec)
            for row in sources
            if row.isolated and row.flux_ratio is not None and row.position_error_arcsec is not None
        ]
        if not compared:
            return None
        ratios, errors = zip(*compared, strict=True)
        return cls(
            len(compared),
            median(ratios),
            max(abs(ratio - 1.0) for ratio in ratios),
            median(errors),
            max(errors),
        )


@dataclass(slots=True)
class GroupContent:
    """Everything that the page shows of one task."""

    name: str
    """The group, of several of one group with the image, or else the task."""
    task: TaskSummary
    verdict: str
    config_digest: str
    spans: list[Span]
    timeline: Timeline | None
    steps: Mapping[str, Mapping[str, Any]]
    """The checkpoints of the finished steps: product, seconds in the process, logs."""
    software: Mapping[str, str]
    """Versions of the software that made the last product."""
    image: ContinuumImage | None = None
    validation: Validation | None = None
    sources: Sequence[SourceCheck] = ()
    statistics: SourceStatistics | None = None
    warnings: Sequence[str] = ()
    """What an operator should know of stages that have succeeded."""
    problems: list[str] = field(default_factory=list)
    """Outputs and products that cannot be shown, and why."""
    picture_path: Path | None = None
    picture: str = ""
    """The quick-look, base64; empty without an image."""


def group_content(
    history: History,
    workers: Sequence[str],
    picture_folder: Path,
    folders: Sequence[Path] | None = None,
) -> GroupContent:
    """One task's content, its quick-look in `picture_folder`; `SettingError` without plots.

    With `folders`, outputs whose paths lead out of them are a problem.
    """
    states = history.checkpoint_states
    steps = {
        name: state
        for name, state in states.items()
        if START_PREFIX + name in states and isinstance(state, Mapping)
    }
    outputs: dict[str, Any] = {}
    for state in steps.values():
        outputs |= _mapping(state.get("outputs"))
    task = summarize(history)
    result = _mapping(task.result)
    group = GroupContent(
        name=task.group or task.task_name,
        task=task,
        verdict=str(result.get("verdict", "")),
        config_digest=str(_mapping(result.get("config_ref")).get("digest", "")),
        spans=spans(history),
        timeline=stage_timeline(history, workers),
        steps=steps,
        software=_software(list(steps.values()), folders),
        warnings=output_warnings(outputs),
    )
    if images := _read_outputs(ImageOutputs, "image", outputs, group.problems, folders):
        group.image = images.image
    if checks := _read_outputs(ValidateOutputs, "validation", outputs, group.problems, folders):
        group.validation = checks.validation
        _read_sources(group, checks.validation.report)
    if group.image is not None:
        _draw_picture(group, group.image, picture_folder)
    return group


def name_apart(groups: Sequence[GroupContent]) -> None:
    """Add to the names of several of one group the key of the image that each has made."""
    counts = Counter(group.name for group in groups)
    for group in groups:
        if counts[group.name] > 1:
            product = str(group.steps.get("image", {}).get("product") or "")
            key = Path(product).name.rpartition("-")[2]
            task = f"{group.task.task_name} {str(group.task.task_id)[-6:]}"
            group.name += f", image {key}" if key else f", {task}"


def _read_outputs(
    kind: type[_T],
    key: str,
    outputs: Mapping[str, Any],
    problems: list[str],
    folders: Sequence[Path] | None,
) -> _T | None:
    """The typed outputs; None if the key is absent, or (a problem) if they cannot be read."""
    try:
        return from_json(kind, outputs, folders) if outputs.get(key) else None
    except ValueError as error:
        problems.append(f"{error}.")
        return None


def _read_sources(group: GroupContent, path: Path) -> None:
    try:
        group.sources = from_json(SourceTable, read_json(path)).sources
        group.statistics = SourceStatistics.of(group.sources)
    except FileNotFoundError:
        group.problems.append(f"The validation table {path} is no longer there.")
    except (OSError, ValueError) as error:
        group.problems.append(f"The validation table {path} cannot be read: {error}.")


def _software(
    states: Sequence[Mapping[str, Any]], folders: Sequence[Path] | None
) -> Mapping[str, str]:
    for state in reversed(states):
        try:
            path = Path(state["product"], "manifest.json")
            if folders is not None and not is_within(path, folders):
                continue
            manifest = read_json(path)
            return _mapping(manifest["software"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # none, missing or damaged; the table of products says so
    return {}


def _draw_picture(group: GroupContent, image: ContinuumImage, folder: Path) -> None:
    safe = re.sub(r"[^0-9A-Za-z._+-]", "-", group.name).lstrip(".")[:80]
    path = folder / f"{safe}-{str(group.task.task_id)[-6:]}.png"
    try:
        write_quicklook(
            image.path,
            path,
            title=one_line(group.name, 80).replace("$", r"\$"),
            sources=group.sources,
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
