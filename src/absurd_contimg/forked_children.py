"""What a forked child of this process does not keep: locks, and connections to databases.

``os.fork`` and ``multiprocessing`` in a handler copy every descriptor. A child that outlives its
worker would hold the worker's locks, so that no worker of the same id could start, and its
connections; and what the child closes at its end would be closed for the worker too. So in the
child these descriptors are ``/dev/null``. The child itself lives as long as its handler lets it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

_locks: set[int] = set()


def withhold_lock(descriptor: int) -> None:
    """Keep a descriptor from children that are forked before `close_lock`."""
    _locks.add(descriptor)


def close_lock(descriptor: int) -> None:
    """Close a descriptor of `withhold_lock`."""
    _locks.discard(descriptor)
    os.close(descriptor)


def detach(descriptors: Iterable[int]) -> None:
    """Let them lead to ``/dev/null`` in this process, which others than this one do not notice."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in descriptors:
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _detach_locks() -> None:
    detach(_locks)
    _locks.clear()


os.register_at_fork(after_in_child=_detach_locks)
