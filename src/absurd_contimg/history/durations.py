"""Durations as text for people: one or two units, never more digits than anybody needs."""

from __future__ import annotations

import math


def duration_text(seconds: float) -> str:
    """``43 s``, ``5 min``, ``3 h 12 min``, ``9 d``; ``years`` for what has no end in practice."""
    if not math.isfinite(seconds):
        return "years"
    seconds = max(seconds, 0.0)
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d" if hours < 24 * 1000 else "years"
