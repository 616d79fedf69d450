"""One HTML file about a set of tasks and their products, without network and script."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median_high
from typing import Any
from uuid import UUID

from absurd_contimg.core.records import History
from absurd_contimg.errors import SettingError
from absurd_contimg.history.summary import superseded
from absurd_contimg.operations.console import printable_lines
from absurd_contimg.operations.report.group_content import GroupContent, group_content, name_apart
from absurd_contimg.operations.report.timeline import overview, worker_names
from absurd_contimg.whole_files import replaced_file, require_replaceable

_NUMBER = re.compile(r"[-+−]?[\d.,]+(e[-+]?\d+)?\s*(%|Jy|mJy|s|deg|arcsec)?")
_TITLE = "Absurd continuum imaging: report"

Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Section:
    """Text, a table and the result of a check (None: there is none), added by the caller."""

    title: str
    paragraphs: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    ok: bool | None = None


def write_report(
    target: Path,
    histories: Sequence[History],
    extra: Sequence[Section] = (),
    folders: Sequence[Path] | None = None,
) -> list[Path]:
    """Write report and pictures; their paths, the HTML first. `SettingError` without plots.

    Only files in `folders` are read, and only an earlier report is overwritten.
    """
    template = _template()
    require_replaceable(target, "report", _is_report)
    target.parent.mkdir(parents=True, exist_ok=True)
    workers = worker_names(histories)
    folder = target.with_name(f"{target.stem}_images")
    groups = [group_content(history, workers, folder, folders) for history in histories]
    name_apart(groups)
    text = template.render(
        title=_TITLE,
        summary=_summary(groups, workers, superseded(history.task for history in histories)),
        groups=groups,
        workers=workers,
        overview=overview(histories, workers),
        sections=extra,
    )
    with replaced_file(target, "report", _is_report) as file:
        file.write(text.encode(errors="backslashreplace"))
    return [target, *(group.picture_path for group in groups if group.picture_path is not None)]


def _is_report(head: bytes) -> bool:
    return _TITLE.encode() in head


@functools.cache
def _template() -> Any:
    try:
        import jinja2  # noqa: PLC0415 - may be missing
    except ImportError as error:
        raise SettingError(
            f"Reports need the plots extra, and {error.name} is not installed.",
            "Install it: pip install 'absurd-contimg[plots]'",
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("absurd_contimg.operations.report", "."),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=_number, moment=_moment)
    environment.tests.update(numeric=_is_numeric, existing=os.path.exists)
    return environment.get_template("report.html.jinja")


def _shown(value: object) -> object:
    """Text from outside without control characters and passwords; markup of the page as it is."""
    return printable_lines(value) if type(value) is str else value


def _is_numeric(value: object) -> bool:
    """Whether a cell is aligned to the right: a number, or the text of one."""
    if isinstance(value, str):
        return _NUMBER.fullmatch(value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object, decimals: int | None = None, scale: float = 1.0) -> str:
    """A number as text, floats with four significant figures; a dash for None."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return "–" if value is None or value == "" else str(value)
    if decimals is not None:
        return f"{value * scale:.{decimals}f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _moment(value: datetime | None) -> str:
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M:%S} UTC"


def _summary(
    groups: Sequence[GroupContent], workers: Sequence[str], replaced: Collection[UUID]
) -> list[tuple[str, str]]:
    """The figures in the header: a number and its meaning; `replaced` failures have later tasks."""
    states = Counter(
        "failed, tried again in a later task" if group.task.task_id in replaced
        else group.task.state
        for group in groups
    )  # fmt: skip
    spans = [span for group in groups for span in group.spans]
    sources = [row for group in groups for row in group.sources]
    ratios = [row.flux_ratio for row in sources if row.isolated and row.flux_ratio is not None]
    figures: list[tuple[str, str]] = [(str(n), state) for state, n in states.most_common()]
    degraded = sum(group.verdict == "degraded" for group in groups)
    if degraded:
        figures.append((str(degraded), "degraded"))
    figures += [
        (str(len(workers)), "workers"),
        (str(len(spans)), "stage starts"),
        (str(sum(span.died for span in spans)), "ended by a worker's death"),
        (str(sum(span.resumes for span in spans)), "resumed"),
    ]
    if spans:
        begin = min(span.start.started_at for span in spans)
        seconds = (max(span.ends_at for span in spans) - begin).total_seconds()
        figures.append((f"{seconds:.0f} s", "first start to last end"))
    if ratios:
        meaning = f"median flux ratio of all {len(ratios)} isolated sources"
        figures.append((f"{median_high(ratios):.3f}", meaning))
    return figures
