"""The campaign's results as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

HEAD = (
    "fault", "runs", "landed", "ended rightly", "wasted s: median (max)", "attempts spent",
    "products equal", "executed twice", "lost or stuck",
)  # fmt: skip


def markdown(results: Sequence[Mapping[str, Any]], faults: Sequence[str]) -> str:
    """A table with a row for each fault, and beneath it everything that should not be."""
    rows = [HEAD, tuple("---" for _ in HEAD)]
    for fault in faults:
        mine = [one for one in results if one["fault"] == fault]
        if mine:
            rows.append(_row(fault, mine))
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    bad = [
        f"* {one['fault']} {one['number']} in {one['stage']}: {'; '.join(one['problems'])}"
        for one in results
        if one["problems"]
    ]
    return "\n\n".join([text, *(["\n".join(bad)] if bad else [])])


def _row(fault: str, mine: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    ended = [one for one in mine if "state" in one]
    wasted = [one["wasted_seconds"] for one in ended if one["landed"]] or [0.0]
    equal = Counter(one["equal"] for one in ended if one["equal"] is not None)
    twice = [one for one in mine if any(_is_twice(text) for text in one["problems"])]
    stuck = [one for one in mine if any(_is_stuck(text) for text in one["problems"])]
    return (
        fault,
        str(len(mine)),
        str(sum(one["landed"] for one in ended)),
        str(sum(not one["problems"] for one in mine)),
        f"{median(wasted):.1f} ({max(wasted):.1f})",
        str(sum(one["attempts_spent"] for one in ended)),
        f"{equal[True]} of {equal.total()}" if equal else "none made",
        str(len(twice)),
        str(len(stuck)),
    )


def _is_twice(problem: str) -> bool:
    return any(word in problem for word in ("again", "times", "two processes", "after"))


def _is_stuck(problem: str) -> bool:
    return "nobody would take up" in problem or "nothing came" in problem
