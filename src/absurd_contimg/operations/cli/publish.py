"""``contimg publish`` and ``contimg transits``: what is published, and what could be made."""

# SQLAlchemy and astropy take a second to import: imported where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import SpawnedTask
from absurd_contimg.errors import SettingError
from absurd_contimg.operations.cli.app import (
    AsJson,
    app,
    print_json,
    require_registry,
    state,
    with_site,
)
from absurd_contimg.operations.cli.times import utc_of
from absurd_contimg.operations.console import cell, console, counted, message_line
from absurd_contimg.settings import Settings
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.operations.services import RetriedPublication
    from absurd_contimg.registry import Registry
    from absurd_contimg.workflows.transits import Choice, TransitFinder, TransitSearch

publish_app = typer.Typer(
    no_args_is_help=True, help="List what is in the folder that others read, and publish it again."
)
app.add_typer(publish_app, name="publish")

_CHOICES: Mapping[str, Choice] = {
    "latest": "latest", "earliest": "earliest", "best": "best"
}  # fmt: skip


@publish_app.command("list")
def publish_list(
    of_state: Annotated[
        str | None, typer.Option("--state", help="staging, publishing, published or failed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List publications: how far each is, where it is, and why it is not there.

    Exit code 1 if one has failed, or is not in its place any more.
    """
    from absurd_contimg.operations.services import is_gone
    from absurd_contimg.registry.publications import PublicationState

    names = [each.value for each in PublicationState]
    if of_state is not None and of_state not in names:
        raise SettingError(f"There is no state {of_state!r}.", f"There are: {', '.join(names)}.")
    wanted = None if of_state is None else PublicationState(of_state)
    with _registry(state.settings()) as registry:
        publications = registry.publications.all(wanted)
    if as_json:
        print_json([asdict(each) for each in publications])
    else:
        table = KeyedTable(
            *("key", "product", "state", "failed", "published (UTC)"),
            keys=["key", "product"],
            empty="There is no publication"
            + (
                ": the tasks of mosaics make them." if of_state is None else f" that is {of_state}."
            ),
        )
        for each in publications:
            when = (each.published_at or "")[:19]
            cells = (each.product_key[:10], each.destination.name, each.state.value)
            table.add_row(*map(cell, cells), str(each.attempts or ""), cell(when))
        console.print(table)
        for each in publications:
            if each.reason is not None:
                text = f"{each.product_key[:10]} {each.state.value}: {each.reason}"
                console.print(message_line(text))
    gone = [each for each in publications if is_gone(each)]
    if gone and not as_json:
        console.print(
            message_line(
                f"Published, and not in its place any more: "
                f"{', '.join(each.product_key[:10] for each in gone[:10])}. Is the disk of "
                f"{state.settings().pipeline.paths.published} mounted? If they are lost: "
                f"{state.command('publish retry --all')}"
            )
        )
    if gone or any(each.state is PublicationState.FAILED for each in publications):
        raise typer.Exit(1)


@publish_app.command("retry")
def publish_retry(
    key: Annotated[
        str | None,
        typer.Argument(help="The product's key, its beginning, or the name of its folder."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All publications that did not succeed, or are gone.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish again what failed or was interrupted, by a task of its own."""
    from absurd_contimg.operations.services import (
        RetriedPublication,
        refusal,
        retry_publication,
        select_publications,
    )
    from absurd_contimg.workflows.publication import publication_advice

    if (key is None) != every:
        raise SettingError("publish retry takes a product, or --all.")
    settings = state.settings()
    with _registry(settings) as registry:
        publications = select_publications(registry.publications.all(), key)
    refused: list[RetriedPublication] = []
    for publication in list(publications):
        reason = refusal(publication, settings.pipeline.publication)
        if reason is None:
            continue
        advice = publication_advice(publication.product_key, reason)
        if not every:
            text = f"Product {publication.product_key} cannot be published: {reason}"
            raise SettingError(text, advice)
        publications.remove(publication)
        note = f"cannot be published: {reason} {advice}"
        refused.append(RetriedPublication(publication.product_key, None, note))

    async def retry(backend: Backend) -> list[RetriedPublication]:
        return [
            await retry_publication(backend, settings.queue_name, publication)
            for publication in publications
        ]

    retried = with_site(settings, retry, create=False) if publications else []
    retried += refused
    if as_json:
        print_json([asdict(each) for each in retried])
        return
    for each in retried:
        task = "" if each.task is None else f"task {each.task.task_id} "
        console.print(message_line(f"{each.product_key[:10]}: {task}{each.note}"))
    if not retried:
        console.print("All publications have succeeded.")


@publish_app.command("accept-folder")
def publish_accept_folder() -> None:
    """Take the folder for publications as it is, after the one with the published copies is lost.

    Without this nothing is published to a folder that has lost its copies and its mark: a disk
    that is away looks so.
    """
    from absurd_contimg.operations.services import ActionRecords, GivenTables, operator_name
    from absurd_contimg.products.publication import accept_publish_dir, check_publish_dir

    settings = state.settings()
    paths = settings.pipeline.paths
    check_publish_dir(paths)

    async def accept(tables: GivenTables) -> None:
        records = ActionRecords(tables, operator_name(), "command line", is_required=True)
        async with records.recorded("accept publication folder", str(paths.published), ""):
            accept_publish_dir(paths.published)

    with _registry(settings) as registry:
        asyncio.run(accept(GivenTables(registry.database)))
    text = f"{paths.published} is the folder for publications. What is not in it is made again by: "
    console.print(message_line(f"{text}{state.command('publish retry --all')}"))


@app.command()
def transits(
    calibrator: Annotated[str, typer.Option(help="A calibrator's name, or all.")] = "all",
    days_back: Annotated[float, typer.Option(min=0.0, help="Days before now.")] = 60.0,
    response_min: Annotated[
        float,
        typer.Option(min=0.01, max=0.99, help="Smallest response of the primary beam, 0 to 1."),
    ] = 0.3,
    groups_min: Annotated[
        int, typer.Option(min=1, help="Groups within 25 minutes of the transit.")
    ] = 1,
    create: Annotated[
        str | None, typer.Option(help="Make a mosaic of one: latest, earliest, best or its group.")
    ] = None,
    batch: Annotated[bool, typer.Option("--batch", help="Make a mosaic of each.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait-for-published", help="The task ends when it is published.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Number of transits, the most recent.")] = 30,
    as_json: AsJson = False,
) -> None:
    """List the transits of calibrators that were observed, most recent first.

    With --create or --batch a task makes mosaics of the groups around them.
    """
    from absurd_contimg.ingest.spawn import find_catalog
    from absurd_contimg.workflows.transits import TransitFinder, TransitSearch

    if create is not None and batch:
        raise SettingError("--create makes one mosaic, --batch one of each.", "Give one of them.")
    settings = state.settings()
    search = TransitSearch(
        catalog_path=find_catalog(settings),
        calibrator=calibrator,
        days_back_max=max(days_back, 0.001),
        response_min=response_min,
        groups_min=groups_min,
    )
    with _registry(settings) as registry:
        finder = TransitFinder(settings.pipeline, registry)
        if create is not None or batch:
            task = _spawn(settings, finder, search, create, wait)
            if as_json:
                print_json({"task_id": task.task_id, "created": task.created})
            else:
                made = "spawned" if task.created else "existed already"
                console.out(f"Task {task.task_id} {made}: contimg status")
            return
        observed = finder.matching(search)[:limit]
    now = datetime.now(UTC)
    if as_json:
        rows = [
            {
                **asdict(each),
                "transit_time": utc_of(each.transit_mjd),
                "days_ago": (now - utc_of(each.transit_mjd)).total_seconds() / 86_400.0,
            }
            for each in observed
        ]
        print_json(rows)
        return
    table = KeyedTable(
        *("transit (UTC)", "calibrator", "group", "beam", "groups", "MS", "days"),
        keys=["transit (UTC)", "calibrator", "group"],
    )
    for each in observed:
        days = (now - utc_of(each.transit_mjd)).total_seconds() / 86_400.0
        table.add_row(
            f"{utc_of(each.transit_mjd):%Y-%m-%d %H:%M}",
            cell(each.calibrator),
            cell(each.group_id),
            f"{each.beam_response:.2f}",
            str(each.n_groups),
            str(each.n_measurement_sets),
            f"{days:.1f}",
        )
    if observed:
        console.print(table)
    further = "" if observed else ": --days-back looks further back"
    console.out(f"{counted(len(observed), 'transit')} in the last {days_back:g} days{further}.")


def _spawn(
    settings: Settings,
    finder: TransitFinder,
    search: TransitSearch,
    create: str | None,
    wait: bool,
) -> SpawnedTask:
    """Spawn the task; the transit is selected now, so that the same words later mean another."""
    from absurd_contimg.workflows.transit_mosaics import (
        BATCH_TASK,
        CREATE_TASK,
        BatchMosaicInputs,
        TransitMosaicInputs,
        spawn_options,
    )
    from absurd_contimg.workflows.transits import select_transit

    common = search.model_dump()
    if create is None:
        finder.require(search)
        name = BATCH_TASK
        inputs: TransitSearch = BatchMosaicInputs(**common, wait_for_published=wait)
    else:
        candidates = finder.require(search, None if create in _CHOICES else create)
        chosen = select_transit(candidates, _CHOICES.get(create, "latest"))
        chosen_by = {"calibrator": chosen.calibrator, "group_id": chosen.group_id}
        name = CREATE_TASK
        inputs = TransitMosaicInputs(**{**common, **chosen_by}, wait_for_published=wait)
    params, options = inputs.model_dump(mode="json"), spawn_options(name, inputs)

    async def spawn(backend: Backend) -> SpawnedTask:
        return await backend.spawn_task(settings.queue_name, name, params, options)

    return with_site(settings, spawn)


@contextmanager
def _registry(settings: Settings) -> Iterator[Registry]:
    """The registry, or `MissingInputError` if there is none yet."""
    from absurd_contimg.operations.services import open_registry

    require_registry(settings)
    with closing(open_registry(settings)) as registry:
        yield registry
