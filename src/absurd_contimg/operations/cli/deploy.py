"""The services of a site on this host."""

# SQLAlchemy takes a second to import: imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from absurd_contimg.operations.cli.app import AsJson, app, print_json, state
from absurd_contimg.operations.console import cell, console
from absurd_contimg.settings import load_settings
from absurd_contimg.terminal_tables import KeyedTable

deploy_app = typer.Typer(no_args_is_help=True, help="Install the services of this host.")
app.add_typer(deploy_app, name="deploy")


@deploy_app.command()
def install(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print all files, and write nothing.")
    ] = False,
    root: Annotated[
        Path, typer.Option(help="Write below this folder, as into an image of a host.")
    ] = Path("/"),
    user: Annotated[
        str | None, typer.Option(help="Run the services as this user. Default: you.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="How many workers share the memory of this host.")
    ] = 4,
    as_json: AsJson = False,
) -> None:
    """Write the units of systemd and their environment file for this host.

    An environment file that is there is never changed, and its settings count; otherwise one is
    made from this command's own options and variables.
    """
    from absurd_contimg.operations.deploy import (
        ENVIRONMENT_FILE,
        find_credentials,
        next_commands,
        plan_files,
        read_environment_file,
        this_site,
    )
    from absurd_contimg.operations.deploy import install as write_files

    in_force = root.absolute() / ENVIRONMENT_FILE.relative_to("/")
    environment = {**os.environ, **read_environment_file(in_force)}
    settings = load_settings(state.overrides, state.assignments, environment)
    secrets = find_credentials(root.absolute())
    site = this_site(settings, ENVIRONMENT_FILE, user, workers, secrets)
    files = plan_files(settings, site, root.absolute(), environment)
    if as_json:
        if not dry_run:
            write_files(files, site.user)
        names = ("path", "action", "mode", "note", "text")
        listed = [{name: getattr(file, name) for name in names} for file in files]
        print_json({"written": not dry_run, "files": listed, "next": next_commands(site)})
        return
    if dry_run:
        for file in files:
            console.out(f"# {file.action}: {file.path} (mode {file.mode:o})")
            for line in file.text.splitlines():
                console.out(line)
        return
    write_files(files, site.user)
    table = KeyedTable("file", "", "")
    for file in files:
        table.add_row(cell(str(file.path)), file.action, cell(file.note))
    console.print(table)
    console.out("Next:")
    for command in next_commands(site):
        console.out(f"  {command}")
