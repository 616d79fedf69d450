"""What the commands share: the program, its options, access to the database."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer
from rich.logging import RichHandler

from absurd_contimg.config import PathsConfig
from absurd_contimg.config.variables import VARIABLES
from absurd_contimg.core.backend import Backend, Inspection
from absurd_contimg.core.errors import QueueNotFound
from absurd_contimg.core.records import History
from absurd_contimg.errors import MissingInputError, SettingError
from absurd_contimg.history.history_file import HistoryFile
from absurd_contimg.history.stage_tasks import with_stage_tasks
from absurd_contimg.history.summary import read_histories
from absurd_contimg.history.timeline import SECONDARY_TASKS
from absurd_contimg.operations.console import (
    SafeConsole,
    SafeFormatter,
    console,
    error_console,
    jsonable,
)
from absurd_contimg.operations.log_stream import QueuedStream
from absurd_contimg.secrets import has_password, mask, without_password
from absurd_contimg.settings import Settings, load_settings

if TYPE_CHECKING:
    from absurd_contimg.history.wait_explanation import WaitContext
    from absurd_contimg.operations.overview import GroupOverview
    from absurd_contimg.operations.services import Actions

_T = TypeVar("_T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Durable continuum imaging for the DSA-110, on Absurd.",
    epilog="The options above stand before the command: contimg --folder demo status. A command is "
    "explained by contimg COMMAND --help, this machine checked by contimg doctor.",
)
database_app = typer.Typer(
    no_args_is_help=True, help="Make, find and stop the database of the tasks."
)
app.add_typer(database_app, name="db")
quarantine_app = typer.Typer(
    no_args_is_help=True, help="List and release the groups with unusable data."
)
app.add_typer(quarantine_app, name="quarantine")
registry_app = typer.Typer(
    no_args_is_help=True, help="Compare the registry with the disk, rebuild it, list raw files."
)
app.add_typer(registry_app, name="registry")

SERVICES = ("worker", "daemon", "api", "dashboard")
"""The commands that a service manager starts."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FromFile = Annotated[
    Path | None,
    typer.Option(
        "--from", help="Histories from this file (contimg archive), not from the database."
    ),
]
TaskName = Annotated[str, typer.Argument(help="A task: its id, the end of its id, or its group.")]
ChangedTask = Annotated[
    str,
    typer.Argument(help="A task: its id, at least 6 characters of its end, or its group."),
]
Reason = Annotated[str, typer.Option(help="Why; it is recorded (contimg actions).")]
GroupName = Annotated[str, typer.Argument(help="The group, as contimg status shows it.")]


class Options:
    """Values of the options before the command."""

    overrides: dict[str, Any]
    assignments: list[str]
    unrecorded: list[str]
    """What the command has done and the registry could not record: it is said last."""
    given: str = ""
    """The options before the command, as they were given."""
    is_service = False
    """Whether the command is one that a service manager starts: then wrong settings end it with the
    exit code 78 (EX_CONFIG), after which it is not started again."""

    def settings(self, **overrides: Any) -> Settings:
        """The settings; `overrides` come from options of the command and take precedence."""
        return load_settings(self.overrides | overrides, self.assignments)

    def command(self, text: str) -> str:
        """A command for the same site, to be copied."""
        return f"contimg {self.given}{text}"


state = Options()


def folder_parser(option: str) -> Callable[[str], Path]:
    """Reads a folder, which may not be there yet."""

    def parse(text: str) -> Path:
        path = Path(text)
        if path.exists() and not path.is_dir():
            raise SettingError(f"{option} {text} is a file.", "Give a folder.")
        return path

    return parse


def _option(variable: str, *names: str, file_okay: bool = True, note: str = "") -> Any:
    """An option instead of an environment variable, with the meaning of that variable."""
    meaning = VARIABLES[variable].help
    text = f"{meaning[0].upper()}{meaning[1:]} ({variable}).{note}"
    if file_okay:
        return typer.Option(*names, help=text)
    option = f"--{VARIABLES[variable].setting.replace('_', '-')}"
    return typer.Option(*names, help=text, parser=folder_parser(option), metavar="DIRECTORY")


def _given_options(context: typer.Context) -> str:
    """The options with values that stand before the command, each with a space after it."""
    text = ""
    for option in context.command.params:
        source = context.get_parameter_source(str(option.name))
        is_given = source is not None and source.name == "COMMANDLINE"
        value = context.params.get(str(option.name))
        if is_given and not isinstance(value, bool):
            values = value if isinstance(value, list) else [value]
            text += "".join(f"{option.opts[0]} {shlex.quote(mask(str(v)))} " for v in values)
    return text


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"contimg {importlib.metadata.version('absurd-contimg')}", highlight=False)
        raise typer.Exit


