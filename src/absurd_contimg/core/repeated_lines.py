"""Lines of a log about what lasts: once, again when they change, and each hour.

What is tried every few seconds and fails for hours would else fill the log with one line.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

AGAIN_SECONDS = 3600.0
_SUBJECTS_MAX = 1000


@dataclass(slots=True)
class RepeatedLines:
    """Knows what was logged last of each subject, of the last `_SUBJECTS_MAX` of them."""

    _last: dict[str, tuple[str, float]] = field(default_factory=dict, init=False)

    def level(self, subject: str, text: str, now: float) -> int:
        """`logging.WARNING` where the line is news at this time in seconds, else `logging.DEBUG`.

        A line with another text is news, and the same one an hour after it was.
        """
        last = self._last.get(subject)
        if last is not None and last[0] == text and 0.0 <= now - last[1] < AGAIN_SECONDS:
            return logging.DEBUG
        self._last.pop(subject, None)
        self._last[subject] = (text, now)
        if len(self._last) > _SUBJECTS_MAX:
            del self._last[next(iter(self._last))]
        return logging.WARNING

    def ended(self, subject: str) -> None:
        """What was logged of the subject is over: it is news when it comes again."""
        self._last.pop(subject, None)
