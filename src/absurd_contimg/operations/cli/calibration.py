"""Commands about the calibration of groups."""

# SQLAlchemy and the stages take a second to import: each command imports what it needs.
# ruff: noqa: PLC0415

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from absurd_contimg.operations.cli.app import (
    AsJson,
    app,
    print_json,
    require_registry,
    state,
)
from absurd_contimg.operations.console import cell, console, counted
from absurd_contimg.terminal_tables import KeyedTable

calibration_app = typer.Typer(
    no_args_is_help=True, help="Show which groups a later calibration would serve better."
)
app.add_typer(calibration_app, name="calibration")


@calibration_app.command()
def plan(
    caltables: Annotated[
        str | None,
        typer.Option(
            help="Only groups that this set of caltables, by its name, would serve better."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the groups that a later calibration would serve better, and their windows.

    Changes nothing. contimg reprocess start --caltables USED processes them again.
    """
    from absurd_contimg.ingest.reprocessing import find_dependents, planned_improvements
    from absurd_contimg.operations.services import open_registry

    settings = state.settings()
    require_registry(settings)
    with closing(open_registry(settings)) as registry:
        groups, improvements = planned_improvements(registry, settings.pipeline, caltables)
        ids = {each.use.group_id for each in improvements}
        windows = find_dependents(registry, [g for g in groups if g.group_id in ids]).windows
    if as_json:
        print_json({"groups": improvements, "windows": windows})
        return
    table = KeyedTable("group", "used", "hours", "better", "hours")
    for each in improvements:
        use, used, better = each.use, each.used, each.better
        table.add_row(
            cell(use.group_id),
            cell("retired" if used is None else used.set_name),
            "" if used is None else f"{used.hours_from(use.mid_mjd):.1f}",
            cell(better.set_name),
            f"{better.hours_from(use.mid_mjd):.1f}",
        )
    console.print(table)
    console.print(f"{counted(len(improvements), 'group')}, {counted(len(windows), 'window')}.")
    if improvements:
        console.print("To process them again: contimg reprocess start --caltables USED")
