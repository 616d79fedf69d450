"""The page of a night: one HTML file without script, network and other files."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

from absurd_contimg.errors import SettingError
from absurd_contimg.operations.console import printable_lines
from absurd_contimg.operations.night_report.charts import draw_chart, sparkline
from absurd_contimg.operations.night_report.rows import Row, shown
from absurd_contimg.operations.night_report.stored import NightReport, trend_of

TITLE = "Absurd continuum imaging: night report"
"""At the beginning of each page: a file without it is not overwritten."""


def render_page(report: NightReport) -> str:
    """The HTML of a report. Raises `SettingError` without the plots extra."""
    template, markup = _template()

    def trend(row: Row) -> Any:
        return markup(sparkline([number for _, number in trend_of(row, report.facts)]))

    facts = report.facts
    page: str = template.render(
        title=TITLE,
        report=report,
        facts=facts,
        counts=Counter(row.status for row in report.rows),
        nights=[night.night for night in facts.earlier],
        trend=trend,
    )
    return page


@functools.cache
def _template() -> tuple[Any, Any]:
    """The template, compiled once, and what marks text as HTML."""
    try:
        import jinja2  # noqa: PLC0415 - may be missing
        from markupsafe import Markup  # noqa: PLC0415 - comes with it
    except ImportError as error:
        raise SettingError(
            f"Reports need the plots extra, and {error.name} is not installed.",
            "Install it: pip install 'absurd-contimg[plots]'",
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("absurd_contimg.operations.night_report", "."),
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def chart(row: Row) -> Any:
        return Markup("") if row.chart is None else Markup(draw_chart(row.chart, row.title))

    environment.filters.update(chart=chart, shown=shown)
    return environment.get_template("night.html.jinja"), Markup


def _printable(value: object) -> object:
    """Text from outside without control characters and passwords."""
    return printable_lines(value) if type(value) is str else value
