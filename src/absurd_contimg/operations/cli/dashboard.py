"""The command of the dashboard."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from absurd_contimg.errors import SettingError
from absurd_contimg.operations.cli.app import app, state
from absurd_contimg.operations.console import console


@app.command()
def dashboard(
    simulation: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Show a finished simulation, by its output folder."),
    ] = None,
    run: Annotated[
        int, typer.Option(min=1, help="With --simulation: the number of the run, from 1.")
    ] = 1,
    history: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Show an exported file of histories.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen. Any but the loopback interface needs a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port; 0: any that is free.")
    ] = 8110,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A further name of this site in the Host header; repeatable."),
    ] = None,
) -> None:
    """Serve pages on the site, or on something recorded, until SIGTERM or Ctrl-C.

    The API is at the same address. CONTIMG_API_TOKEN or CONTIMG_API_TOKEN_FILE holds the token
    without which nothing can be changed (docs/dashboard.md).
    """
    if find_spec("fastapi") is None or find_spec("jinja2") is None:
        raise SettingError(
            "The dashboard needs the web extra.",
            "Install it: pip install 'absurd-contimg[web]'",
        )
    from absurd_contimg.operations.api import (  # noqa: PLC0415 - slow
        address,
        open_socket,
        reported_server,
    )
    from absurd_contimg.operations.dashboard import (  # noqa: PLC0415 - slow
        dashboard_rules,
        history_source,
        make_app,
        production_source,
        serve,
        simulation_source,
    )
    from absurd_contimg.registry.service_records import ServiceKind  # noqa: PLC0415 - slow

    if simulation is not None and history is not None:
        raise SettingError("--simulation and --history exclude each other.", "Give one of them.")
    rules = dashboard_rules(state.settings(), host, tuple(allow_host or ()))

    async def show() -> None:
        async with AsyncExitStack() as stack:
            if simulation is not None:
                source = simulation_source(simulation, run)
            elif history is not None:
                source = history_source(history)
            else:
                source = await stack.enter_async_context(production_source(state.settings()))
            listener = stack.enter_context(open_socket(host, port))
            tell_ready: Callable[[], None] | None = None
            if "NOTIFY_SOCKET" in os.environ and source.live:  # who only looks is no service
                reported = reported_server(
                    state.settings(), source.site, ServiceKind.DASHBOARD, listener
                )
                tell_ready = await stack.enter_async_context(reported)

            def on_ready() -> None:
                console.out(f"Dashboard: {address(listener)}/")
                if tell_ready is not None:
                    tell_ready()

            await serve(make_app(source, rules), listener, on_ready)

    asyncio.run(show())
