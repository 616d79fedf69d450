"""How the plan of a reprocessing is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from absurd_contimg.history.durations import duration_text
from absurd_contimg.operations.console import cell, console, counted, message_line
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.ingest.reprocessing import GroupPlan, ReprocessingPlan

_SHOWN_MAX = 20


def plan_json(made: ReprocessingPlan, workers: int) -> dict[str, Any]:
    """The plan for programs."""
    return {
        "groups": [_group_json(each) for each in made.groups],
        "stage_runs": made.stage_runs,
        "dependents": made.dependents,
        "work_seconds": made.seconds,
        "seconds": made.seconds / workers,
        "stages_without_durations": made.unknown_stages,
    }


def _group_json(each: GroupPlan) -> dict[str, Any]:
    return {
        "group": each.group.group_id,
        "status": each.group.status,
        "verdict": each.group.verdict,
        "declination_deg": each.group.declination_deg,
        "caltables": next(iter(each.group.caltables), None),
        "runs": each.runs,
        "adopted": each.adopted,
        "left_out": each.left_out,
        "removed": each.removed,
        "damaged": each.damaged,
        "changed_settings": each.changed,
        "changed_files": each.changed_files,
    }


def show_damaged(damaged: Sequence[str]) -> None:
    """Say which products lie damaged where new ones of them would go."""
    for text in damaged[:_SHOWN_MAX]:
        console.print(f"[yellow]Damaged, and in the way:[/] {message_line(text)}")
    if damaged[_SHOWN_MAX:]:
        console.print(f"and {len(damaged) - _SHOWN_MAX} more: contimg registry check")
    if damaged:
        console.print("Move their folders away first, or their stages fail (broken-product).")


def _show_changes(included: Sequence[GroupPlan]) -> None:
    """What is not as it was for the products that are there, and of how many groups.

    First the catalogue, which is the only file that a plan reads, then settings.
    """
    files = Counter(
        (stage, path)
        for plan in included
        for stage, paths in plan.changed_files.items()
        for path in paths
    )
    for (stage, path), count in files.items():
        console.print(
            message_line(f"{stage}, {counted(count, 'group')}: catalogue changed: {path}")
        )
    changes = Counter(
        (stage, f"{each.setting} was {each.old!r} and is {each.new!r}")
        for plan in included
        for stage, settings in plan.changed.items()
        for each in settings
    )
    for (stage, text), count in list(changes.items())[:_SHOWN_MAX]:
        console.print(message_line(f"{stage}, {counted(count, 'group')}: {text}"))
    if len(changes) > _SHOWN_MAX:
        console.print(f"and {len(changes) - _SHOWN_MAX} more settings: --json shows all")


def show_plan(made: ReprocessingPlan, workers: int) -> None:
    """Print the plan: groups, what is left out and why, dependents, time."""
    included = made.included
    table = KeyedTable("group", "verdict", "runs")
    for each in included[:_SHOWN_MAX]:
        first = f"{each.runs[0]} and {len(each.runs) - 1} more" if each.runs[1:] else each.runs[0]
        table.add_row(cell(each.group.group_id), cell(each.group.verdict or ""), cell(first))
    if included:
        console.print(table)
    if included[_SHOWN_MAX:]:
        console.print(f"and {len(included) - _SHOWN_MAX} more groups: --json shows all")
    left_out: dict[str, int] = {}
    for each in made.groups:
        if each.left_out is not None:
            left_out[each.left_out] = left_out.get(each.left_out, 0) + 1
    for reason, count in left_out.items():
        console.print(message_line(f"{counted(count, 'group')} left out: {reason}"))
    runs = ", ".join(f"{count} {name}" for name, count in made.stage_runs.items())
    console.print(message_line(f"{counted(len(included), 'group')}: {runs or 'nothing to run'}"))
    _show_changes(included)
    depends = made.dependents
    console.print(
        f"Made from them, and not changed: {counted(len(depends.windows), 'window')}, "
        f"{counted(len(depends.mosaics), 'mosaic')}, "
        f"{counted(len(depends.publications), 'publication')}"
    )
    for window in depends.windows[:_SHOWN_MAX]:
        console.print(message_line(f"  window {window}"))
    if images := made.stage_runs.get("image"):
        console.print(f"The daemon has {counted(images, 'new image')} measured (photometry).")
    show_damaged([text for each in included for text in each.damaged])
    unknown = ", ".join(made.unknown_stages)
    if made.seconds:
        text = f"About {duration_text(made.seconds / workers)} with {counted(workers, 'worker')}"
        console.print(message_line(text + (f", without {unknown}" if unknown else "")))
    elif unknown:
        text = f"How long it takes is not known: no task has run {unknown}"
        console.print(message_line(text))
