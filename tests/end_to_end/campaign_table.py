"""The campaign's results as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

HEAD = (
    "fault", "runs", "injected", "correct end", "wasted s: median (max)", "attempts spent",
    "products equal", "executed twice", "lost or stuck",
)  # fmt: skip


def markdown(results: Sequence[Mapping[str, Any]], faults: Sequence[str]) -> str:
    """A table with a row for each fault, followed by the problems."""
    rows = [HEAD, tuple("---" for _ in HEAD)]
    for fault in faults:
        of_fault = [result for result in results if result["fault"] == fault]
        if of_fault:
            rows.append(_row(fault, of_fault))
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    bad = [
        f"* {r['fault']} {r['number']} in {r['stage']}: {'; '.join(r['problems'])}"
        for r in results
        if r["problems"]
    ]
    return "\n\n".join([text, *(["\n".join(bad)] if bad else [])])


def _row(fault: str, results: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    ended = [r for r in results if "state" in r]
    wasted = [r["wasted_seconds"] for r in ended if r["injected"]] or [0.0]
    equal = Counter(r["equal"] for r in ended if r["equal"] is not None)
    twice = [r for r in results if any(_is_twice(text) for text in r["problems"])]
    stuck = [r for r in results if any(_is_stuck(text) for text in r["problems"])]
    return (
        fault,
        str(len(results)),
        str(sum(r["injected"] for r in ended)),
        str(sum(not r["problems"] for r in results)),
        f"{median(wasted):.1f} ({max(wasted):.1f})",
        str(sum(r["attempts_spent"] for r in ended)),
        f"{equal[True]} of {equal.total()}" if equal else "none made",
        str(len(twice)),
        str(len(stuck)),
    )


def _is_twice(problem: str) -> bool:
    return any(word in problem for word in ("again", "times", "two processes", "after"))


def _is_stuck(problem: str) -> bool:
    return "no worker can claim" in problem or "timed out" in problem