@app.callback()
def _before(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Option(
            parser=folder_parser("--folder"),
            metavar="DIRECTORY",
            help="A folder with incoming, products, scratch and state in it, as make demo makes "
            "one: instead of the next four options, which count more.",
        ),
    ] = None,
    input_dir: Annotated[Path | None, _option("PIPELINE_INPUT_DIR", file_okay=False)] = None,
    output_dir: Annotated[Path | None, _option("PIPELINE_OUTPUT_DIR", file_okay=False)] = None,
    scratch_dir: Annotated[Path | None, _option("PIPELINE_SCRATCH_DIR", file_okay=False)] = None,
    state_dir: Annotated[Path | None, _option("PIPELINE_STATE_DIR", file_okay=False)] = None,
    publish_dir: Annotated[Path | None, _option("PIPELINE_PUBLISH_DIR", file_okay=False)] = None,
    database_url: Annotated[
        str | None,
        _option("ABSURD_DATABASE_URL", note=" With a password, set the variable instead."),
    ] = None,
    queue_name: Annotated[str | None, _option("ABSURD_QUEUE_NAME", "--queue")] = None,
    catalog: Annotated[Path | None, _option("PIPELINE_CATALOG")] = None,
    config_file: Annotated[Path | None, _option("PIPELINE_CONFIG", "--config")] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="Pipeline setting, as imaging.niter=500; repeatable."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log debug messages too.")
    ] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and end."
        ),
    ] = False,
) -> None:
    """Options before the command. contimg settings shows all values."""
    below = None if folder is None else PathsConfig.below(folder)
    state.overrides = {
        "input_dir": input_dir or (below and below.input_dir),
        "output_dir": output_dir or (below and below.output_dir),
        "scratch_dir": scratch_dir or (below and below.scratch_dir),
        "state_dir": state_dir or (below and below.state_dir),
        "publish_dir": publish_dir,
        "database_url": database_url,
        "queue_name": queue_name,
        "catalog": catalog,
        "config_file": config_file,
    }
    state.assignments, state.unrecorded = assign or [], []
    state.given = _given_options(context)
    state.is_service = context.invoked_subcommand in SERVICES
    interactive = error_console.is_terminal
    stream, log_console = None, error_console
    if context.invoked_subcommand in (*SERVICES, "run") and not logging.root.handlers:
        stream = QueuedStream(sys.stderr.fileno())
        log_console = SafeConsole(file=cast(IO[str], stream), highlight=False, emoji=False)
    handler: logging.Handler = logging.StreamHandler(stream)
    if interactive:
        handler = RichHandler(console=log_console, show_path=False)
    # In a file, each event is one line with its date, for grep.
    text = "%(message)s" if interactive else "%(asctime)s %(levelname)s %(message)s"
    handler.setFormatter(SafeFormatter(text, "%H:%M:%S" if interactive else "%Y-%m-%dT%H:%M:%S"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    if not verbose:  # each migration of the registry would be ten lines of its plugins
        logging.getLogger("alembic").setLevel(logging.WARNING)
    if has_password(database_url or ""):
        error_console.print(
            "The password in --database-url can be seen by every user of this machine (ps). "
            "Set ABSURD_DATABASE_URL instead, or name a passfile."
        )


def with_backend(
    settings: Settings, work: Callable[[Backend], Awaitable[_T]], *, create: bool = True
) -> _T:
    """Call `work` with a connected backend; lists the queues if that of the settings is absent."""
    from absurd_contimg.operations.services import (  # noqa: PLC0415 - slow
        absent_queue,
        open_backend,
    )

    async def call() -> _T:
        async with open_backend(settings, create=create) as backend:
            try:
                return await work(backend)
            except QueueNotFound as error:
                queues = await backend.list_queues()
                if not queues or settings.queue_name in queues:
                    raise  # it names the table that is missing
                advice = "Correct --queue or ABSURD_QUEUE_NAME, or create it: contimg db init"
                absent = absent_queue(settings.queue_name, queues, advice)
                raise MissingInputError(*absent) from error

    return asyncio.run(call())


def with_site(
    settings: Settings, work: Callable[[Backend], Awaitable[_T]], *, create: bool = True
) -> _T:
    """`with_backend` for what changes tasks or products: refused with another site's registry."""
    from absurd_contimg.operations.services import (  # noqa: PLC0415 - slow
        has_registry,
        require_registry_of_site,
    )

    require_registry_of_site(settings)
    has_registry(settings)  # raises where it is gone
    return with_backend(settings, work, create=create)


def with_inspection(
    settings: Settings, file: Path | None, work: Callable[[Inspection], Awaitable[_T]]
) -> _T:
    """Call `work` with the histories of a file, or without one with a connected backend."""
    if file is None:
        return with_backend(settings, work, create=False)

    async def call(path: Path) -> _T:
        return await work(HistoryFile(path))

    return asyncio.run(call(file))


def with_actions(settings: Settings, work: Callable[[Actions], Awaitable[_T]]) -> _T:
    """Call `work` with the actions of who runs this command."""
    from absurd_contimg.operations.services import (  # noqa: PLC0415 - slow
        Actions,
        SiteTables,
        operator_name,
    )

    async def call(backend: Backend) -> _T:
        with closing(SiteTables(settings)) as tables:
            actions = Actions(backend, tables, operator_name(), "command line", state.unrecorded)
            return await work(actions)

    return with_site(settings, call, create=False)


def require_registry(settings: Settings) -> None:
    """Raise `MissingInputError` without one: an empty list would be good news about nothing."""

    from absurd_contimg.operations.services import has_registry  # noqa: PLC0415 - slow

    if not has_registry(settings):
        place = without_password(settings.registry_url).removeprefix("sqlite:///")
        raise MissingInputError(
            f"There is no registry yet at {place}.",
            "Check --folder, --output-dir and --state-dir; contimg spawn and daemon make one.",
        )


async def read_waits(
    settings: Settings, inspection: Inspection, from_file: Path | None = None
) -> tuple[WaitContext, list[GroupOverview]]:
    """What is known of the site beside histories, and its groups that have no task yet.

    Nothing more where the histories are in a file.
    """
    from absurd_contimg.operations.overview import (  # noqa: PLC0415 - slow
        Site,
        production_site,
        read_context_and_groups,
    )

    if from_file is not None:
        return await read_context_and_groups(Site(f"history file {from_file}", inspection))
    with production_site(settings, inspection) as site:
        return await read_context_and_groups(site)


def newest_histories(settings: Settings, limit: int = 100_000) -> list[History]:
    """The histories of the newest tasks of the queue, newest first, with their stage tasks."""

    async def read(backend: Backend) -> list[History]:
        return await read_newest(backend, settings, limit)

    return with_backend(settings, read, create=False)


async def read_newest(inspection: Inspection, settings: Settings, limit: int) -> list[History]:
    """See `newest_histories`."""
    histories = await read_histories(inspection, settings.queue_name, limit=limit)
    return await with_stage_tasks(inspection, histories)


def all_histories(
    settings: Settings, limit: int = 100_000, file: Path | None = None
) -> list[History]:
    """The histories of the newest tasks of the queue, and of those of its stages beside it."""

    async def read(backend: Inspection) -> list[History]:
        histories = await read_histories(backend, settings.queue_name, limit=limit)
        prefix = f"{settings.queue_name}-"
        for queue in await backend.list_queues():
            if queue.startswith(prefix):
                histories += await read_histories(backend, queue, limit=limit)
        return histories

    return with_inspection(settings, file, read)


def print_json(value: object) -> None:
    """Print dataclasses, times and ids as JSON on standard output."""
    print(json.dumps(jsonable(value), indent=1))


def write_report_to(
    settings: Settings,
    histories: list[History],
    path: Path | None,
    waiting: Sequence[tuple[str, int, int, str]] = (),
) -> None:
    """Write the report on groups and mosaics, by default into the output folder.

    `waiting` are groups without a task: sub-bands there and expected, what they wait for.
    """
    from absurd_contimg.operations.report import Section, write_report  # noqa: PLC0415 - slow

    paths = settings.pipeline.paths
    target = path or paths.output_dir / "report.html"
    primary = [h for h in histories if h.task.task_name not in SECONDARY_TASKS]
    rows = [(name, f"{present} of {expected}", why) for name, present, expected, why in waiting]
    columns = ("group", "sub-bands", "waits for")
    extra = [Section("Groups without a task", columns=columns, rows=rows)] if rows else []
    for file in write_report(target, primary, extra, folders=paths.readable):
        console.out(f"Wrote {file}")
