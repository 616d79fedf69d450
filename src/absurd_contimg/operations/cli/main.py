"""``contimg``: an error that a user can solve ends in one message, any other in its traceback."""

from __future__ import annotations

import os
import sys

from rich.text import Text

from absurd_contimg.backends.postgres.embedded import user_name
from absurd_contimg.core.errors import BackendError
from absurd_contimg.errors import SettingError, UserError
from absurd_contimg.operations.cli import (  # noqa: F401 - register their commands
    alerts,
    api,
    backup,
    batches,
    calibration,
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
from absurd_contimg.operations.console import discard_output, error_console, guard_streams

_EXTRAS = {
    **dict.fromkeys(("scipy", "astropy", "erfa", "pyuvdata", "h5py", "casacore"), "casa"),
    **dict.fromkeys(("casatasks", "casatools", "casadata"), "casa"),
    **dict.fromkeys(("matplotlib", "jinja2"), "plots"),
    **dict.fromkeys(("fastapi", "starlette", "uvicorn", "httpx", "prometheus_client"), "web"),
}
"""The extra that installs a package which a light installation lacks."""


def main() -> None:
    """The entry point of the ``contimg`` program."""
    guard_streams()
    os.umask((os.umask(0o077) | 0o002) & 0o077)  # not writable for everybody, usable for us
    try:
        _run()
    except (UserError, BackendError) as error:
        name = Text(f"contimg: {type(error).__name__}: ", style="red")
        text = error_console.render_str(str(error), markup=False, emoji=False)
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
    except FileNotFoundError as error:
        if os.path.isabs(error.filename or "") or _has_current_folder():
            raise
        error_console.out(
            "contimg: the current folder was removed, and a path is relative to it. Change to "
            "another folder, or give absolute paths."
        )
        sys.exit(1)
    except PermissionError as error:
        error_console.out(f"contimg: PermissionError: {_explain(error)}")
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


def _run() -> None:
    try:
        app()
    except SystemExit:
        sys.stdout.flush()
        raise


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _explain(error: PermissionError) -> str:
    """Which file, and whose: usually root has run a command here before."""
    path = str(error.filename)
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    owner, user = user_name(os.stat(path).st_uid), user_name(os.geteuid())
    return (
        f"{error.filename}: {error.strerror}. {path} belongs to the user {owner}, and this process "
        f"runs as {user}. Run as {owner}, or: sudo chown -R {user} {path}"
    )
