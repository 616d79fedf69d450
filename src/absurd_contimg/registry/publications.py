"""Publications: which products were copied to the folder for the public, and how far that is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.errors import MissingInputError
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base


class PublicationState(StrEnum):
    """The state of a publication."""

    STAGING = "staging"
    PUBLISHING = "publishing"
    """The copy has begun; it may be complete on disk."""
    PUBLISHED = "published"
    FAILED = "failed"


class PublicationRow(Base):
    """The publication of a product; it stays when the registry is rebuilt."""

    __tablename__ = "publications"
    product_key: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    """``image`` or ``mosaic``."""
    state: Mapped[str] = mapped_column(index=True)
    source: Mapped[str]
    destination: Mapped[str]
    attempts: Mapped[int]
    reason: Mapped[str | None]
    published_at: Mapped[str | None]


@dataclass(frozen=True, slots=True)
class Publication:
    """The publication of a product."""

    product_key: str
    kind: str
    state: PublicationState
    source: Path
    destination: Path
    attempts: int = 0
    reason: str | None = None
    published_at: str | None = None


def begin_publication(
    database: Database, product_key: str, kind: str, source: Path, destination: Path
) -> Publication:
    """Enter a publication as staging; one that is known is returned as it is."""
    with database.writing() as session:
        row = session.get(PublicationRow, product_key)
        if row is None:
            row = PublicationRow(
                product_key=product_key,
                kind=kind,
                state=PublicationState.STAGING.value,
                source=database.stored(str(source)),
                destination=database.stored(str(destination)),
                attempts=0,
                reason=None,
                published_at=None,
            )
            session.add(row)
        return _publication(database, row)


def list_publications(
    database: Database, state: PublicationState | None = None
) -> list[Publication]:
    """All publications, or those of a state, by the key of their product."""
    query = select(PublicationRow).order_by(PublicationRow.product_key)
    if state is not None:
        query = query.where(PublicationRow.state == state.value)
    with database.reading() as session:
        return [_publication(database, row) for row in session.scalars(query)]


def find_publication(database: Database, product_key: str) -> Publication | None:
    """The publication of a product, or None."""
    with database.reading() as session:
        row = session.get(PublicationRow, product_key)
        return None if row is None else _publication(database, row)


def start_attempt(database: Database, product_key: str) -> Publication:
    """Note that a copy begins: one attempt more. A published one stays published."""
    with database.writing() as session:
        row = session.get(PublicationRow, product_key)
        if row is None:
            raise _unknown(product_key)
        if row.state != PublicationState.PUBLISHED:
            row.state, row.attempts = PublicationState.PUBLISHING.value, row.attempts + 1
            row.reason = None
        return _publication(database, row)


def finish_publication(database: Database, product_key: str, published_at: str) -> Publication:
    """Note that the copy is complete; the time (ISO 8601) of the first such note stays."""
    with database.writing() as session:
        row = session.get(PublicationRow, product_key)
        if row is None:
            raise _unknown(product_key)
        if row.state != PublicationState.PUBLISHED:
            row.state, row.reason = PublicationState.PUBLISHED.value, None
            row.published_at = published_at
        return _publication(database, row)


def fail_publication(database: Database, product_key: str, reason: str) -> Publication:
    """Note why there is no copy, whatever the state was."""
    with database.writing() as session:
        row = session.get(PublicationRow, product_key)
        if row is None:
            raise _unknown(product_key)
        row.state, row.reason, row.published_at = PublicationState.FAILED.value, reason, None
        return _publication(database, row)


def _unknown(product_key: str) -> MissingInputError:
    return MissingInputError(
        f"Product {product_key} has no publication in the registry.",
        "Check its key: contimg publish list.",
    )


def _publication(database: Database, row: PublicationRow) -> Publication:
    columns = {name: getattr(row, name) for name in Publication.__slots__}
    columns["state"] = PublicationState(row.state)
    for name in ("source", "destination"):
        columns[name] = Path(database.resolved(columns[name]))
    return Publication(**columns)
