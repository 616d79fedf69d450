"""What people did by command line, API and dashboard: who, when, to what, why, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import insert, select
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base, row_values
from absurd_contimg.registry.stored_types import IsoTime

MAINTENANCE = "maintenance"
"""The target of the action ``maintain``: how the last one ended is shown until another succeeds."""


class OperatorActionRow(Base):
    """An action."""

    __tablename__ = "operator_actions"
    action_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[IsoTime]
    by: Mapped[str]
    source: Mapped[str]
    action: Mapped[str]
    target: Mapped[str] = mapped_column(index=True)
    reason: Mapped[str]
    outcome: Mapped[str]


@dataclass(frozen=True, slots=True)
class OperatorAction:
    """One action of a person."""

    at: str
    """ISO 8601, UTC."""
    by: str
    """User and host, or what the token is called."""
    source: str
    """``command line``, ``api`` or ``dashboard``; ``service`` of an outage (`registry.outages`)."""
    action: str
    """As ``cancel``, ``retry``, ``pause``."""
    target: str
    """The id of a task or batch, or the name of a queue."""
    reason: str = ""
    outcome: str = "done"
    """``done``, or what was wrong."""


def store_action(database: Database, action: OperatorAction) -> None:
    """Enter an action."""
    with database.writing() as session:
        session.execute(insert(OperatorActionRow).values(**row_values(action)))


def list_actions(
    database: Database, *, target: str | None = None, limit: int = 100
) -> list[OperatorAction]:
    """The newest actions first, of all targets or of one."""
    query = select(OperatorActionRow).order_by(OperatorActionRow.action_id.desc()).limit(limit)
    if target is not None:
        query = query.where(OperatorActionRow.target == target)
    with database.reading() as session:
        return [
            OperatorAction(**{name: getattr(row, name) for name in OperatorAction.__slots__})
            for row in session.scalars(query)
        ]


def maintenance_problem(database: Database) -> str:
    """Why the last maintenance did not do all of its work; empty if it did, or never ran."""
    query = select(OperatorActionRow).where(OperatorActionRow.target == MAINTENANCE)
    newest = query.order_by(OperatorActionRow.action_id.desc()).limit(1)
    with database.reading() as session:
        last = session.scalars(newest).first()
        if last is None or last.outcome == "done":
            return ""
        return (
            f"The last maintenance ({last.by}, {last.at[:19]} UTC) {last.outcome.rstrip('.')}. "
            "Remove the cause, then repeat it: contimg maintenance run"
        )


def cancelled_by(database: Database, task_id: str) -> str:
    """``cancelled by NAME at TIME: REASON``; empty if no action cancelled this task."""
    for action in list_actions(database, target=task_id):
        if (action.action, action.outcome) == ("cancel", "done"):
            reason = f": {action.reason}" if action.reason else ""
            return f"cancelled by {action.by} at {action.at[:19]} UTC{reason}"
    return ""
