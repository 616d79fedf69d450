"""What the commands share: the program, its options, access to the database."""

from __future__ import annotations

import asyncio
import difflib
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.logging import RichHandler

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import QueueNotFound
from absurd_contimg.core.failures import UNRECOGNISED
from absurd_contimg.core.records import History
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.history.summary import read_histories
from absurd_contimg.history.timeline import group_of
from absurd_contimg.operations.services import open_backend
from absurd_contimg.settings import Settings, load_settings
from absurd_contimg.workflows.failure_rules import CLASSIFIER

_T = TypeVar("_T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Durable continuum imaging for the DSA-110, on Absurd.",
)
database_app = typer.Typer(no_args_is_help=True, help="The database.")
app.add_typer(database_app, name="db")
quarantine_app = typer.Typer(no_args_is_help=True, help="Groups with unusable data.")
app.add_typer(quarantine_app, name="quarantine")

console = Console()
error_console = Console(stderr=True)


class Options:
    """Values of the options before the command."""

    overrides: dict[str, Any]
    assignments: list[str]

    def settings(self, **overrides: Any) -> Settings:
        """The settings; `overrides` come from options of the command and take precedence."""
        return load_settings(self.overrides | overrides, self.assignments)


state = Options()

_Folder = Annotated[Path | None, typer.Option(file_okay=False)]


@app.callback()
def _before(
    input_dir: _Folder = None,
    output_dir: _Folder = None,
    scratch_dir: _Folder = None,
    state_dir: _Folder = None,
    database_url: Annotated[str | None, typer.Option(help="Postgres to use.")] = None,
    queue: Annotated[str | None, typer.Option(help="Queue of the pipeline's tasks.")] = None,
    catalog: Annotated[Path | None, typer.Option(help="Sky catalogue (CSV).")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, such as imaging.niter=500.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
) -> None:
    """Options before the command; each also has an environment variable."""
    state.overrides = {
        "input_dir": input_dir,
        "output_dir": output_dir,
        "scratch_dir": scratch_dir,
        "state_dir": state_dir,
        "database_url": database_url,
        "queue_name": queue,
        "catalog": catalog,
        "config_file": config,
    }
    state.assignments = assign or []
    interactive = error_console.is_terminal
    rich_handler = RichHandler(console=error_console, show_path=False)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(message)s" if interactive else "%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S" if interactive else "%Y-%m-%dT%H:%M:%S",
        # In a file, each event is one line with its date, for grep.
        handlers=[rich_handler if interactive else logging.StreamHandler()],
    )
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


def with_backend(
    settings: Settings, work: Callable[[Backend], Awaitable[_T]], *, create: bool = True
) -> _T:
    """Call `work` with a connected backend; `create` as in `open_backend`.

    Raises `MissingInputError` that lists the queues if the one of the settings does not exist.
    """

    async def call() -> _T:
        async with open_backend(settings, create=create) as backend:
            try:
                return await work(backend)
            except QueueNotFound as error:
                queues = await backend.list_queues()
                if not queues:
                    raise
                raise MissingInputError(
                    f"There is no queue {settings.queue_name!r}; there are: {', '.join(queues)}.",
                    "Correct --queue or ABSURD_QUEUE_NAME, or create it: contimg db init",
                ) from error

    return asyncio.run(call())


async def find_task(backend: Backend, settings: Settings, name: str) -> History:
    """A task by its id, by the end of its id, or by its group."""
    queue = settings.queue_name
    try:
        candidates = await backend.histories(queue, [UUID(name)])
    except ValueError:
        tasks = await backend.list_tasks(queue, limit=10_000)
        matching = [
            task.task_id
            for task in tasks
            if str(task.task_id).endswith(name)
            or (isinstance(task.params, dict) and task.params.get("group_id") == name)
        ]
        candidates = await backend.histories(queue, matching)
    if {group_of(history) for history in candidates} == {name}:
        return candidates[0]  # the newest: a group that was respawned has several
    if len(candidates) != 1:
        count = "No task" if not candidates else f"{len(candidates)} tasks"
        raise MissingInputError(
            f"{count} on queue {queue} called {name!r}.", "contimg status lists them."
        )
    return candidates[0]


def newest_histories(settings: Settings, limit: int = 100_000) -> list[History]:
    """The histories of the newest tasks of the queue, newest first."""

    async def read(backend: Backend) -> list[History]:
        return await read_histories(backend, settings.queue_name, limit=limit)

    return with_backend(settings, read, create=False)


def renamed_to(option: str) -> Callable[[typer.Context, typer.CallbackParam, bool], None]:
    """A callback that refuses the earlier name of an option and suggests `option`."""

    def refuse(context: typer.Context, parameter: typer.CallbackParam, given: bool) -> None:
        if given:
            context.fail(f"No such option: {parameter.opts[0]} (Did you mean {option}?)")

    return refuse


def check_rule(name: str) -> None:
    """Raise `SettingError` if the failure table has no such rule."""
    names = [rule.id for rule in (*CLASSIFIER.rules, UNRECOGNISED)]
    if name not in names:
        similar = difflib.get_close_matches(name, names, 1)
        hint = f"Did you mean {similar[0]}?" if similar else "contimg failures lists them."
        raise SettingError(f"There is no rule {name!r}.", hint)


def print_json(value: object) -> None:
    """Print dataclasses, times and ids as JSON on standard output."""
    print(json.dumps(to_jsonable_python(value), indent=1))


def write_report_to(settings: Settings, histories: list[History], path: Path | None) -> None:
    """Write the report, by default into the output folder, and print its path."""
    from absurd_contimg.operations.report import write_report  # noqa: PLC0415

    target = path or settings.pipeline.paths.output_dir / "report.html"
    for file in write_report(target, histories):
        console.print(f"Wrote {file}", highlight=False, soft_wrap=True)
