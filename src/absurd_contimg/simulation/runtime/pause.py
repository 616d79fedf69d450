"""Pauses a process in the middle of a call that does not wait.

The runner of stages publishes in a thread, and SIGSTOP may come between its last check of the
clock and the rename. There are no threads here: the call lasts until the process is resumed or
killed, and the world goes on inside of it. Of two calls that are paused so, the later one has to
go on first, so the earlier process may resume a little late.
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
    kernel, resumed = process.kernel, False
    outer = kernel.paused_calls[-1] if kernel.paused_calls else None
    if outer is not None:
        outer.resume_later()

    def resume() -> None:
        nonlocal resumed
        resumed = True
        kernel.stop()

    kept, process.at_resume = process.at_resume, resume
    process.at_death("paused call", resume)
    kernel.paused_calls.append(process)
    try:
        kernel.run(callbacks_max=_CALLBACKS_MAX)
    except (Deadlock, Livelock):
        process.kill()  # the outer run will meet the same
    finally:
        kernel.paused_calls.pop()
        process.at_resume = kept
        if not process.dead:
            process.at_death("paused call", None)
    if resumed:
        kernel.resume()
        if outer is not None and outer.resumes_late:
            outer.resume()
    process.check_alive()
    if process.held is not None:
        raise ProcessDied(f"{process.name}: the world ended while it was paused")
