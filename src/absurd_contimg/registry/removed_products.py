"""Products that retention has removed: what was there, and since when it is gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from absurd_contimg.registry.database import Database, chunks
from absurd_contimg.registry.models import Base
from absurd_contimg.registry.stored_types import IsoTime, StoredBigInteger

REMOVED_FILE = "removed by retention on "
"""How the reason of a raw file begins that retention has removed."""


class RemovedProductRow(Base):
    """A removed product; the row goes when the product is there again."""

    __tablename__ = "removed_products"
    product_key: Mapped[str] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(index=True)
    group_id: Mapped[str] = mapped_column(index=True)
    folder: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(StoredBigInteger)
    removed_at: Mapped[IsoTime]
    reason: Mapped[str]


@dataclass(frozen=True, slots=True)
class RemovedProduct:
    """One removed product."""

    product_key: str
    stage: str
    group_id: str
    folder: Path
    size_bytes: int
    removed_at: str
    """ISO 8601, UTC."""
    reason: str
    """The rule that removed it."""

    def __str__(self) -> str:
        return _text(self.removed_at, self.reason)


def forget_removed(session: Session, product_keys: Iterable[str]) -> None:
    """Drop the rows of products that are there again."""
    for part in chunks(list(product_keys)):
        session.execute(delete(RemovedProductRow).where(RemovedProductRow.product_key.in_(part)))


def removed_products(database: Database, group_id: str | None = None) -> list[RemovedProduct]:
    """What was removed, of all groups and windows or of one, in the order of time."""
    query = select(RemovedProductRow).order_by(
        RemovedProductRow.removed_at, RemovedProductRow.product_key
    )
    if group_id is not None:
        query = query.where(RemovedProductRow.group_id == group_id)
    with database.reading() as session:
        return [
            RemovedProduct(
                **{
                    name: getattr(row, name)
                    for name in RemovedProduct.__slots__
                    if name != "folder"
                },
                folder=Path(database.resolved(row.folder)),
            )
            for row in session.scalars(query)
        ]


def removed_text(session: Session, group_id: str, stage: str) -> str | None:
    """When and why the newest product of a stage of a group was removed, None if none was."""
    query = (
        select(RemovedProductRow)
        .where(RemovedProductRow.group_id == group_id, RemovedProductRow.stage == stage)
        .order_by(RemovedProductRow.removed_at.desc())
        .limit(1)
    )
    row = session.scalars(query).first()
    return None if row is None else f"its {stage} was {_text(row.removed_at, row.reason)}"


def _text(removed_at: str, reason: str) -> str:
    return f"{REMOVED_FILE}{removed_at[:10]} ({reason})"
