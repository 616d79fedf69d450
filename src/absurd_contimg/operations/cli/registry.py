"""``contimg registry``: compare the registry with the disk, rebuild it, and list raw files."""

# SQLAlchemy takes a second to import: it is imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from absurd_contimg.core.backend import Backend
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.operations.cli.app import (
    AsJson,
    print_json,
    registry_app,
    require_registry,
    state,
    with_backend,
)
from absurd_contimg.operations.cli.times import parse_time
from absurd_contimg.operations.console import cell, console, counted
from absurd_contimg.settings import Settings
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.registry import Registry


_REMOVED_SHOWN = 20
"""Of the products that retention has removed, the last ones."""


@registry_app.command()
def check(as_json: AsJson = False) -> None:
    """Compare the registry with the disk: products, mosaics, published copies, incoming files.

    By names and sizes; contimg verify reads the bytes.
    Calibrations that were retired because they were missing, and are whole again, are used again;
    groups that wait for one go on. Raw files that are gone are marked so. Exit code 1 if products
    are missing, damaged or not registered, or if anything else is wrong.
    """
    from absurd_contimg.products.removal import unfinished_removals
    from absurd_contimg.registry.consistency import (
        derived_problems,
        publication_problems,
        refresh_file_index,
        window_problems,
    )
    from absurd_contimg.registry.removed_products import removed_products

    settings = state.settings()
    with _registry(settings) as (registry, output_dir):
        report = registry.check(output_dir)
        woken = _wake_groups(settings, registry)
        files = refresh_file_index(registry.database)
        publications = publication_problems(registry.database, settings.pipeline.paths.published)
        windows = window_problems(registry.database)
        rows = derived_problems(registry.database)
        removed = removed_products(registry.database)
        interrupted = [each.key for each in unfinished_removals(output_dir)]
    rows += [
        f"The removal of {key} was interrupted: contimg maintenance run" for key in interrupted
    ]
    if as_json:
        shown = {"report": report, "groups_that_go_on": woken, "files": files}
        shown |= {"removed_by_retention": removed}
        print_json({**shown, "publications": publications, "windows": windows, "rows": rows})
    else:
        for _, text in report.broken:
            console.out(text)
        _show(
            "is not in the registry: contimg registry rebuild enters it, or says why not",
            map(str, report.unknown),
        )
        _show("is in use again", report.reinstated)
        _show("has a calibration and goes on", woken)
        for problem in (*publications, *windows, *rows):
            console.out(problem)
        _show("cannot be read: nothing is known of its files", map(str, files.absent_folders))
        if files.gone or files.returned:
            console.out(
                f"Raw files: {len(files.gone)} gone since the last look, "
                f"{len(files.returned)} there again, of {files.files}."
            )
        for each in removed[-_REMOVED_SHOWN:]:
            console.out(f"{each.folder} was {each}")
        if len(removed) > _REMOVED_SHOWN:
            console.out(f"{len(removed)} products were removed by retention in all.")
        wrong = f"{len(report.broken)} missing or damaged, {len(report.unknown)} not registered"
        console.out(f"{counted(report.products, 'product')} in the registry, {wrong}.")
    if report.broken or report.unknown or publications or windows or rows:
        raise typer.Exit(1)


@registry_app.command()
def rebuild(
    empty: Annotated[
        bool, typer.Option("--empty", help="All products were deleted on purpose.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Replace what the registry knows of products by the manifests on disk.

    Published copies without a row are entered. Groups, their status and files, windows and batches
    stay, if there is a registry. An output folder without any product is refused: its disk may not
    be mounted. Exit code 1 if a product is broken.
    """
    from absurd_contimg.registry.consistency import enter_publications

    settings = state.settings()
    with _registry(settings, may_be_new=True) as (registry, output_dir):
        report = registry.rebuild(output_dir, may_be_empty=empty)
        published = enter_publications(
            registry.database, settings.pipeline.paths.published, output_dir
        )
        woken = _wake_groups(settings, registry)
    if as_json:
        print_json(
            {"report": report, "groups_that_go_on": woken, "publications_entered": published}
        )
    else:
        for _, text in report.broken:
            console.out(f"Left out: {text}")
        _show("has a calibration and goes on", woken)
        if published:
            console.out(f"{published} published copies entered.")
        console.out(f"{counted(report.entered, 'product')} entered, {len(report.broken)} broken.")
    if report.broken:
        raise typer.Exit(1)


@registry_app.command()
def files(
    start: Annotated[str, typer.Argument(help="The first time: ISO 8601 (UTC) or MJD.")],
    end: Annotated[
        str | None, typer.Argument(help="The last time. Default: all later ones.")
    ] = None,
    of_state: Annotated[
        str | None, typer.Option("--state", help="Only files in this state, as late.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the raw files whose names have a time in a span (UTC, ends included)."""
    from absurd_contimg.registry.models import FileState
    from absurd_contimg.registry.subband_files import list_files

    states = [each.value for each in FileState]
    if of_state is not None and of_state not in states:
        raise SettingError(f"There is no state {of_state!r}.", f"There are: {', '.join(states)}.")
    settings = state.settings()
    require_registry(settings)
    with _registry(settings) as (registry, _):
        listed = list_files(
            registry.database,
            start_seconds=_unix_seconds(start, "START"),
            end_seconds=None if end is None else _unix_seconds(end, "END"),
            states=None if of_state is None else [FileState(of_state)],
        )
    if as_json:
        print_json(listed)
        return
    table = KeyedTable("file", "group", "state", "reason", keys=["file", "group"], pad_edge=False)
    for file in listed:
        table.add_row(*map(cell, (file.path.name, file.group_id, file.state, file.reason or "")))
    console.print(table)


def _unix_seconds(text: str, name: str) -> int:
    return int(parse_time(text, name).timestamp())


@contextmanager
def _registry(settings: Settings, *, may_be_new: bool = False) -> Iterator[tuple[Registry, Path]]:
    """The registry and the output folder; `MissingInputError` if the latter is not there."""
    from absurd_contimg.operations.services import open_registry

    output_dir = settings.pipeline.paths.output_dir
    if not output_dir.is_dir():
        raise MissingInputError(f"There is no folder {output_dir}.", "Check --output-dir.")
    with closing(open_registry(settings, may_be_new=may_be_new)) as registry:
        yield registry, output_dir


def _wake_groups(settings: Settings, registry: Registry) -> list[str]:
    """Let the tasks go on whose groups wait for a calibration that there is."""
    from absurd_contimg.workflows.calibration_wait import calibration_event, served_groups

    groups = served_groups(registry)

    async def emit(backend: Backend) -> None:
        for group_id in groups:
            await backend.emit_event(settings.queue_name, calibration_event(group_id), {})

    if groups:
        with_backend(settings, emit, create=False)
    return groups


def _show(fact: str, things: Iterable[str]) -> None:
    for thing in things:
        console.out(f"{thing} {fact}")
