"""``contimg schedule``: what the daemon starts at civil or sidereal times."""

# SQLAlchemy and the stages take a second to import: they are imported where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.operations.cli.app import (
    AsJson,
    app,
    print_json,
    require_registry,
    state,
)
from absurd_contimg.operations.console import cell, console, message_line
from absurd_contimg.regular_files import parse_typed_json
from absurd_contimg.settings import Settings
from absurd_contimg.similar_names import did_you_mean
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.registry.schedules import Schedule

schedule_app = typer.Typer(
    no_args_is_help=True, help="Add, remove and list what is started at civil or sidereal times."
)
app.add_typer(schedule_app, name="schedule")

_NAME_LENGTH_MAX = 60
_AFTER_MINUTES_MAX = 1440
_SIDEREAL_PER_CIVIL = 366.2422 / 365.2422


class ActionKind(StrEnum):
    """What a schedule starts."""

    TASK = "task"
    MOSAIC = "mosaic"
    REPROCESS = "reprocess"


class CatchUpChoice(StrEnum):
    """Which slots are run that passed while no daemon ran, or the last run went on."""

    ALL = "all"
    LATEST = "latest"
    SKIP = "skip"


@schedule_app.command()
def add(
    name: Annotated[str, typer.Argument(help="A name of your own.")],
    action: Annotated[
        ActionKind,
        typer.Argument(
            help="task (any), mosaic (of each strip, of the last hours) or reprocess (a batch)."
        ),
    ],
    at: Annotated[
        str | None, typer.Option(help="Civil: HH:MM in UTC, or the five fields of cron in quotes.")
    ] = None,
    lst: Annotated[str | None, typer.Option(help="Local sidereal time at the site: HH:MM.")] = None,
    transit: Annotated[
        str | None, typer.Option(help="The transit of a source of the catalogue.")
    ] = None,
    after_minutes: Annotated[
        float | None, typer.Option(help="With --transit: so many minutes later. Default: 0.")
    ] = None,
    fields: Annotated[
        str,
        typer.Option(
            "--with",
            help='JSON: task {"task": NAME, "params": {}, "queue": NAME}, mosaic {"tier": '
            '"nightly", "hours": 24}, reprocess {"selection": {"verdict": "degraded"}, '
            '"hours": 24, "ahead": 20, "cap": 200}.',
        ),
    ] = "{}",
    catch_up: Annotated[
        CatchUpChoice, typer.Option(help="What becomes of slots that were missed.")
    ] = CatchUpChoice.LATEST,
) -> None:
    """Start something at each slot; the first is the next one from now on.

    A slot is started once, and none while what the last one has started goes on.
    """
    from absurd_contimg.ingest.schedule_actions import parse_action
    from absurd_contimg.ingest.schedule_times import parse_times
    from absurd_contimg.operations.services import open_tables
    from absurd_contimg.registry.schedules import CatchUp, Schedule, ScheduleKind, Schedules

    if len(name) > _NAME_LENGTH_MAX or not name.strip() or not name.isprintable():
        raise SettingError(
            f"The name {name!r} is empty, too long or cannot be printed.",
            f"Use at most {_NAME_LENGTH_MAX} characters.",
        )
    settings = state.settings()
    given = {"--at": at, "--lst": lst, "--transit": transit}
    if sum(value is not None for value in given.values()) != 1:
        raise SettingError(f"A schedule needs one of {', '.join(given)}.", "Give exactly one.")
    if after_minutes is not None and transit is None:
        raise SettingError(
            "--after-minutes is for --transit only: the schedule would start at the time itself.",
            "Give the later time, or --transit SOURCE.",
        )
    kind = ScheduleKind.CIVIL if at is not None else ScheduleKind.SIDEREAL
    if transit is not None:
        spec = _transit_spec(settings, transit, after_minutes or 0.0)
    else:
        spec = str(lst if at is None else at)
    action_fields = {**_json_object(fields), "kind": action.value}
    parse_action(action_fields)
    times = parse_times(kind.value, spec, settings.pipeline.site.longitude_deg)
    latest = times.latest(_now(settings))
    schedule = Schedule(
        *(name, kind, spec, action_fields, CatchUp(catch_up.value)),
        last_slot=None if latest is None else latest.number,
    )
    with open_tables(settings) as database:
        if not Schedules(database).add(schedule):
            raise SettingError(
                f"There is a schedule {name!r}.", f"Remove it first: contimg schedule remove {name}"
            )
    console.print(message_line(f"Schedule {name}: next at {_next_time(schedule, settings)}"))


