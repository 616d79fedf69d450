"""``contimg``: an error that a user can solve ends in one message, any other in its traceback."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from inspect import cleandoc
from itertools import takewhile
from pathlib import Path
from typing import Any

import typer
from rich.text import Text
from typer.core import TyperCommand, TyperGroup
from typing_extensions import override

from absurd_contimg.core.errors import BackendError
from absurd_contimg.errors import SettingError, UserError
from absurd_contimg.file_locks import advice_without_locks
from absurd_contimg.file_owners import explain_refusal
from absurd_contimg.operations.cli import (  # noqa: F401 - register their commands
    alerts,
    api,
    backup,
    batches,
    calibration,
    compare,
    daemon,
    dashboard,
    deploy,
    emergency,
    files,
    inspect,
    maintenance,
    manage,
    monitor,
    mosaic,
    night,
    photometry,
    publish,
    queues,
    registry,
    run,
    schedules,
    simulate,
    status,
    synthesize,
)
from absurd_contimg.operations.cli.app import app, state
from absurd_contimg.operations.console import (
    discard_output,
    error_console,
    guard_streams,
    indented_lines,
    message_line,
    one_line,
    require_output,
)
from absurd_contimg.shadowed_modules import shadow_behind

_EXTRAS = {
    **dict.fromkeys(("scipy", "astropy", "erfa", "pyuvdata", "h5py", "casacore"), "casa"),
    **dict.fromkeys(("casatasks", "casatools", "casadata"), "casa"),
    **dict.fromkeys(("matplotlib", "jinja2"), "plots"),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "httpx", "prometheus_client"), "web"),
}
"""The extra that installs a package which a light installation lacks."""


UNRECORDED = 3
"""The exit code of a command that has done what it was to do, and of which there is no record."""
_NUMBER_MAX = 2**63 - 1
"""Of a bigint of Postgres, and of a whole number of SQLite."""
_DIGITS_MAX = 1000
"""Python reads no number of some thousands."""


class _SiteCommand(TyperCommand):
    """A command that says where an option of the site has to stand, and refuses empty values."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        before = {name for option in ctx.find_root().command.params for name in option.opts}
        own = {name for option in self.get_params(ctx) for name in option.opts}
        for argument in takewhile(lambda each: each != "--", args):
            name = argument.partition("=")[0]
            if name in before - own:
                ctx.fail(f"{name} stands before the command: contimg {name} ... {self.name}")
        _refuse_unusable_values(self, ctx, args)
        return super().parse_args(ctx, args)

    @override
    def invoke(self, ctx: Any) -> Any:
        """Run it; what it has done and could not record is said last, and by the exit code."""
        try:
            result = super().invoke(ctx)
        except typer.Exit as ended:
            _show_unrecorded(ended.exit_code)
            raise
        except (UserError, BackendError):
            _show_unrecorded(1)
            raise
        _show_unrecorded(0)
        return result


def _show_unrecorded(code: int) -> None:
    """Show what is done and in no record; raises `typer.Exit` instead of code 0."""
    sys.stdout.flush()
    for text in state.unrecorded:
        error_console.print(f"[red]contimg:[/] {message_line(text)}", soft_wrap=True)
    if state.unrecorded and not code:
        raise typer.Exit(UNRECORDED)


