"""``contimg night``: all parts together, on a night that takes minutes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from absurd_contimg.operations.cli.app import app
from absurd_contimg.operations.console import console


@app.command()
def night(
    folder: Annotated[Path, typer.Argument(help="Folder for all files.")] = Path("night"),
    groups: Annotated[
        int, typer.Option(help="How many groups the telescope writes, at least 10.")
    ] = 30,
    speed: Annotated[
        float, typer.Option(min=1.0, max=100.0, help="Seconds of observation in one second.")
    ] = 30.0,
    minutes_max: Annotated[
        float, typer.Option(min=1.0, help="After so many minutes the night is judged as it stands.")
    ] = 60.0,
    force: Annotated[
        bool, typer.Option("--force", help="Remove an earlier night in that folder first.")
    ] = False,
) -> None:
    """Run a synthetic night: telescope, daemon, two workers; kills and a full disk on the way.

    Exit code 1 if a flux, a position or a count is wrong at the end.
    """
    from absurd_contimg.operations.night import NightOptions, run_night  # noqa: PLC0415 - slow

    options = NightOptions(groups, speed, minutes_max)
    try:
        ok = asyncio.run(run_night(folder.absolute(), console, options, force=force))
    except asyncio.CancelledError:
        console.print("Stopped. contimg night --force begins again.")
        raise typer.Exit(130) from None
    if not ok:
        raise typer.Exit(1)
