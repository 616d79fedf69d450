"""The states of alerts, which outlive the process that evaluates them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base, row_values


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
    query = select(AlertRow).order_by(AlertRow.rule, AlertRow.subject)
    with database.reading() as session:
        return [StoredAlert(row.rule, row.subject, row.state) for row in session.scalars(query)]


def replace_alerts(database: Database, alerts: list[StoredAlert]) -> None:
    """Keep these and no others."""
    with database.writing() as session:
        session.execute(delete(AlertRow))
        session.add_all(AlertRow(**row_values(alert)) for alert in alerts)
