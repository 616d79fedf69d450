"""Outages of the database of tasks, noted by the services that have outlived them.

Kept among the actions, beside what people did: `contimg actions` lists them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.operator_actions import (
    OperatorAction,
    OperatorActionRow,
    store_action,
)

DATABASE = "database"
"""The target of these entries."""
_ENDED = "ended "
_ENTRIES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Outage:
    """When a service had no answer, by the database's clock, and what it met first."""

    began_at: datetime
    ended_at: datetime
    service: str
    reason: str


def store_outage(database: Database, outage: Outage) -> None:
    """Enter an outage that has ended."""
    began = outage.began_at.isoformat(timespec="milliseconds")
    ended = f"{_ENDED}{outage.ended_at.isoformat(timespec='milliseconds')}"
    entry = OperatorAction(
        *(began, outage.service, "service", "outage", DATABASE, outage.reason, ended)
    )
    store_action(database, entry)


def list_outages(database: Database, begin: datetime, end: datetime) -> list[Outage]:
    """The outages that began in a span of time, the oldest first; what overlaps is one.

    `service` names the first that noted it, and how many others did.
    """
    query = (
        select(OperatorActionRow)
        .where(OperatorActionRow.target == DATABASE, OperatorActionRow.action == "outage")
        .order_by(OperatorActionRow.action_id.desc())
        .limit(_ENTRIES_MAX)
    )
    with database.reading() as session:
        outages = [each for row in session.scalars(query) if (each := _outage(row)) is not None]
    inside = [each for each in outages if begin <= each.began_at < end]
    return _merged(sorted(inside, key=lambda each: each.began_at))


def _outage(row: OperatorActionRow) -> Outage | None:
    try:
        ended_at = datetime.fromisoformat(row.outcome.removeprefix(_ENDED))
        began_at = datetime.fromisoformat(row.at)
    except ValueError:
        return None  # not one of ours
    began_at, ended_at = (
        each if each.tzinfo else each.replace(tzinfo=UTC) for each in (began_at, ended_at)
    )
    return Outage(began_at, ended_at, row.by, row.reason)


def _merged(outages: Iterable[Outage]) -> list[Outage]:
    """Those that overlap as one."""
    groups: list[list[Outage]] = []
    for outage in outages:
        if groups and outage.began_at <= max(each.ended_at for each in groups[-1]):
            groups[-1].append(outage)
        else:
            groups.append([outage])
    merged = []
    for group in groups:
        first, others = group[0], len({each.service for each in group}) - 1
        name = f"{first.service} and {others} more" if others else first.service
        ended_at = max(each.ended_at for each in group)
        merged.append(Outage(first.began_at, ended_at, name, first.reason))
    return merged
