"""``contimg``: the command line.

Commands only translate between people and the modules beside this one. Errors that a person can
do something about end in one message and exit code 1; anything else is a bug and shows where.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.backends.postgres.embedded import EmbeddedPostgresError
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.errors import BackendError
from absurd_contimg.core.records import History, State
from absurd_contimg.core.retries import RetryPolicy
from absurd_contimg.operations.database import database_url as find_database
from absurd_contimg.operations.database import initialise, open_backend
from absurd_contimg.operations.disk_guard import worker_notes
from absurd_contimg.operations.failure_table import failure_table
from absurd_contimg.operations.history_view import history_tables, tasks_table
from absurd_contimg.operations.progress import watch
from absurd_contimg.operations.quarantine import quarantined, release, retry_failed
from absurd_contimg.operations.settings import VARIABLES, Settings, known_settings, load_settings
from absurd_contimg.operations.spawning import Spawned, parse_calibrator, spawn_groups
from absurd_contimg.operations.timeline import group_of, is_ended
from absurd_contimg.registry import Registry
from absurd_contimg.stages.errors import MissingInputError, StageError

_T = TypeVar("_T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Durable continuum imaging for the DSA-110, on Absurd.",
)
database_app = typer.Typer(no_args_is_help=True, help="The database.")
app.add_typer(database_app, name="db")
quarantine_app = typer.Typer(no_args_is_help=True, help="Groups whose data are not fit for use.")
app.add_typer(quarantine_app, name="quarantine")

console = Console()
error_console = Console(stderr=True)


def main() -> None:
    """The entry point of the ``contimg`` program."""
    try:
        app()
    except (StageError, BackendError, EmbeddedPostgresError) as error:
        error_console.print(f"[red]contimg: {type(error).__name__}:[/] ", end="")
        error_console.print(str(error), markup=False, highlight=False)
        sys.exit(1)


class _State:
    """What the options before the command have set."""

    overrides: dict[str, Any]
    assignments: list[str]

    def settings(self, **more: Any) -> Settings:
        return load_settings(self.overrides | more, self.assignments)


_state = _State()

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
    """Options that come before the command; each also has an environment variable."""
    _state.overrides = {
        "input_dir": input_dir,
        "output_dir": output_dir,
        "scratch_dir": scratch_dir,
        "state_dir": state_dir,
        "database_url": database_url,
        "queue_name": queue,
        "catalog": catalog,
        "config_file": config,
    }
    _state.assignments = assign or []
    to_people = error_console.is_terminal
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(message)s" if to_people else "%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S" if to_people else "%Y-%m-%dT%H:%M:%S",
        # A log in a file is for grep: one line an event, each with its date.
        handlers=[
            RichHandler(console=error_console, show_path=False)
            if to_people
            else logging.StreamHandler()
        ],
    )
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)


# -- data and tasks -------------------------------------------------------------------------


@app.command()
def synth(
    folder: Annotated[Path, typer.Argument(help="Where to write the observations.")],
    preset: Annotated[str, typer.Option(help="tiny, demo or full.")] = "demo",
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="As n_antennas=48; repeatable.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="As missing:0:3 (kind, group, sub-band); repeatable."),
    ] = None,
) -> None:
    """Make synthetic but real UVH5 observations with a known sky."""
    from absurd_contimg.operations.synthesizing import make_observations  # noqa: PLC0415

    made = make_observations(folder, preset, option or [], fault or [])
    table = Table("group", "files", "calibrator", box=None)
    for group in made.groups:
        table.add_row(group.group_id, str(len(group.files)), "yes" if group.calibrator else "")
    console.print(table)
    console.print(f"Catalogue {made.catalog}\nTruth     {made.truth}", highlight=False)


@app.command()
def spawn(
    calibrator: Annotated[str, typer.Option(help="auto, none or a name.")] = "auto",
    now: Annotated[bool, typer.Option(help="Do not wait for missing sub-bands.")] = False,
    anew: Annotated[
        bool,
        typer.Option(help="Another task for groups that failed, with the files there are now."),
    ] = False,
) -> None:
    """Spawn a task for each observation group in the input folder."""
    settings = _state.settings()

    async def run(backend: Backend) -> list[Spawned]:
        return await _spawn(backend, settings, calibrator, now, anew)

    _show_spawned(_with_backend(settings, run))


@app.command()
def run(
    calibrator: Annotated[str, typer.Option(help="auto, none or a name.")] = "auto",
    now: Annotated[bool, typer.Option(help="Do not wait for missing sub-bands.")] = False,
    concurrency: Annotated[int, typer.Option(min=1, help="Groups at once.")] = 2,
    report_path: Annotated[
        Path | None, typer.Option("--report", help="Where to write the HTML report.")
    ] = None,
) -> None:
    """Spawn, work, wait and report, all in this process."""
    from absurd_contimg.operations.service import serve  # noqa: PLC0415 - imports numpy

    settings = _state.settings(concurrency=concurrency)

    async def work(backend: Backend) -> list[History]:
        spawned = await _spawn(backend, settings, calibrator, now)
        _show_spawned(spawned)
        ids = [one.task.task_id for one in spawned if one.task is not None]
        open_states: list[State] = ["pending", "running", "sleeping"]
        others = await backend.list_tasks(settings.queue_name, states=open_states)
        tasks = [*ids, *(task.task_id for task in others if task.task_id not in ids)]
        serving = asyncio.create_task(serve(settings))
        watching = asyncio.create_task(watch(backend, settings.queue_name, tasks, console))
        await asyncio.wait({serving, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not watching.done():  # the worker was stopped, or failed
            watching.cancel()
            await serving
            console.print("Stopped. What was begun is handed back; contimg run goes on with it.")
            raise typer.Exit(130)
        serving.cancel()
        await asyncio.wait({serving})
        return watching.result()

    histories = _with_backend(settings, work)
    for one in history_tables(histories):
        console.print(one)
    _write_report(settings, histories, report_path)
    if any(history.task.state != "completed" for history in histories):
        raise typer.Exit(1)


@app.command()
def worker(
    worker_id: Annotated[
        str | None, typer.Option(help="Stable name; a restart takes up what it left.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1)] = None,
    claim_timeout: Annotated[int | None, typer.Option(min=1, help="Lease, seconds.")] = None,
    until_idle: Annotated[bool, typer.Option(help="End when there is no work.")] = False,
) -> None:
    """Work on the queue until SIGTERM."""
    from absurd_contimg.operations.service import serve  # noqa: PLC0415 - imports numpy

    settings = _state.settings(
        worker_id=worker_id, concurrency=concurrency, claim_timeout_seconds=claim_timeout
    )
    asyncio.run(serve(settings, until_idle))


# -- looking --------------------------------------------------------------------------------


@app.command()
def status(
    limit: Annotated[int, typer.Option(min=1, help="Newest tasks to show.")] = 20,
) -> None:
    """Show the queue and its newest tasks."""
    settings = _state.settings()

    async def read(backend: Backend) -> tuple[Any, list[History]]:
        stats = await backend.queue_stats(settings.queue_name)
        tasks = await backend.list_tasks(settings.queue_name, limit=limit)
        found = [await backend.history(settings.queue_name, task.task_id) for task in tasks]
        return stats, [one for one in found if one is not None]

    stats, histories = _with_backend(settings, read, create=False)
    counts = ", ".join(f"{number} {state}" for state, number in stats.tasks_by_state.items())
    console.print(f"[bold]{stats.queue_name}[/]: {counts or 'no tasks'}")
    if stats.oldest_claimable_seconds is not None:
        console.print(
            f"{stats.claimable} waiting for a worker, the first for "
            f"{stats.oldest_claimable_seconds:.0f} s"
        )
    if stats.expired_leases:
        console.print(f"[yellow]{stats.expired_leases} leases expired, not yet taken up[/]")
    for note in worker_notes(settings.pipeline.paths.state_dir):
        if note["reason"]:
            console.print(f"[yellow]worker {note['worker']} since {note['since']}:[/] ", end="")
            console.print(str(note["reason"]), markup=False, highlight=False, soft_wrap=True)
    console.print(tasks_table(histories))


@app.command()
def history(
    task: Annotated[str, typer.Argument(help="A task's id, its end, or its group.")],
) -> None:
    """Show what happened to one task: attempts, stages, where it died, where it resumed."""
    settings = _state.settings()

    async def read(backend: Backend) -> History:
        return await _find(backend, settings, task)

    for one in history_tables([_with_backend(settings, read, create=False)]):
        console.print(one)


@app.command()
def report(
    path: Annotated[Path | None, typer.Argument(help="The HTML file to write.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Newest tasks to include.")] = 20,
) -> None:
    """Write one self-contained HTML report on the newest tasks and their images."""
    settings = _state.settings()

    async def read(backend: Backend) -> list[History]:
        tasks = await backend.list_tasks(settings.queue_name, limit=limit)
        found = [await backend.history(settings.queue_name, task.task_id) for task in tasks]
        return [one for one in reversed(found) if one is not None]

    _write_report(settings, _with_backend(settings, read, create=False), path)


@app.command()
def retry(
    task: Annotated[str, typer.Argument(help="A failed task: id, its end, or group.")],
) -> None:
    """Run a failed task again, from its last checkpoint."""
    settings = _state.settings()

    async def again(backend: Backend) -> str:
        spawned = await retry_failed(backend, await _find(backend, settings, task))
        return f"Task {spawned.task_id} will run again, attempt {spawned.attempt}."

    console.print(_with_backend(settings, again), highlight=False)


@app.command()
def cancel(task: Annotated[str, typer.Argument(help="A task: id, its end, or group.")]) -> None:
    """Cancel a task; what it has committed stays."""
    settings = _state.settings()

    async def stop(backend: Backend) -> str:
        found = await _find(backend, settings, task)
        if is_ended(found):
            return f"Task {found.task.task_id} had already ended: it is {found.task.state}."
        await backend.cancel_task(settings.queue_name, found.task.task_id)
        return f"Task {found.task.task_id} is cancelled."

    console.print(_with_backend(settings, stop), highlight=False)


@app.command()
def doctor() -> None:
    """Say what is missing on this machine, and what to do about it."""
    from absurd_contimg.operations.doctor import diagnose  # noqa: PLC0415

    findings = diagnose(_state.overrides, _state.assignments)
    for one in findings:
        mark = "[green]ok[/]" if one.ok else "[red]no[/]"
        text = f"{mark}  [bold]{escape(one.check)}[/]: {escape(one.finding)}"
        console.print(text, highlight=False, soft_wrap=True)
        if one.remedy:
            console.print(f"    {escape(one.remedy)}", highlight=False, soft_wrap=True)
    problems = sum(not one.ok for one in findings)
    if problems:
        console.print(f"[red]{problems} of {len(findings)} checks found a problem.[/]")
        raise typer.Exit(1)
    console.print("[green]Nothing is missing.[/]")


@app.command()
def settings() -> None:
    """List all environment variables, and all pipeline settings with their values."""
    current = _state.settings()
    for variable, meaning in VARIABLES.items():
        value = getattr(
            current, meaning.setting, getattr(current.pipeline.paths, meaning.setting, "")
        )
        shown = "" if value in ("", None) else f" = {value}"
        console.print(f"{variable}{shown}: {meaning.help}", highlight=False, soft_wrap=True)
    console.print()
    values = current.pipeline.model_dump()
    for name, default in known_settings().items():
        section, key = name.split(".")
        value = values[section][key]
        changed = "" if value == default else f"  (default {default!r})"
        console.print(f"{name} = {value!r}{changed}", highlight=False, soft_wrap=True)


@app.command()
def failures(
    markdown: Annotated[bool, typer.Option(help="As docs/failures.md.")] = False,
) -> None:
    """List the failure table: what is recognised, its kind, what to do."""
    from absurd_contimg.operations.service import CLASSIFIER  # noqa: PLC0415 - imports numpy

    if markdown:
        print(failure_table(CLASSIFIER.rules, RetryPolicy()), end="")
        return
    table = Table("rule", "kind", "what to do", "source", box=None)
    for rule in CLASSIFIER.rules:
        table.add_row(rule.id, rule.kind.value, rule.advice, rule.source)
    console.print(table)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Everything is written in here.")] = Path("demo"),
) -> None:
    """The main job on synthetic data: two workers, one killed in the middle of a stage."""
    from absurd_contimg.operations.demo import run_demo  # noqa: PLC0415

    if not asyncio.run(run_demo(folder.absolute(), console)):
        raise typer.Exit(1)


# -- quarantine -----------------------------------------------------------------------------


@quarantine_app.command("list")
def quarantine_list() -> None:
    """List the groups whose data are not fit for use, and why."""
    registry = Registry(_state.settings().registry_url)
    try:
        table = Table("group", "reason", box=None)
        for group in quarantined(registry):
            table.add_row(group.group_id, escape(group.reason or ""))
    finally:
        registry.close()
    console.print(table)


@quarantine_app.command("release")
def quarantine_release(group: Annotated[str, typer.Argument(help="The group's name.")]) -> None:
    """Run the task of a quarantined group again, after its cause has been removed."""
    settings = _state.settings()

    async def again(backend: Backend) -> str:
        registry = Registry(settings.registry_url)
        try:
            found = await _find(backend, settings, group)
            spawned = await release(backend, registry, group, found)
        finally:
            registry.close()
        return f"Task {spawned.task_id} will run again, attempt {spawned.attempt}."

    console.print(_with_backend(settings, again), highlight=False)


# -- database -------------------------------------------------------------------------------


@database_app.command("init")
def db_init() -> None:
    """Install or migrate Absurd's schema and make the queue."""
    settings = _state.settings()
    url = find_database(settings)
    console.print(asyncio.run(initialise(url, settings.queue_name)), highlight=False)
    console.print(f"Database {url}", highlight=False)