class _Site(TyperGroup):
    """The program with the options before its command, which are no empty values either."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _refuse_unusable_values(self, ctx, args)
        return super().parse_args(ctx, args)


def _refuse_unusable_values(command: Any, ctx: Any, args: list[str]) -> None:
    """What a shell's variable that is not set gives: an empty path would be the current folder.

    And ``-`` as a path: it would be a file of that name, not a standard stream. And a number that
    no database takes.
    """
    values, _, _ = command.make_parser(ctx).parse_args(args=[*args])
    for parameter in command.get_params(ctx):
        given = values.get(parameter.name)
        texts = [
            each.strip()
            for each in (given if isinstance(given, list | tuple) else (given,))
            if isinstance(each, str)
        ]
        is_option = parameter.param_type_name == "option"
        name = parameter.opts[0] if is_option else str(parameter.name).upper()
        if "" in texts and parameter.default != "":
            ctx.fail(f"{name} is empty. Give a value; the current folder is written as a dot.")
        kind = getattr(parameter, "type_descriptor", None)  # older releases of Typer have none
        annotation = getattr(kind, "annotation", None)
        if annotation is int and any(map(_is_too_large, texts)):
            ctx.fail(f"{name} is too large. Give a number of at most {_NUMBER_MAX}.")
        if "-" in texts and "Path" in str(annotation):
            ctx.fail(f"{name} takes no standard stream. A file of the name - is written as ./-")


def _is_too_large(text: str) -> bool:
    digits = text.lstrip("+-").replace("_", "")
    return digits.isdecimal() and (len(digits) > _DIGITS_MAX or int(digits) > _NUMBER_MAX)


def _unwrap_help(group: typer.Typer) -> None:
    """Join the lines of each paragraph of the help: typer would keep those of the code."""
    for command in group.registered_commands:
        command.cls = _SiteCommand
        text = cleandoc(command.help or getattr(command.callback, "__doc__", None) or "")
        paragraphs = (each.replace("\n", " ") for each in text.split("\n\n"))
        command.help = "\n\n".join(paragraphs)
    for part in group.registered_groups:
        if part.typer_instance is not None:
            _unwrap_help(part.typer_instance)


_unwrap_help(app)
app.info.cls = _Site
app.registered_commands.sort(
    key=lambda each: str(each.name or getattr(each.callback, "__name__", ""))
)
app.registered_groups.sort(key=lambda group: str(group.name))


def main() -> None:
    """The entry point of the ``contimg`` program."""
    guard_streams()
    os.umask((os.umask(0o077) | 0o002) & 0o077)  # not writable for everybody, usable for us
    try:
        _run()
    except (UserError, BackendError) as error:
        name = Text(f"contimg: {type(error).__name__}: ", style="red")
        text = error_console.render_str(indented_lines(error), markup=False, emoji=False)
        if error_console.is_terminal:
            error_console.print(name + text)
        else:  # nothing has to fit: the sentence is broken as if it stood alone
            error_console.print(name, end="")
            error_console.print(text)
        is_setting = isinstance(error, SettingError)
        sys.exit(os.EX_CONFIG if is_setting and state.is_service else 1)
    except BrokenPipeError:  # nobody reads on
        discard_output()
        sys.exit(1)
    except PermissionError as error:
        path = os.path.abspath(os.fsdecode(error.filename or "."))
        reason = f"{path}: {error.strerror}. {explain_refusal(Path(path), error.errno)}"
        error_console.out(f"contimg: PermissionError: {reason}")
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        error_console.out(
            f"contimg: this command needs the package {error.name}, which is not installed. "
            f"Run: pip install 'absurd-contimg[{extra}]'"
        )
        sys.exit(1)
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        refusal = _refusal_of_the_system(error) or _path_problem(error, sys.argv[1:])
        if refusal is None:
            raise
        error_console.out(f"contimg: {refusal}")
        sys.exit(1)


def _run() -> None:
    try:
        app()
    except SystemExit:
        sys.stdout.flush()
        require_output()
        raise
    except Exception as error:
        _raise_named(error)
        behind = None if isinstance(error, UserError | BackendError) else shadow_behind(error)
        if behind is not None:
            raise SettingError(*behind) from error
        raise


def _raise_named(error: Exception) -> None:
    """Raise what `core.errors` has for an error of Postgres in a session outside of a backend."""
    psycopg = sys.modules.get("psycopg")  # slow to import, and there if it has raised
    if psycopg is not None and isinstance(error, psycopg.Error):
        from absurd_contimg.backends.postgres.database_errors import (  # noqa: PLC0415
            raise_translated,
        )

        raise_translated(error)


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


_NOT_OFFERED = (
    "Its file system does not offer what this needs: contimg doctor tries it. Use another one."
)
_LIMITS: dict[int, str] = {
    errno.EFBIG: "Raise the limit of the size of a file: ulimit -f.",
    errno.EMFILE: "Raise the limit of open files: ulimit -n.",
    errno.ENFILE: "The machine has too many open files.",
    errno.ENOSPC: "Free space on its disk.",
    errno.EDQUOT: "Free space: the quota of this user is used up.",
    errno.EROFS: "Its file system can only be read: mount it for writing.",
    errno.EIO: "Its disk may be broken: look at dmesg.",
    errno.ESTALE: "Mount its file system again.",
    errno.EAGAIN: "Raise the limits of processes and memory: ulimit -u, ulimit -v.",
    errno.ENOMEM: "Free memory, or raise its limit: ulimit -v.",
    errno.ELOOP: "Its links lead in a circle.",
    errno.ENAMETOOLONG: "Use a shorter name.",
    errno.ENOTDIR: "A part of the path is no folder.",
    errno.ENOTSUP: _NOT_OFFERED,
    errno.ENOSYS: _NOT_OFFERED,
}
"""What to do about errors of the operating system that are nobody's mistake in this package."""


