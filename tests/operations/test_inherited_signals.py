"""What a parent has blocked or ignored reaches neither a worker nor its stages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

# CASA copies tables by ``cp``, and looks at its exit code.
_SCRIPT = """
import os, signal
from absurd_contimg.operations import program
from absurd_contimg.operations.cli import main
def show():
    blocked = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
    print(os.system("exit 3"), [number.name for number in blocked])
main.main = show
program.main()
"""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM)


def _inherit() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


@pytest.mark.parametrize("inherits", [False, True])
def test_program_takes_the_signals_that_its_parent_kept_from_it(inherits: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        preexec_fn=_inherit if inherits else None,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    code, blocked = done.stdout.split(maxsplit=1)
    assert os.waitstatus_to_exitcode(int(code)) == 3
    assert blocked.strip() == "[]"
