"""Publications: which products were copied to the folder that others read, and how far that is.

The copy on disk is right where a row differs: a process may die between the two, and the next
attempt then finishes or repeats what the row says (`workflows.publication`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Mapped, Session, mapped_column

from absurd_contimg.errors import MissingInputError
from absurd_contimg.registry.database import Database, patient
from absurd_contimg.registry.models import Base, Product
from absurd_contimg.registry.stored_types import IsoTime, StoredState


class PublicationState(StrEnum):
    """The state of a publication."""

    STAGING = "staging"
    """Not begun, or to be tried again: then with the reason."""
    PUBLISHING = "publishing"
    """The copy has begun; it may be complete on disk."""
    PUBLISHED = "published"
    FAILED = "failed"
    """It is not tried again before an operator asks for it."""


class PublicationRow(Base):
    """The publication of a product; it stays when the registry is rebuilt."""

    __tablename__ = "publications"
    product_key: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    """The stage that made the product."""
    state: Mapped[str] = mapped_column(StoredState(PublicationState), index=True)
    source: Mapped[str]
    destination: Mapped[str]
    attempts: Mapped[int]
    reason: Mapped[str | None]
    published_at: Mapped[IsoTime | None]


@dataclass(frozen=True, slots=True)
class Publication:
    """The publication of a product."""

    product_key: str
    kind: str
    state: PublicationState
    source: Path
    destination: Path
    attempts: int = 0
    """Failed copies; the death of a worker and a wait for the destination are none."""
    reason: str | None = None
    published_at: str | None = None


@dataclass(frozen=True, slots=True)
class Publications:
    """The publications in a registry; each method is one transaction."""

    database: Database

    @patient
    def begin(self, product_key: str, kind: str, source: Path, destination: Path) -> Publication:
        """Enter a publication as staging; a known one keeps its state and gets the paths of now."""
        with self.database.writing() as session:
            row = session.get(PublicationRow, product_key)
            if row is None:
                state = PublicationState.STAGING.value
                row = PublicationRow(product_key=product_key, state=state, attempts=0)
                session.add(row)
            row.kind = kind
            row.source = self.database.stored(str(source))
            row.destination = self.database.stored(str(destination))
            return _publication(self.database, row)

    @patient
    def start_attempt(self, product_key: str, is_lost: bool = False) -> Publication:
        """Note that a copy begins; after a failure for good the attempts count from 0 again.

        A published one stays so, because a faster process has made it, unless its copy `is_lost`.
        """
        with self.database.writing() as session:
            row = _row(session, product_key)
            if row.state == PublicationState.FAILED:
                row.attempts = 0
            if is_lost or row.state != PublicationState.PUBLISHED:
                row.state, row.reason = PublicationState.PUBLISHING.value, None
            return _publication(self.database, row)

    @patient
    def finish(self, product_key: str, published_at: str) -> Publication:
        """Note that the copy is complete; the time (ISO 8601) of the first such note stays."""
        with self.database.writing() as session:
            row = _row(session, product_key)
            row.state, row.reason = PublicationState.PUBLISHED.value, None
            row.published_at = row.published_at or published_at
            return _publication(self.database, row)

    @patient
    def postpone(
        self, product_key: str, reason: str, attempts_max: int | None = None
    ) -> Publication:
        """Back to staging with the reason, unless a faster process has published it.

        With `attempts_max` this was a failed copy, and the last of so many fails for good.
        """
        with self.database.writing() as session:
            row = _row(session, product_key)
            if row.state == PublicationState.PUBLISHED:
                return _publication(self.database, row)
            row.state, row.reason = PublicationState.STAGING.value, reason
            if attempts_max is not None:
                row.attempts += 1
                if row.attempts >= attempts_max:
                    row.state = PublicationState.FAILED.value
            return _publication(self.database, row)

    @patient
    def fail(self, product_key: str, reason: str) -> Publication:
        """Note why there is no copy, for good, unless a faster process has published it."""
        with self.database.writing() as session:
            row = _row(session, product_key)
            if row.state != PublicationState.PUBLISHED:
                row.state, row.reason = PublicationState.FAILED.value, reason
            return _publication(self.database, row)

    def find(self, product_key: str) -> Publication | None:
        """The publication of a product, or None."""
        with self.database.reading() as session:
            row = session.get(PublicationRow, product_key)
            return None if row is None else _publication(self.database, row)

    def all(self, state: PublicationState | None = None) -> list[Publication]:
        """All publications, or those of a state, by their destination."""
        query = select(PublicationRow).order_by(PublicationRow.destination)
        if state is not None:
            query = query.where(PublicationRow.state == state.value)
        with self.database.reading() as session:
            return [_publication(self.database, row) for row in session.scalars(query)]

    def unfinished(self) -> list[Publication]:
        """Those that are neither published nor failed."""
        return [
            *self.all(PublicationState.STAGING),
            *self.all(PublicationState.PUBLISHING),
        ]

    def copies(self) -> list[Path]:
        """Where the copies are that were published, also of those that are made again."""
        return [row.destination for row in self.all() if row.published_at is not None]

    @patient
    def product_folder(self, product_key: str) -> Path:
        """Where a product lies; `MissingInputError` if it is not registered."""
        with self.database.reading() as session:
            folder = session.scalar(select(Product.folder).where(Product.key == product_key))
        if folder is None:
            raise MissingInputError(
                f"There is no product {product_key} in the registry.",
                "If it is on disk: contimg registry rebuild.",
            )
        return Path(self.database.resolved(folder))


def _row(session: Session, product_key: str) -> PublicationRow:
    row = session.get(PublicationRow, product_key)
    if row is None:
        raise MissingInputError(
            f"Product {product_key} has no publication in the registry.",
            "Check its key: contimg publish list.",
        )
    return row


def _publication(database: Database, row: PublicationRow) -> Publication:
    columns = {name: getattr(row, name) for name in Publication.__slots__}
    columns["state"] = PublicationState(row.state)
    for name in ("source", "destination"):
        columns[name] = Path(database.resolved(columns[name]))
    return Publication(**columns)
