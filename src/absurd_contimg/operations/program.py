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


def main() -> None:
    """Import the commands, then run the one that is asked for."""
    _receive_signals()
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else ignored: nohup
    if is_ours:
        signal.signal(signal.SIGINT, _end)
    from absurd_contimg.operations.cli.main import main as run  # noqa: PLC0415 - see above

    if is_ours:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:  # outside of a command, which ends with this code itself
        _end(signal.SIGINT, None)
    finally:
        if is_ours:  # what still runs at exit needs no traceback either
            signal.signal(signal.SIGINT, _end)


def _receive_signals() -> None:
    """Undo what a parent has left to this process and to the stages that it starts.

    With a blocked SIGTERM no worker stops. With SIGCHLD ignored, the kernel throws away how a child
    has ended: CASA, which copies tables by ``cp``, takes each copy for a failure.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _end(_number: int, _frame: FrameType | None) -> None:
    """End at once, from wherever an import is; there is nothing to clean up yet."""
    with suppress(OSError):  # a closed standard error
        os.write(2, b"contimg: interrupted\n")
    os._exit(_INTERRUPTED)
