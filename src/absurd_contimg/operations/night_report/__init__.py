"""The report of a night: its diagnostics, gates, verdict, and what was not processed and why."""

from absurd_contimg.operations.night_report.data_reading import data_reader
from absurd_contimg.operations.night_report.facts import NightFacts
from absurd_contimg.operations.night_report.judge import judge
from absurd_contimg.operations.night_report.nightly import NightlyReports, daemon_reports
from absurd_contimg.operations.night_report.nights import Night, parse_day, parse_night
from absurd_contimg.operations.night_report.page import render_page
from absurd_contimg.operations.night_report.reading import REPORTS, NightSite, read_report
from absurd_contimg.operations.night_report.rows import Row, verdict_of
from absurd_contimg.operations.night_report.stored import NightReport
from absurd_contimg.operations.night_report.writing import write_night_report

__all__ = [
    "REPORTS",
    "Night",
    "NightFacts",
    "NightReport",
    "NightSite",
    "NightlyReports",
    "Row",
    "daemon_reports",
    "data_reader",
    "judge",
    "parse_day",
    "parse_night",
    "read_report",
    "render_page",
    "verdict_of",
    "write_night_report",
]
