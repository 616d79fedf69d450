"""Tables and live displays for a terminal, made from histories."""

from absurd_contimg.operations.terminal.history_view import (
    history_tables,
    task_summary,
    tasks_table,
)
from absurd_contimg.operations.terminal.progress import watch

__all__ = ["history_tables", "task_summary", "tasks_table", "watch"]
