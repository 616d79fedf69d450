"""``contimg mosaic``: which mosaics can be made, make them, and show what was made."""

# SQLAlchemy and astropy take a second to import: imported where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from absurd_contimg.config.mosaic import MosaicTier
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import SpawnedTask
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.operations.cli.app import (
    AsJson,
    app,
    print_json,
    require_registry,
    state,
    with_site,
)
from absurd_contimg.operations.cli.times import parse_time
from absurd_contimg.operations.console import cell, console, message_line
from absurd_contimg.settings import Settings
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.operations.services import MosaicPlan
    from absurd_contimg.registry import Registry
    from absurd_contimg.registry.mosaics import Mosaic

mosaic_app = typer.Typer(
    no_args_is_help=True, help="Plan, make and show mosaics of windows, nights and spans."
)
app.add_typer(mosaic_app, name="mosaic")

_Window = Annotated[str | None, typer.Argument(help="A window, as contimg windows shows it.")]
_Night = Annotated[
    str | None, typer.Option(help="All images of a UTC day, as 2025-01-15 (tier nightly).")
]
_Since = Annotated[
    str | None, typer.Option(help="Images from this time on: ISO 8601 (UTC) or MJD.")
]
_Until = Annotated[str | None, typer.Option(help="Images before this time: ISO 8601 (UTC) or MJD.")]
_Deep = Annotated[
    bool, typer.Option("--deep", help="With --since and --until: many nights (tier deep).")
]
_Declination = Annotated[
    float | None, typer.Option(help="Only this strip, apparent declination in degrees.")
]


