"""The states of alerts, which outlive the process that evaluates them, and who evaluates.

One process of a site evaluates at a time: it holds a lease on the database's clock, and each change
is made in one transaction with the check of the lease. So an evaluator that was paused and has lost
its lease changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base, row_values
from absurd_contimg.registry.resource_slots import database_time

_LEASE = ("", "evaluator")
"""The row that holds the lease; no rule has an empty name."""


class AlertRow(Base):
    """An alert about one subject."""

    __tablename__ = "alerts"
    rule: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """The state of a rule for one subject (a queue, worker, disk), as the evaluator keeps it."""

    rule: str
    subject: str
    state: dict[str, Any]


def list_alerts(database: Database) -> list[StoredAlert]:
    """All of them, by rule and subject."""
    with database.reading() as session:
        return _alerts(session)


def find_evaluator(database: Database) -> tuple[str, float] | None:
    """Who evaluates, and for how many seconds its lease still holds; None: nobody does."""
    with database.reading() as session:
        lease = session.get(AlertRow, _LEASE)
        left = 0.0 if lease is None else float(lease.state["until"]) - database_time(session)
        return None if lease is None or left <= 0 else (str(lease.state["holder"]), left)


def change_alerts(
    database: Database,
    holder: str,
    lease_seconds: float,
    change: Callable[[Sequence[StoredAlert], bool], Sequence[StoredAlert]],
) -> list[StoredAlert] | None:
    """Keep what `change` makes of the alerts; the holder's lease begins or is renewed.

    `change` is also told whether nobody else has evaluated since this holder did.
    None, and nothing is changed, while another holder has a lease that is not over.
    """
    with database.writing() as session:
        now = database_time(session)
        lease = session.get(AlertRow, _LEASE)
        if lease is not None:
            left = float(lease.state["until"]) - now
            # A lease that ends later than any may: the clock was set back.
            if lease.state["holder"] != holder and 0 < left <= float(lease.state["seconds"]):
                return None
        before = _alerts(session)
        held = lease is not None and lease.state["holder"] == holder
        after = list(change(before, held))
        kept = {(alert.rule, alert.subject) for alert in after}
        for alert in before:
            if (alert.rule, alert.subject) not in kept:
                session.execute(
                    delete(AlertRow).where(
                        AlertRow.rule == alert.rule, AlertRow.subject == alert.subject
                    )
                )
        known = {(alert.rule, alert.subject): alert.state for alert in before}
        for alert in after:
            if known.get((alert.rule, alert.subject)) != alert.state:
                session.merge(AlertRow(**row_values(alert)))
        state = {"holder": holder, "until": now + lease_seconds, "seconds": lease_seconds}
        session.merge(AlertRow(rule=_LEASE[0], subject=_LEASE[1], state=state))
        return after


def release_evaluator(database: Database, holder: str) -> None:
    """End the holder's lease, so that another need not wait for its end."""
    with database.writing() as session:
        lease = session.get(AlertRow, _LEASE)
        if lease is not None and lease.state["holder"] == holder:
            session.delete(lease)


def _alerts(session: Session) -> list[StoredAlert]:
    query = (
        select(AlertRow).where(AlertRow.rule != _LEASE[0]).order_by(AlertRow.rule, AlertRow.subject)
    )
    return [StoredAlert(row.rule, row.subject, row.state) for row in session.scalars(query)]