@database_app.command("stop")
def db_stop() -> None:
    """Stop the embedded server."""
    EmbeddedPostgres(_state.settings().embedded_folder).stop()


@database_app.command("url")
def db_url() -> None:
    """Print the database's URL, for psql and absurdctl; starts the embedded server."""
    console.print(find_database(_state.settings()), highlight=False, soft_wrap=True)


# -- shared ---------------------------------------------------------------------------------


def _with_backend(settings: Settings, work: Any, *, create: bool = True) -> Any:
    async def call() -> Any:
        async with open_backend(settings, create=create) as backend:
            return await work(backend)

    return asyncio.run(call())


async def _spawn(
    backend: Backend, settings: Settings, calibrator: str, now: bool, anew: bool = False
) -> list[Spawned]:
    settings.pipeline.paths.state_dir.mkdir(parents=True, exist_ok=True)
    registry = Registry(settings.registry_url)
    try:
        return await spawn_groups(
            backend,
            settings,
            registry,
            calibrator=parse_calibrator(calibrator),
            incomplete_now=now,
            anew=anew,
        )
    finally:
        registry.close()


def _show_spawned(spawned: list[Spawned]) -> None:
    table = Table("group", "sub-bands", "task", "", box=None)
    for one in spawned:
        if one.task is None:
            note = "waiting for more (--now does not wait)"
            table.add_row(one.group.group_id, str(len(one.group.files)), "", note)
        else:
            note = "spawned" if one.task.created else "was there"
            table.add_row(
                one.group.group_id, str(len(one.group.files)), str(one.task.task_id), note
            )
    console.print(table)