@mosaic_app.command()
def plan(
    window: _Window = None,
    night: _Night = None,
    since: _Since = None,
    until: _Until = None,
    deep: _Deep = False,
    declination: _Declination = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of windows, the newest.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show which mosaics would be made, of which images, their size and expected noise.

    Without a window, a night or a span: the newest windows.
    """
    settings = state.settings()
    with _registry(settings) as registry:
        if window is None and night is None and since is None and until is None:
            plans = _newest_windows(registry, settings, limit)
        else:
            plans = _plans(registry, settings, window, night, since, until, deep, declination)
    if as_json:
        print_json(plans)
        return
    table = KeyedTable(
        *("mosaic", "tier", "tiles", "missing", "pixels", "noise mJy"),
        empty="There is no window yet (contimg windows). Of other images: --night or --since.",
    )
    for item in plans:
        size = f"{item.width_px} x {item.height_px}" if item.width_px else ""
        noise = "" if item.noise_jy is None else f"{1e3 * item.noise_jy:.3g}"
        counts = str(len(item.members)), str(len(item.left_out))
        table.add_row(cell(item.window_id), item.tier, *counts, size, noise)
    console.print(table)
    if any(item.noise_jy is not None for item in plans):
        console.print(
            "Noise: expected from that of the images, at their middles, the median. That of\n"
            "contimg mosaic show is of all that the mosaic covers, its edges too."
        )
    for item in plans:
        if item.problem:
            console.print(message_line(f"{item.window_id}: {item.problem}"), soft_wrap=True)
        for group, reason in item.left_out.items():
            console.print(message_line(f"{item.window_id}: {group}: {reason}"), soft_wrap=True)


@mosaic_app.command()
def make(
    window: _Window = None,
    night: _Night = None,
    since: _Since = None,
    until: _Until = None,
    deep: _Deep = False,
    declination: _Declination = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also where an earlier task has ended.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Spawn the tasks of the mosaics that contimg mosaic plan shows; workers make them.

    A mosaic of the same images and settings is taken as it is. Exit code 1 if one cannot be made.
    """
    from absurd_contimg.operations.services import check_mosaic, spawn_mosaic

    settings = state.settings()
    check_mosaic(settings)
    with _registry(settings) as registry:
        plans = _plans(registry, settings, window, night, since, until, deep, declination)
    possible = [item for item in plans if not item.problem]

    async def spawn(backend: Backend) -> list[SpawnedTask]:
        return [await spawn_mosaic(backend, settings, item, again=again) for item in possible]

    tasks = with_site(settings, spawn) if possible else []
    if as_json:
        spawned = [
            {"window_id": item.window_id, "task_id": task.task_id, "created": task.created}
            for item, task in zip(possible, tasks, strict=True)
        ]
        refused = {item.window_id: item.problem for item in plans if item.problem}
        print_json({"spawned": spawned, "refused": refused})
    else:
        table = KeyedTable("mosaic", "tiles", "task", "", keys=["mosaic", "task"])
        for item, task in zip(possible, tasks, strict=True):
            note = "spawned" if task.created else "existed"
            row = cell(item.window_id), str(len(item.members)), str(task.task_id), note
            table.add_row(*row)
        console.print(table)
        if not again and any(not task.created for task in tasks):
            console.print(
                "A task that existed takes the images of when it began; --again spawns another\n"
                "one, of the images of now, once it has ended."
            )
        for item in plans:
            if item.problem:
                console.print(message_line(f"{item.window_id}: {item.problem}"), soft_wrap=True)
    if len(possible) < len(plans):
        raise typer.Exit(1)


@mosaic_app.command()
def show(
    window: _Window = None,
    tier: Annotated[str | None, typer.Option(help="quicklook, nightly or deep.")] = None,
    picture: Annotated[
        Path | None, typer.Option("--png", help="Also draw it into this PNG file.", dir_okay=False)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Number of mosaics, the newest.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the newest mosaic of a window: its tiles, checks and files. Without one: list all."""
    from absurd_contimg.registry.mosaics import MosaicTier as Tier
    from absurd_contimg.registry.mosaics import list_mosaics

    if tier is not None and tier not in get_args(MosaicTier):
        raise SettingError(f"There is no tier {tier!r}.", f"There are: {', '.join(Tier)}.")
    if picture is not None and window is None:
        raise SettingError("--png needs a mosaic to draw.", "contimg mosaic show WINDOW --png FILE")
    with _registry(state.settings()) as registry:
        wanted = None if tier is None else Tier(tier)
        mosaics = list_mosaics(registry.database, wanted, window)
    if window is None:
        _list(mosaics[-limit:], as_json)
        return
    if not mosaics:
        raise MissingInputError(
            f"There is no mosaic of {window!r}.", "contimg mosaic show lists all that there are."
        )
    newest = mosaics[-1]
    figures = newest.details["mosaic"]
    tiles, checks = (_read(Path(figures[name])) for name in ("tiles_path", "checks_path"))
    if picture is not None:
        _draw(figures, checks, picture)
    if as_json:
        print_json({"product_key": newest.product_key, **figures, "tiles": tiles, "checks": checks})
        return
    _show(newest, figures, tiles)
    if picture is not None:
        console.out(f"Wrote {picture}")


def _list(mosaics: Sequence[Mosaic], as_json: bool) -> None:
    if as_json:
        print_json([{"product_key": m.product_key, **m.details["mosaic"]} for m in mosaics])
        return
    table = KeyedTable(
        *("mosaic", "tier", "middle UTC", "tiles", "noise mJy", "verdict"),
        empty="There is no mosaic yet: contimg mosaic plan shows what could be made.",
    )
    for mosaic in mosaics:
        figures = mosaic.details["mosaic"]
        noise = f"{1e3 * figures['noise_jy']:.3g}"
        middle = _utc(mosaic.mid_mjd)
        count, verdict = str(figures["n_tiles"]), cell(figures["verdict"])
        table.add_row(cell(mosaic.window_id), mosaic.tier, middle, count, noise, verdict)
    console.print(table)


def _show(mosaic: Mosaic, figures: Mapping[str, Any], tiles: Mapping[str, Any]) -> None:
    gates = f" (failed: {', '.join(figures['failed_gates'])})" if figures["failed_gates"] else ""
    console.print(message_line(f"{mosaic.window_id}: {figures['verdict']}{gates}"))
    ratio, scatter = figures["flux_ratio_median"], figures["flux_ratio_scatter"]
    compared = f"{figures['n_compared']} sources"
    if ratio is not None:
        error = figures["position_error_median_arcsec"]
        compared += f", flux ratio {ratio:.3f} +- {scatter:.3f}, position {error:.2f} arcsec"
    completeness = figures.get("completeness_worst")  # which earlier versions do not have
    worst = figures["tile_ratio_worst"]
    lines = {
        "image": figures["path"],
        "weights": figures["weight_path"],
        "middle": f"{_utc(mosaic.mid_mjd)} UTC, {mosaic.tier}",
        "size": f"{figures['width_px']} x {figures['height_px']} px of "
        f"{figures['cell_arcsec']:.3g} arcsec, {figures['covered_deg2']:.2f} deg^2, "
        f"{100 * figures['covered_once_fraction']:.0f} % in one tile only",
        "beam": f"{figures['bmaj_arcsec']:.1f} x {figures['bmin_arcsec']:.1f} arcsec, "
        f"{figures['n_convolved']} tiles convolved to it",
        "noise": f"{1e3 * figures['noise_jy']:.3g} mJy expected, measured "
        f"{figures['noise_ratio']:.3f} times that; peak {figures['dynamic_range']:.0f} sigma",
        "sources": f"{figures['positive_sources']} spots, {figures['negative_sources']} negative",
        "catalogue": compared,
        "one tile": "not compared with the catalogue"
        if completeness is None
        else f"the worst shows {100 * completeness:.0f} % of its catalogue sources",
        "two tiles": "no common source"
        if worst is None
        else f"worst flux ratio {worst:.3f} of {figures['n_tile_pairs']} pairs",
    }
    for name, text in lines.items():
        console.print(message_line(f"{name:10} {text}"), soft_wrap=True)
    table = KeyedTable("tile", "middle UTC", "noise mJy", "reason")
    for tile in tiles["used"]:
        noise = f"{1e3 * tile['noise_jy']:.3g}"
        table.add_row(cell(tile["group_id"]), _utc(tile["mid_mjd"]), noise, "used")
    for tile in tiles["refused"]:
        table.add_row(cell(tile["group_id"]), "", "", cell(tile["reason"]))
    console.print(table)


def _draw(figures: Mapping[str, Any], checks: Mapping[str, Any], picture: Path) -> None:
    from absurd_contimg.operations.report import write_quicklook
    from absurd_contimg.products.outputs import SourceTable, from_json

    write_quicklook(
        Path(figures["path"]),
        picture,
        title=f"Mosaic {figures['window_id']}",
        sources=from_json(SourceTable, checks).sources,
        rms_jy=figures["noise_jy"] * figures["noise_ratio"],
    )


def _read(path: Path) -> dict[str, Any]:
    from absurd_contimg.regular_files import read_json

    try:
        content: dict[str, Any] = read_json(path)
    except (OSError, ValueError) as error:
        raise MissingInputError(
            f"{path} cannot be read ({error}).", "contimg verify names what is damaged."
        ) from error
    return content


def _utc(mjd: float) -> str:
    moment = datetime.fromtimestamp((mjd - 40587.0) * 86400.0, UTC)
    return moment.strftime("%Y-%m-%d %H:%M")


def _plans(
    registry: Registry,
    settings: Settings,
    window: str | None,
    night: str | None,
    since: str | None,
    until: str | None,
    deep: bool,
    declination: float | None,
) -> list[MosaicPlan]:
    """The plans of a window, a night or a span; `SettingError` unless it is one of them."""
    from absurd_contimg.operations.night_report import parse_day
    from absurd_contimg.operations.services import mosaic_plans as plans

    chosen = [window is not None, night is not None, since is not None or until is not None]
    if sum(chosen) != 1 or (since is None) != (until is None) or (deep and since is None):
        raise SettingError(
            "Give a window, or --night DATE, or --since TIME and --until TIME, perhaps with --deep."
        )
    if window is not None:
        if declination is not None:
            raise SettingError("A window has its own declination.", "Leave --declination out.")
        return [plans.plan_window(registry, settings, window)]
    if night is not None:
        try:
            day = parse_day(night)
        except ValueError:
            raise SettingError(f"{night!r} is no day.", "Write it as 2025-01-15.") from None
        name, span = f"night-{day}", plans.night_span(day)
        return plans.plan_span(registry, settings, name, span, "nightly", declination)
    assert since is not None
    assert until is not None
    span = parse_time(since, "--since"), parse_time(until, "--until")
    if span[0] >= span[1]:
        raise SettingError(f"--since {since} is not before --until {until}.", "Exchange them.")
    tier: MosaicTier = "deep" if deep else "quicklook"
    kind = "deep" if deep else "span"
    name = f"{kind}-{span[0]:%Y%m%dT%H%M%S}-{span[1]:%Y%m%dT%H%M%S}"
    return plans.plan_span(registry, settings, name, span, tier, declination)


def _newest_windows(registry: Registry, settings: Settings, limit: int) -> list[MosaicPlan]:
    from absurd_contimg.operations.services import plan_of
    from absurd_contimg.registry.windows import WindowState, list_windows

    windows = [
        window
        for window in list_windows(registry.database)
        if window.state is not WindowState.SUPERSEDED
    ]
    return [plan_of(registry, settings, window) for window in windows[-limit:]]


@contextmanager
def _registry(settings: Settings) -> Iterator[Registry]:
    """The registry; `MissingInputError` if there is none."""
    from absurd_contimg.operations.services import open_registry

    require_registry(settings)
    with closing(open_registry(settings)) as registry:
        yield registry
