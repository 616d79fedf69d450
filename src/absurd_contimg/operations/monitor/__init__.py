"""The monitor in the terminal: a site on one screen, kept up to date."""

from absurd_contimg.operations.monitor.monitor import has_failures, run_monitor, summary_line
from absurd_contimg.operations.monitor.screen import Screen

__all__ = ["Screen", "has_failures", "run_monitor", "summary_line"]
