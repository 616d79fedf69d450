"""Writes the report of a night, page and JSON; and again only when something has changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from absurd_contimg.errors import SettingError
from absurd_contimg.operations.night_report.nights import Night
from absurd_contimg.operations.night_report.page import TITLE, render_page
from absurd_contimg.operations.night_report.reading import DataReader, NightSite, read_report
from absurd_contimg.operations.night_report.stored import NightReport, to_json
from absurd_contimg.whole_files import replaced_file, require_replaceable

_WHAT = "night report"


async def write_night_report(
    site: NightSite,
    night: Night,
    target: Path | None = None,
    read_data: DataReader | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> tuple[NightReport, Path, Path]:
    """Read a night and write its page and, beside it, its JSON; the report and both paths.

    By default into the folder of the reports. An earlier report is replaced, any other file is
    refused: `SettingError`, as without the plots extra. The JSON is written last, so that a death
    in between leaves a report that is written again.
    """
    page = target or site.reports / f"{night.day}.html"
    numbers = page.with_suffix(".json")
    if page == numbers:
        raise SettingError(f"{page} is no name of a page.", "Give a name that ends with .html.")
    await asyncio.to_thread(_check_target, page, numbers)
    report = await read_report(site, night, read_data, is_stopped)
    await asyncio.to_thread(_write, report, page, numbers)
    return report, page, numbers


def _check_target(page: Path, numbers: Path) -> None:
    require_replaceable(page, _WHAT, _is_page)
    require_replaceable(numbers, _WHAT, _is_numbers)


def _is_page(head: bytes) -> bool:
    return TITLE.encode() in head


def _is_numbers(head: bytes) -> bool:
    return b'"format"' in head


def _write(report: NightReport, page: Path, numbers: Path) -> None:
    html = render_page(report)
    content = json.dumps(to_json(report), indent=1, allow_nan=False)
    page.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(page, _WHAT, _is_page) as file:
        file.write(html.encode(errors="backslashreplace"))
    with replaced_file(numbers, _WHAT, _is_numbers) as file:
        file.write(f"{content}\n".encode(errors="backslashreplace"))
