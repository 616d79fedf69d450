"""``contimg monitor``: the site on one screen."""

# SQLAlchemy takes a second to import: imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from absurd_contimg.operations.cli.app import AsJson, app, print_json, state
from absurd_contimg.operations.console import console
from absurd_contimg.settings import Settings


@app.command()
def monitor(
    once: Annotated[bool, typer.Option("--once", help="Show the site once and end.")] = False,
    interval: Annotated[
        float | None,
        typer.Option(min=0.2, help="Seconds between two looks. Default: 2; 10 without a terminal."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show services, queues, groups, waits, failures, disks and data of the site, until Ctrl-C.

    Goes on while the database or the registry is away, and says how old is what it shows. Without
    a terminal it prints a line for each look. --json prints once. With --once or --json the exit
    code is 1 if something has failed or cannot be seen; warnings alone leave it 0.
    """
    from absurd_contimg.operations.monitor import Screen, has_failures, run_monitor
    from absurd_contimg.operations.overview import SiteOverview, open_site, read_site

    settings = state.settings()

    async def look() -> SiteOverview:
        async with open_site(settings) as site:
            return await read_site(site)

    async def watch(settings: Settings) -> None:
        async with open_site(settings) as site:
            await run_monitor(site, console, interval)

    if not once and not as_json:
        asyncio.run(watch(settings))
        return
    overview = asyncio.run(look())
    if as_json:
        print_json(overview)
    else:
        console.print(Screen(overview))
    if has_failures(overview):
        raise typer.Exit(1)