def _refusal_of_the_system(error: Exception) -> str | None:
    """A sentence for what the machine refuses; None for what may be a defect of this package."""
    if isinstance(error, MemoryError):
        return f"MemoryError: the memory does not suffice. {_LIMITS[errno.ENOMEM]}"
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return f"the machine starts no more threads. {_LIMITS[errno.EAGAIN]}"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        return f"{one_line(error)}. {_LIMITS[errno.ELOOP]}"  # of pathlib before Python 3.13
    if isinstance(error, ImportError):
        return _refusal_to_load(error)
    return _refusal_of_file(error) if isinstance(error, OSError) else None


def _refusal_of_file(error: OSError) -> str | None:
    advice, name = _LIMITS.get(error.errno or 0), error.filename
    if type(error) is OSError and error.errno == errno.EINVAL and name is not None:
        advice = _NOT_OFFERED  # without a file, it may be a wrong argument of ours
    if name is not None and error.errno == errno.ENOLCK:
        advice = advice_without_locks(Path(os.fsdecode(name)).parent, "put it on a local disk")
    if advice is None:
        return None
    place = "" if name is None else f" ({one_line(os.fsdecode(name))})"
    return f"{one_line(error.strerror or error)}{place}. {advice}"


def _refusal_to_load(error: ImportError) -> str | None:
    """A sentence for a library that the loader cannot read or map, whose text ends in the cause."""
    causes = {os.strerror(number): advice for number, advice in _LIMITS.items()}
    causes["failed to map segment from shared object"] = _LIMITS[errno.ENOMEM]
    text = one_line(error)
    return next((f"{text}. {causes[each]}" for each in causes if text.endswith(each)), None)


def _path_problem(error: Exception, arguments: Sequence[str]) -> str | None:
    """A sentence about a path that was given; None for what may be a defect of this package."""
    if not isinstance(error, OSError):
        return None
    is_missing = isinstance(error, FileNotFoundError)
    if is_missing and not os.path.isabs(error.filename or "") and not _has_current_folder():
        return (
            "the current folder was removed, and a path is relative to it. Change to another "
            "folder, or give absolute paths."
        )
    if isinstance(error, FileExistsError) and error.filename and not os.path.isdir(error.filename):
        name = one_line(os.fsdecode(error.filename))  # of mkdir: a file, or a link to nothing
        return f"{name} exists and is no folder. Move it away, or give another path."
    given = given_path(error, arguments)
    if given is None:
        return None
    reason = (error.strerror or str(error)).rstrip(".")
    return f"{type(error).__name__}: {given} cannot be used: {reason}. Give another path."


def given_path(error: OSError, arguments: Sequence[str]) -> str | None:
    """The argument that names a path of the error, a file beside it, or a folder above it."""
    paths = [
        os.path.abspath(os.fsdecode(name))
        for name in (error.filename, error.filename2)
        if isinstance(name, str | bytes)
    ]
    for argument in arguments:
        value = argument.partition("=")[2] if argument.startswith("--") else argument
        if value.strip("/") in ("", "."):  # above everything
            continue
        path = os.path.abspath(value)
        for each in paths:
            is_beside = each.startswith(f"{os.path.dirname(path)}/.")
            if each == path or is_beside or each.startswith(f"{path}/"):
                return value
    return None
