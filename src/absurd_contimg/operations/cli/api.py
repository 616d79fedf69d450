"""``contimg api`` serves the HTTP API; ``contimg actions`` shows what people did."""

# FastAPI and SQLAlchemy take a second to import: they are imported where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from absurd_contimg.operations.cli.app import (
    AsJson,
    app,
    print_json,
    require_registry,
    state,
)
from absurd_contimg.operations.console import cell, console
from absurd_contimg.terminal_tables import KeyedTable


@app.command("api")
def serve_api_command(
    host: Annotated[
        str, typer.Option(help="Where to listen. Any but the loopback interface needs a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port; 0: any that is free.")
    ] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A further name of this site in the Host header; repeatable."),
    ] = None,
) -> None:
    """Serve the HTTP API until SIGTERM or Ctrl-C (docs/api.md).

    CONTIMG_API_TOKEN or CONTIMG_API_TOKEN_FILE holds the token without which nothing can be
    changed.
    """
    from absurd_contimg.operations.api import serve_api

    asyncio.run(serve_api(state.settings(), host, port, tuple(allow_host or ())))


@app.command()
def actions(
    target: Annotated[
        str | None, typer.Argument(help="The id of a task or batch, a queue or group.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show what people did, by command line, API and dashboard: who, when, to what, why."""
    from absurd_contimg.operations.services import open_tables
    from absurd_contimg.registry.operator_actions import list_actions

    settings = state.settings()
    require_registry(settings)
    with open_tables(settings) as database:
        known = list_actions(database, target=target, limit=limit)
    if as_json:
        print_json(known)
        return
    headings = ("when", "who", "by", "action", "target", "why", "outcome")
    of_target = "" if target is None else f" of {target}"
    empty = f"No action{of_target} is recorded."
    table = KeyedTable(*headings, keys=["when", "action", "target"], empty=empty)
    for each in known:
        texts = (each.at, each.by, each.source, each.action, each.target, each.reason)
        table.add_row(*map(cell, texts), cell(each.outcome))
    console.print(table)
