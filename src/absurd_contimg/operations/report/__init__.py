"""The HTML report and its pictures."""

from absurd_contimg.operations.report.report import Section, write_report

__all__ = ["Section", "write_report"]
