"""Locks on the queues' tables that somebody keeps: calls of workers wait for them."""

from __future__ import annotations

from absurd_contimg.backends.postgres.lock_holders import find_lock_holders_now, name_holders
from absurd_contimg.operations.doctor.software import Finding

KEPT_SECONDS = 60.0
"""No transaction of ours lasts as long."""


def table_locks(url: str) -> list[Finding]:
    """A finding if there are such locks, or some whose age is hidden from this user."""
    kept = [
        holder
        for holder in find_lock_holders_now(url)
        if holder.seconds is None or holder.seconds >= KEPT_SECONDS
    ]
    if not kept:
        return []
    remedy = kept[0].remedy
    text = name_holders(kept).removesuffix(remedy).strip()
    return [Finding(False, "table locks", text, remedy)]
