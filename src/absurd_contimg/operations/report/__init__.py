"""The HTML report and its pictures."""

from absurd_contimg.operations.report.light_curve import statistics_line, utc_of, write_light_curve
from absurd_contimg.operations.report.quicklook import write_quicklook
from absurd_contimg.operations.report.report import Section, write_report

__all__ = [
    "Section",
    "statistics_line",
    "utc_of",
    "write_light_curve",
    "write_quicklook",
    "write_report",
]
