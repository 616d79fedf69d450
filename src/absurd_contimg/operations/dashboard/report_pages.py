"""Pages of the nightly reports: which there are, and each as it was written.

A report is a page of its own; it is shown with a policy under which it can do nothing but be read.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from absurd_contimg.errors import CorruptInputError, MissingInputError
from absurd_contimg.operations.dashboard.frame import Frame
from absurd_contimg.products.outputs import is_within
from absurd_contimg.regular_files import read_json, read_regular
from absurd_contimg.settings import Settings

FOLDER = "reports"
"""Of the nightly reports, in the output folder."""
_NAME = re.compile(r"\d{4}-\d{2}-\d{2}")
_PAGE_BYTES_MAX = 100_000_000
_SHOWN_MAX = 400
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"


@dataclass(frozen=True, slots=True)
class WrittenReport:
    """A report on disk."""

    night: str
    verdict: str
    reasons: tuple[str, ...]
    size_bytes: int
    written_at: float
    """Unix seconds."""


class Reports:
    """The reports in the output folder; each is read again when it has changed."""

    def __init__(self, settings: Settings | None) -> None:
        self._folder = None if settings is None else settings.pipeline.paths.output_dir / FOLDER
        self._known: dict[Path, tuple[int, WrittenReport]] = {}

    def newest(self) -> list[WrittenReport]:
        """The newest nights first."""
        if self._folder is None or not self._folder.is_dir():
            return []
        pages = [path for path in self._folder.glob("*.html") if _NAME.fullmatch(path.stem)]
        return [self._report(path) for path in sorted(pages, reverse=True)[:_SHOWN_MAX]]

    def _report(self, page: Path) -> WrittenReport:
        status = page.stat()
        changed, report = self._known.get(page, (-1, None))
        if report is None or changed != status.st_mtime_ns:
            verdict, reasons = _verdict(page.with_suffix(".json"))
            report = WrittenReport(page.stem, verdict, reasons, status.st_size, status.st_mtime)
            self._known[page] = status.st_mtime_ns, report
        return report

    def page(self, night: str) -> str:
        """The page of a night; `MissingInputError` if there is none."""
        missing = MissingInputError(
            f"There is no report of the night {night}.", f"contimg report --night {night}"
        )
        if self._folder is None or not _NAME.fullmatch(night):
            raise missing
        path = self._folder / f"{night}.html"
        if not is_within(path, (self._folder,)):
            raise missing
        try:
            return read_regular(path, _PAGE_BYTES_MAX).decode("utf-8", "replace")
        except FileNotFoundError:
            raise missing from None
        except OSError as error:
            raise CorruptInputError(f"The report {path} cannot be read: {error}.") from error


def _verdict(path: Path) -> tuple[str, tuple[str, ...]]:
    try:
        content = read_json(path)
        reasons: Sequence[object] = content.get("reasons", ())
        return str(content.get("verdict", "")), tuple(map(str, reasons))
    except (OSError, ValueError, AttributeError, TypeError):
        return "", ()


def add_report_pages(router: APIRouter, frame: Frame, reports: Reports) -> None:
    """``/reports`` and ``/reports/DATE``."""

    @router.get("/reports")
    async def listing(request: Request) -> HTMLResponse:
        overview = await frame.snapshots.overview()
        written = await asyncio.to_thread(reports.newest)
        ages = {report.night: overview.at.timestamp() - report.written_at for report in written}
        return await frame.page(
            request, "reports.html.jinja", "reports", "Nightly reports", reports=written, ages=ages
        )

    @router.get("/reports/{night}")
    async def report(night: str) -> HTMLResponse:
        text = await asyncio.to_thread(reports.page, night)
        return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY})
