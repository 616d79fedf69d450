"""What is wrong at a site, who is told of it, and its figures for Prometheus."""

# SQLAlchemy and the parts of operations take a second to import: imported where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from absurd_contimg.errors import SettingError
from absurd_contimg.operations.cli.app import (
    AsJson,
    app,
    print_json,
    require_registry,
    state,
)
from absurd_contimg.operations.console import cell, console, message_line
from absurd_contimg.settings import Settings
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.operations.alerts import RaisedAlert, Receiver

alerts_app = typer.Typer(
    help="Show what is wrong at the site; list the rules, test the receivers.",
    invoke_without_command=True,
)
app.add_typer(alerts_app, name="alerts")


@alerts_app.callback()
def alerts(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the alerts that are raised. Exit code 1 if there are any.

    The daemon evaluates them, or contimg alerts run.
    """

    if context.invoked_subcommand is not None:
        return
    settings = state.settings()
    require_registry(settings)
    raised = _raised(settings)
    if as_json:
        print_json(raised)
    elif not raised:
        console.print("No alert is raised.")
        _show_evaluator(settings)
    else:
        table = KeyedTable("severity", "rule", "since", "what and what to do", keys=["rule"])
        for alert in raised:
            untold = f" Not told yet: {', '.join(alert.not_told)}." if alert.not_told else ""
            table.add_row(
                alert.severity, cell(alert.rule), f"{alert.since:%Y-%m-%d %H:%M}",
                message_line(f"{alert.fact} Run: {alert.command}{untold}"),
            )  # fmt: skip
        console.print(table)
    if raised:
        raise typer.Exit(1)


@alerts_app.command()
def rules(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/alerts.md.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the rules with their thresholds in this installation."""
    from absurd_contimg.operations.alerts import all_rules
    from absurd_contimg.operations.cli.alert_page import alert_page, rule_summary

    if markdown:
        print(alert_page(), end="")
        return
    config = state.settings().pipeline.alerts
    shown = [rule_summary(rule, config) for rule in all_rules(config)]
    if as_json:
        print_json(shown)
        return
    table = KeyedTable("rule", "severity", "raised", "cleared", "looks", "measures")
    for rule in shown:
        names = ("rule", "severity", "raised_at", "cleared_at", "looks", "measures")
        table.add_row(*(cell(rule[name]) for name in names))
    console.print(table)


@alerts_app.command()
def run(once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False) -> None:
    """Evaluate the rules every alerts.look_seconds and tell the receivers, until SIGTERM or Ctrl-C.

    The daemon does this too. One process of a site does it at a time: run this on another host, and
    it takes over when the daemon is silent. With --once, alerts need several runs: each is a look.
    """
    from absurd_contimg.operations.alerts import (
        look_once,
        make_receivers,
        make_rules,
        watch_site,
    )
    from absurd_contimg.operations.services import require_own_state, stop_signals

    settings = state.settings()
    require_own_state(settings)
    make_rules(settings.pipeline.alerts)
    make_receivers(settings)
    if once:
        notices = asyncio.run(look_once(settings))
        if notices is None:
            console.print("Another process evaluates the alerts of this site.")
        for notice in notices or ():
            console.print(message_line(notice.text.replace("\n", " ")), soft_wrap=True)
        return

    async def serve() -> None:
        stop = asyncio.Event()
        for number in stop_signals():
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        seconds = settings.pipeline.alerts.look_seconds
        console.print(f"The rules are evaluated every {seconds:g} s, until SIGTERM.")
        await watch_site(settings, stop)

    asyncio.run(serve())


@alerts_app.command("test")
def send_test(as_json: AsJson = False) -> None:
    """Send a test message to each receiver. Exit code 1 if one has not taken it."""
    from absurd_contimg.operations.alerts import make_receivers
    from absurd_contimg.operations.overview import in_thread

    receivers = make_receivers(state.settings())
    if not receivers:
        raise SettingError(
            "There is no receiver of alerts.",
            "Set ABSURD_SLACK_WEBHOOK_URL or ABSURD_ALERT_EMAIL_TO.",
        )
    # A loop waits at its end for its look-ups of names, which nothing can interrupt.
    results = asyncio.run(in_thread(lambda: asyncio.run(_send_all(receivers))))
    if as_json:
        print_json([{"receiver": name, "problem": text} for name, text in results.items()])
        raise typer.Exit(1 if any(results.values()) else 0)
    for name, problem in results.items():
        console.print(f"{cell(name)}: {message_line(problem or 'delivered')}", soft_wrap=True)
    if any(results.values()):
        raise typer.Exit(1)


@app.command()
def metrics(
    write: Annotated[
        Path | None,
        typer.Option(
            help="Replace this file, for a textfile collector; else print.", dir_okay=False
        ),
    ] = None,
) -> None:
    """Write the figures of the site in the text format of Prometheus: docs/alerts.md."""
    from absurd_contimg.operations.alerts import count_alerts
    from absurd_contimg.operations.metrics import read_metrics, write_metrics
    from absurd_contimg.operations.overview import open_site

    settings = state.settings()

    async def read() -> str:
        async with open_site(settings) as site:
            return await read_metrics(site, await asyncio.to_thread(count_alerts, site))

    text = asyncio.run(read())
    if write is None:
        print(text, end="")
    else:
        write_metrics(text, write)


def _raised(settings: Settings) -> list[RaisedAlert]:
    from absurd_contimg.operations.alerts import read_alerts
    from absurd_contimg.operations.services import has_registry, open_tables

    if not has_registry(settings):
        return []
    with open_tables(settings) as database:
        return read_alerts(database)


def _show_evaluator(settings: Settings) -> None:
    """Say so if nobody evaluates the rules: then nothing is known of what is wrong."""
    from absurd_contimg.operations.services import open_tables
    from absurd_contimg.registry.alerts import find_evaluator

    with open_tables(settings) as database:
        evaluator = find_evaluator(database)
    if evaluator is None:
        console.print(
            "[yellow]But no process evaluates the rules now:[/] contimg daemon or contimg alerts "
            "run does. What is wrong at this moment: contimg monitor --once."
        )


async def _send_all(receivers: tuple[Receiver, ...]) -> dict[str, str]:
    """What was wrong with each receiver; empty: nothing."""
    from absurd_contimg.operations.alerts import DeliveryError, Notice, deliver

    fact = "This is a test: alerts of this site reach you."
    notice = Notice(
        "test", "test", "test", "warning", fact, "contimg alerts", None, datetime.now(UTC)
    )

    async def send(receiver: Receiver) -> str:
        try:
            await deliver(receiver, uuid4().hex, notice)
        except DeliveryError as error:
            return str(error)
        return ""

    problems = await asyncio.gather(*map(send, receivers))
    return {receiver.name: text for receiver, text in zip(receivers, problems, strict=True)}
