"""The entry point of ``contimg``, which is there before what takes a second to import.

It imports nothing of this package itself: Ctrl-C in that second ends the program in one line.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType

_INTERRUPTED = 130
"""128 and the number of SIGINT, as shells count."""
_received = signal.SIGINT
"""What has interrupted the command."""


def main() -> None:
    """Import the commands, then run the one that is asked for.

    SIGTERM and SIGHUP interrupt it as Ctrl-C does, so that it removes its partial files and ends
    its programs; then the process ends by that signal.
    """
    _receive_signals()
    ours = [  # others are ignored, as by nohup
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    ]
    for number in ours:
        signal.signal(number, _end)
    try:
        from absurd_contimg.operations.cli.main import main as run  # noqa: PLC0415 - see above
    except Exception as error:  # a module of another package may raise anything
        _end_if_shadowed(error)
        raise
    for number in ours:
        is_interrupt = number == signal.SIGINT  # asyncio wants Python's own
        signal.signal(number, signal.default_int_handler if is_interrupt else _interrupt)
    try:
        run()
    except KeyboardInterrupt:  # outside of a command
        _end(_received, None)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:  # within one
            _end(_received, None)
        raise
    finally:
        for number in ours:  # what still runs at exit needs no traceback either
            signal.signal(number, _end)


def _end_if_shadowed(error: Exception) -> None:
    """End in one message where PYTHONPATH puts another package before one that is needed."""
    from absurd_contimg.shadowed_modules import shadow_behind  # noqa: PLC0415 - see above

    if (behind := shadow_behind(error)) is not None:
        os.write(2, f"contimg: {' '.join(behind)}\n".encode(errors="backslashreplace"))
        raise SystemExit(1) from error


def _receive_signals() -> None:
    """Undo what a parent has left to this process and to the stages that it starts.

    With a blocked SIGTERM no worker stops. With SIGCHLD ignored, the kernel throws away how a child
    has ended: CASA, which copies tables by ``cp``, takes each copy for a failure.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Do what SIGINT does at this moment: asyncio cancels its task, else `KeyboardInterrupt`."""
    global _received  # noqa: PLW0603 - a process has one
    _received = signal.Signals(number)
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def _end(number: int, _frame: FrameType | None) -> None:
    """End at once, from wherever an import is; there is nothing to clean up any more."""
    name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    with suppress(OSError):  # a closed standard error
        os.write(2, f"contimg: interrupted{name}\n".encode())
    if number != signal.SIGINT:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)  # a service manager counts this end as one that it asked for
    os._exit(_INTERRUPTED)