@schedule_app.command()
def remove(name: Annotated[str, typer.Argument(help="The schedule.")]) -> None:
    """Remove a schedule; what it has started goes on."""
    from absurd_contimg.operations.services import has_registry, open_tables
    from absurd_contimg.registry.schedules import Schedules

    settings = state.settings()
    removed, names = False, []
    if has_registry(settings):
        with open_tables(settings) as database:
            removed = Schedules(database).remove(name)
            names = [each.name for each in Schedules(database).schedules()]
    if not removed:
        raise MissingInputError(
            f"There is no schedule {name!r}; there are: {', '.join(names) or 'none'}.",
            did_you_mean(name, names, "contimg schedule list shows them."),
        )
    console.print(message_line(f"Schedule {name} is removed."))


@schedule_app.command("list")
def list_schedules(as_json: AsJson = False) -> None:
    """List the schedules: their next slots, and what became of the last ones."""
    from absurd_contimg.operations.services import open_tables
    from absurd_contimg.registry.schedules import Schedules

    settings = state.settings()
    require_registry(settings)
    with open_tables(settings) as database:
        schedules = Schedules(database).schedules()
    if as_json:
        print_json([{**asdict(s), "next_slot": _next_time(s, settings)} for s in schedules])
        return
    table = KeyedTable(
        *("schedule", "time", "next (UTC)", "starts", "last slot"),
        empty="There is no schedule: contimg schedule add makes one.",
    )
    for schedule in schedules:
        table.add_row(
            cell(schedule.name),
            cell(f"{schedule.spec}{' LST' if schedule.kind == 'sidereal' else ''}"),
            cell(_next_time(schedule, settings)),
            cell(schedule.action.get("kind", "?")),
            cell(schedule.outcome or ""),
        )
    console.print(table)


def _now(settings: Settings) -> datetime:
    """The time of the daemon, which starts what is due."""
    from absurd_contimg.operations.services import read_site_time

    return datetime.fromtimestamp(asyncio.run(read_site_time(settings)), UTC)


def _next_time(schedule: Schedule, settings: Settings) -> str:
    """When the next slot is due; one that is past is started at the daemon's next poll."""
    from absurd_contimg.ingest.schedule_times import parse_times

    longitude_deg = settings.pipeline.site.longitude_deg
    times = parse_times(schedule.kind.value, schedule.spec, longitude_deg)
    latest = times.latest(_now(settings))
    if latest is None:
        return "never"
    following = times.following(latest.number)
    return "never" if following is None else f"{following.at:%Y-%m-%d %H:%M}"


def _transit_spec(settings: Settings, source: str, after_minutes: float) -> str:
    """The sidereal time of a transit, with the name of the source behind it."""
    from absurd_contimg.ingest.schedule_times import format_lst, transit_seconds
    from absurd_contimg.ingest.spawn import find_catalog
    from absurd_contimg.science.catalogue import read_catalogue

    path = find_catalog(settings)
    sources = {each.name: each for each in read_catalogue(path)}
    if source not in sources:
        raise MissingInputError(
            f"There is no source {source!r} in {path}.",
            did_you_mean(source, sources, "Correct its name."),
        )
    place = sources[source]
    if not abs(after_minutes) <= _AFTER_MINUTES_MAX:  # nor is NaN
        raise SettingError(
            f"--after-minutes {after_minutes:g} is not within a day.",
            f"Give at most {_AFTER_MINUTES_MAX} minutes.",
        )
    now = _now(settings)
    seconds = transit_seconds(place.ra_deg, place.dec_deg, now)
    later = timedelta(minutes=after_minutes).total_seconds() * _SIDEREAL_PER_CIVIL
    return f"{format_lst((seconds + later) % 86_400)} {source}"


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = parse_typed_json(text)
    except ValueError as error:
        raise SettingError(f"--with is no JSON ({error}).", "Write an object: {...}") from error
    if not isinstance(value, dict):
        raise SettingError("--with is no JSON object.", "Write an object: {...}")
    return value