async def _find(backend: Backend, settings: Settings, name: str) -> History:
    """A task by its id, by the end of its id, or by its group."""
    queue = settings.queue_name
    try:
        found = await backend.history(queue, UUID(name))
        candidates = [] if found is None else [found]
    except ValueError:
        tasks = await backend.list_tasks(queue, limit=10_000)
        matching = [
            task.task_id
            for task in tasks
            if str(task.task_id).endswith(name)
            or (isinstance(task.params, dict) and task.params.get("group_id") == name)
        ]
        loaded = [await backend.history(queue, task_id) for task_id in matching]
        candidates = [one for one in loaded if one is not None]
    of_group = {group_of(one) for one in candidates}
    if of_group == {name}:
        return candidates[0]  # the newest: a group that was spawned anew has several
    if len(candidates) != 1:
        what = "No task" if not candidates else f"{len(candidates)} tasks"
        raise MissingInputError(
            f"{what} on queue {queue} called {name!r}.", "contimg status lists them."
        )
    return candidates[0]


def _write_report(settings: Settings, histories: list[History], path: Path | None) -> None:
    from absurd_contimg.operations.report import write_report  # noqa: PLC0415

    target = path or settings.pipeline.paths.output_dir / "report.html"
    for written in write_report(target, histories):
        console.print(f"Wrote {written}", highlight=False, soft_wrap=True)
