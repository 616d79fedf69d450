"""Where code that does not wait stands still: a thread of a process that was just stopped.

The runner of stages publishes in a thread, and SIGSTOP may come between its last look at the
clock and the rename. There are no threads here; the call simply lasts until the process is woken
or killed, and the world goes on inside of it. Of two that stand still so, the later one has to
go on first: the earlier one sleeps a little longer than it was told to, whether it is woken
before or after the later one was stopped.
"""

from __future__ import annotations

from absurd_contimg.simulation.runtime.kernel import Deadlock, Livelock
from absurd_contimg.simulation.runtime.loop import ProcessDied, SimLoop

_CALLBACKS_MAX = 300_000


def pause_call(process: SimLoop) -> None:
    """Return when the process runs; raise `ProcessDied` when it is dead or the world has ended."""
    process.check_alive()
    if process.held is None:
        return
    kernel, woken = process.kernel, False
    outer = kernel.paused_calls[-1] if kernel.paused_calls else None
    if outer is not None:
        outer.sleep_on()

    def wake() -> None:
        nonlocal woken
        woken = True
        kernel.stop()

    kept, process.at_resume = process.at_resume, wake
    process.at_death("paused_calls", wake)
    kernel.paused_calls.append(process)
    try:
        kernel.run(callbacks_max=_CALLBACKS_MAX)
    except (Deadlock, Livelock):
        process.kill()  # whoever runs the world will meet the same, outside of this call
    finally:
        kernel.paused_calls.pop()
        process.at_resume = kept
        if not process.dead:
            process.at_death("paused_calls", None)
    if woken:
        kernel.go_on()
        if outer is not None and outer.overslept:
            outer.resume()
    process.check_alive()
    if process.held is not None:
        raise ProcessDied(f"{process.name}: the world ended while it stood still")
