"""``contimg photometry``, ``lightcurve`` and ``variability``: what was measured of sources."""

# SQLAlchemy, NumPy and matplotlib take time to import: imported where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import TERMINAL_STATES, SpawnedTask
from absurd_contimg.errors import MissingInputError
from absurd_contimg.operations.cli.app import (
    AsJson,
    app,
    print_json,
    require_registry,
    state,
    with_site,
)
from absurd_contimg.operations.console import cell, console, counted
from absurd_contimg.settings import Settings
from absurd_contimg.similar_names import did_you_mean
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.products.photometry_table import SourceFlux
    from absurd_contimg.registry import Registry
    from absurd_contimg.science.light_curves import LightCurve

_RENAMED_MAX = 10
"""Sources whose several names are listed."""
_Mosaics = Annotated[bool, typer.Option("--mosaics", help="Of mosaics instead of single images.")]


@app.command()
def photometry(
    name: Annotated[
        str, typer.Argument(metavar="GROUP|WINDOW", help="A group, or the window of a mosaic.")
    ],
    make: Annotated[
        bool, typer.Option("--make", help="Spawn a task that measures in the newest image.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Number of sources, the brightest first.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Show the fluxes of catalogue sources in the image of a group or in a mosaic.

    Measured at the positions of the catalogue and corrected for the primary beam.
    """
    settings = state.settings()
    with _registry(settings) as registry:
        table = _newest_table(registry, name)
    if make:
        image_key = _require_image(settings, name)
        task = _spawn(settings, name, image_key)
        if as_json:
            print_json({"task_id": task.task_id, "created": task.created})
        else:
            console.out(f"Task {task.task_id} measures {name}; it needs a worker: contimg status")
        return
    if table is None:
        raise MissingInputError(
            f"{name} has an image, but nothing has been measured in it yet.",
            f"Spawn the task that does: contimg photometry {name} --make",
        )
    from absurd_contimg.products.photometry_table import read_photometry

    rows = sorted(read_photometry(table), key=lambda row: -(row.flux_jy or float("-inf")))
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    console.print(_flux_table(rows[:limit]))
    measured = sum(row.flux_jy is not None for row in rows)
    hidden = f"; for all of them: --limit {len(rows)}" if len(rows) > limit else ""
    console.out(f"{measured} of {len(rows)} sources measured{hidden}.")
    console.out_lines(table)


@app.command()
def lightcurve(
    source: Annotated[
        str,
        typer.Argument(help="A source by its name in the catalogue, or a position RA,DEC."),
    ],
    mosaics: _Mosaics = False,
    output: Annotated[
        Path | None,
        typer.Option("--png", help="Also draw the light curve into this PNG file.", dir_okay=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the fluxes of a source over time, and whether it varies.

    Each image is normalised by the stable sources around the source. A position is in degrees
    (10.684,41.269) or sexagesimal (00:42:44.2,+41:16:09), to 60 arcsec; before a negative one
    write --. Where the catalogue has renamed a source, a position shows what was measured under all
    its names, and a name what was measured under it.
    """
    from absurd_contimg.operations.report import (
        statistics_line,
        utc_of,
        write_light_curve,
    )
    from absurd_contimg.operations.services import (
        find_source,
        light_curve,
        sources_around,
        under_one_name,
    )

    settings = state.settings()
    with _registry(settings) as registry:
        target = find_source(registry.database, source)
        curve = light_curve(
            registry.database,
            settings.pipeline.variability,
            target,
            "mosaic" if mosaics else "image",
        )
        around = sources_around(registry.database, curve)
    names = dict(curve.names)
    is_by_name = target.name == source
    if is_by_name:
        curve = under_one_name(curve, source, settings.pipeline.variability)
    if output is not None:
        if not output.parent.is_dir():
            raise MissingInputError(f"There is no folder {output.parent}.", "Check --png.")
        write_light_curve(curve, output)
    if as_json:
        print_json(asdict(curve) | {"names": names})
        return
    name = "window" if mosaics else "group"
    table = KeyedTable("time (UTC)", name, keys=["time (UTC)", name], pad_edge=False)
    for heading in ("mJy", "error", "scale", "n"):
        table.add_column(heading, justify="right")
    for point in curve.points:
        table.add_row(
            f"{utc_of(point.mjd):%Y-%m-%d %H:%M:%S}",
            cell(point.epoch),
            _milli(point.flux_jy),
            _milli(point.error_jy),
            f"{point.scale:.3f}",
            str(point.n_neighbours),
        )
    console.out(f"{curve.source} at {curve.ra_deg:.5f} {curve.dec_deg:+.5f} deg", style="bold")
    console.print(table)
    console.out(statistics_line(curve))
    if len(names) > 1 and is_by_name:
        others = {name: count for name, count in names.items() if name != source}
        position = f"{curve.ra_deg:.5f},{curve.dec_deg:.5f}"
        option = " --mosaics" if mosaics else ""
        console.out(
            f"Also measured as {_counted_names(others)} here; all of them: "
            f"contimg lightcurve{option} {position}"
        )
    elif len(names) > 1:
        console.out(f"Measured as {_counted_names(names)}.")
    if around and not is_by_name:
        near = ", ".join(f"{name} ({arcsec:.1f} arcsec)" for name, arcsec in around[:3])
        more = f" and {len(around) - 3} more" if len(around) > 3 else ""
        console.out(f"Other sources within 60 arcsec: {near}{more}.")
    if output is not None:
        console.out(f"Wrote {output}")


@app.command()
def variability(
    mosaics: _Mosaics = False,
    every: Annotated[bool, typer.Option("--all", help="Constant sources too.")] = False,
    new: Annotated[
        bool, typer.Option("--new", help="Sources outside the catalogue instead, new ones first.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Number of sources.")] = 30,
    as_json: AsJson = False,
) -> None:
    """List the sources that vary: two epochs with |Vs| >= 4.3 and |m| > 0.26.

    Those that differ most come first. contimg settings shows the gates. With --new the positions
    of sources outside the catalogue are measured in the images before: one is new if such an image
    would have shown it and does not.
    """
    if new:
        _show_new_sources(limit, as_json)
        return
    from absurd_contimg.operations.services import light_curves
    from absurd_contimg.registry.photometry import newest_measurements

    settings = state.settings()
    with _registry(settings) as registry:
        measured = newest_measurements(registry.database, "mosaic" if mosaics else "image")
    curves = light_curves(measured, settings.pipeline.variability)
    compared = [curve for curve in curves if curve.variability.pair is not None]
    chosen = [curve for curve in compared if every or curve.variability.variable]
    if as_json:
        statistics = [
            {"source": curve.source, "ra_deg": curve.ra_deg, "dec_deg": curve.dec_deg}
            | {"names": dict(curve.names)}
            | asdict(curve.variability)
            for curve in chosen
        ]
        print_json({"n_compared": len(compared), "sources": statistics})
        return
    if chosen:
        console.print(_variability_table(chosen[:limit]))
    for curve in [curve for curve in chosen[:limit] if len(curve.names) > 1][:_RENAMED_MAX]:
        console.out(f"{curve.source}: measured as {_counted_names(curve.names)}.")
    variable = sum(curve.variability.variable for curve in compared)
    hidden = f"; for all of them: --limit {len(chosen)}" if len(chosen) > limit else ""
    console.out(f"{variable} of {len(compared)} sources with two epochs or more vary{hidden}.")


def _show_new_sources(limit: int, as_json: bool) -> None:
    from absurd_contimg.operations.services import find_new_sources

    settings = state.settings()
    with _registry(settings) as registry:
        detections = find_new_sources(registry, settings.pipeline)
    if as_json:
        print_json([asdict(detection) for detection in detections])
        return
    table = KeyedTable("source", "first in", pad_edge=False)
    for heading in ("mJy", "error", "expected", "before", "images"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for detection in detections[:limit]:
        appearance = detection.appearance
        table.add_row(
            cell(detection.source),
            cell(detection.group_id),
            _milli(detection.flux_jy),
            _milli(detection.error_jy),
            f"{appearance.sigma_expected:.1f}",
            f"{appearance.sigma_before:.1f}",
            str(appearance.n_images),
            "new" if appearance.new else "",
        )
    if detections:
        console.print(table)
        console.out("expected: sigma in the best earlier image; before: the most in any of them")
    count = sum(detection.appearance.new for detection in detections)
    console.out(f"{count} of {len(detections)} sources outside the catalogue are new.")


def _counted_names(names: Mapping[str, int]) -> str:
    """Names of one source with their numbers of epochs."""
    return ", ".join(f"{name} ({counted(n, 'epoch')})" for name, n in names.items())


def _flux_table(rows: list[SourceFlux]) -> KeyedTable:
    table = KeyedTable("source", pad_edge=False)
    for heading in ("RA deg", "Dec deg", "mJy", "error", "S/N", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("flags")
    for row in rows:
        ratio = ""
        if row.flux_jy is not None and row.catalogue_jy:
            ratio = f"{row.flux_jy / row.catalogue_jy:.3f}"
        table.add_row(
            cell(row.source),
            f"{row.ra_deg:.4f}",
            f"{row.dec_deg:+.4f}",
            _milli(row.flux_jy),
            _milli(row.error_jy),
            _signal(row),
            ratio,
            cell(" ".join(row.flags)),
        )
    return table


def _signal(row: SourceFlux) -> str:
    return f"{row.flux_jy / row.error_jy:.1f}" if row.flux_jy and row.error_jy else ""


def _variability_table(curves: list[LightCurve]) -> KeyedTable:
    table = KeyedTable("source", pad_edge=False)
    for heading in ("epochs", "mJy", "V", "eta", "Vs", "m"):
        table.add_column(heading, justify="right")
    for curve in curves:
        statistics = curve.variability
        if statistics.pair is None:
            continue
        table.add_row(
            cell(curve.source),
            str(statistics.n_epochs),
            _milli(statistics.mean_jy),
            f"{statistics.modulation:.3f}",
            f"{statistics.eta:.2f}",
            f"{statistics.pair.vs:+.1f}",
            f"{statistics.pair.m:+.2f}",
        )
    return table


def _milli(jy: float | None) -> str:
    return "" if jy is None else f"{1e3 * jy:.2f}"


@contextmanager
def _registry(settings: Settings) -> Iterator[Registry]:
    """The registry, or `MissingInputError` if there is none yet."""
    from absurd_contimg.operations.services import open_registry

    require_registry(settings)
    with closing(open_registry(settings)) as registry:
        yield registry


def _newest_table(registry: Registry, name: str) -> Path | None:
    """The newest table of a group or window; None if it has only an image.

    Raises `MissingInputError` that names similar groups and windows.
    """
    from absurd_contimg.products.outputs import PhotometryOutputs, from_json
    from absurd_contimg.registry.models import Product
    from absurd_contimg.registry.mosaics import list_mosaics
    from absurd_contimg.registry.photometry import PHOTOMETRY_STAGE

    products = [row for row in registry.rows(Product, name) if row["stage"] == PHOTOMETRY_STAGE]
    if products:
        newest = max(products, key=lambda row: str(row["created_at"]))
        return from_json(PhotometryOutputs, newest["outputs"]).photometry.table
    groups = [group.group_id for group in registry.groups()]
    windows = [mosaic.window_id for mosaic in list_mosaics(registry.database)]
    if name not in groups and name not in windows:
        raise MissingInputError(
            f"There is no group and no window {name!r} with products.",
            did_you_mean(name, [*groups, *windows], "contimg status lists the groups."),
        )
    registry.image_outputs(name)  # or it says that there is no image
    return None


def _require_image(settings: Settings, name: str) -> str | None:
    """The newest image of a group or window, by its key; `BrokenProductError` if it is gone."""
    from absurd_contimg.registry.photometry import newest_image_key
    from absurd_contimg.stages.photometry import require_image

    with _registry(settings) as registry:
        outputs = registry.image_outputs(name)
        with registry.database.reading() as session:
            image_key = newest_image_key(session, name)
    for kind in ("image", "mosaic"):
        described = outputs.get(kind)
        if isinstance(described, Mapping) and isinstance(path := described.get("path"), str):
            require_image(Path(path), name)
    return image_key


def _spawn(settings: Settings, name: str, image_key: str | None) -> SpawnedTask:
    """A new task, unless one is waiting or running."""
    from absurd_contimg.ingest.spawn import find_catalog
    from absurd_contimg.workflows.photometry import TASK_NAME, PhotometryInputs, spawn_options

    inputs = PhotometryInputs(group_id=name, catalog_path=find_catalog(settings))
    params = inputs.model_dump(mode="json")

    async def spawn(backend: Backend) -> SpawnedTask:
        options, number = spawn_options(name, image_key), 1
        first_key = options.idempotency_key
        while True:
            task = await backend.spawn_task(settings.queue_name, TASK_NAME, params, options)
            result = await backend.get_task_result(settings.queue_name, task.task_id)
            if result is None or result.state not in TERMINAL_STATES:
                return task
            number += 1
            options = replace(options, idempotency_key=f"{first_key}#{number}")

    return with_site(settings, spawn)
