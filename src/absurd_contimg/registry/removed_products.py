"""Products that retention has removed: what was there, and since when it is gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import BigInteger, delete, inspect, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from absurd_contimg.registry.database import Database, chunks, patient
from absurd_contimg.registry.derived import DERIVED_TABLES
from absurd_contimg.registry.models import Base, Product, row_values


class RemovedProductRow(Base):
    """A removed product; the row goes when the product is there again."""

    __tablename__ = "removed_products"
    product_key: Mapped[str] = mapped_column(primary_key=True)
    stage: Mapped[str] = mapped_column(index=True)
    group_id: Mapped[str] = mapped_column(index=True)
    folder: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    removed_at: Mapped[str]
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
        return f"removed by retention on {self.removed_at[:10]} ({self.reason})"


@patient
def note_removed(database: Database, removed: RemovedProduct) -> bool:
    """Enter a removed product and drop its other rows, in one transaction.

    False, and nothing is changed, if a product is in its folder: it was made again meanwhile.
    """
    with database.writing() as session:
        if removed.folder.exists():
            return False
        for table in DERIVED_TABLES:
            column = "key" if table is Product else "product_key"
            session.execute(
                delete(table).where(inspect(table).columns[column] == removed.product_key)
            )
        values = row_values(removed) | {"folder": database.stored(str(removed.folder))}
        session.merge(RemovedProductRow(**values))
        return True


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
