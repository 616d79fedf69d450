"""A synchronous standby that is gone: every change waits for it, and each answer looks well."""

from __future__ import annotations

from collections.abc import Iterable

from absurd_contimg.backends.postgres.lock_holders import find_missing_standby_now
from absurd_contimg.backends.postgres.synchronous_standby import REMEDY
from absurd_contimg.operations.doctor.software import Finding


def missing_standby(urls: Iterable[str]) -> list[Finding]:
    """A finding if one of the databases waits for a standby that is not there."""
    names = {each.names for url in urls for each in find_missing_standby_now(url)}
    return [
        Finding(
            False,
            "standby",
            "Changes wait for a synchronous standby that is not there or does not answer "
            f"(synchronous_standby_names = '{name}').",
            REMEDY,
        )
        for name in sorted(names)
    ]
