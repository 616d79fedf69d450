"""The simulated registry of publications; it survives the death of every process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from absurd_contimg.registry.publications import Publication, PublicationState


class SimulatedPublications:
    """A `PublicationRegistry`; each call is one transaction."""

    def __init__(self, folder_of: Callable[[str], Path]) -> None:
        """`folder_of` gives the folder of a product by its key."""
        self.product_folder = folder_of
        self._rows: dict[str, Publication] = {}

    def fork(self, folder_of: Callable[[str], Path]) -> SimulatedPublications:
        """An independent copy."""
        twin = SimulatedPublications(folder_of)
        twin._rows = dict(self._rows)
        return twin

    def contents(self) -> str:
        """Everything that it knows."""
        return repr(self._rows)

    def all(self) -> list[Publication]:
        """All publications, in the order of their first entry."""
        return list(self._rows.values())

    def unfinished(self) -> list[Publication]:
        """Those that are neither published nor failed."""
        ended = (PublicationState.PUBLISHED, PublicationState.FAILED)
        return [row for row in self._rows.values() if row.state not in ended]

    def copies(self) -> list[Path]:
        """Where the copies are that were published, also of those that are made again."""
        return [row.destination for row in self._rows.values() if row.published_at is not None]

    def begin(self, product_key: str, kind: str, source: Path, destination: Path) -> Publication:
        """Enter a publication as staging; a known one keeps its state."""
        row = self._rows.get(product_key)
        if row is None:
            row = Publication(product_key, kind, PublicationState.STAGING, source, destination)
        return self._keep(replace(row, source=source, destination=destination))

    def start_attempt(self, product_key: str, is_lost: bool = False) -> Publication:
        """Note that a copy begins; a published one stays so unless it is lost."""
        row = self._rows[product_key]
        if row.state is PublicationState.PUBLISHED and not is_lost:
            return row
        attempts = 0 if row.state is PublicationState.FAILED else row.attempts
        return self._keep(
            replace(row, state=PublicationState.PUBLISHING, attempts=attempts, reason=None)
        )

    def finish(self, product_key: str, published_at: str) -> Publication:
        """Note that the copy is complete."""
        row = self._rows[product_key]
        first = row.published_at or published_at
        return self._keep(
            replace(row, state=PublicationState.PUBLISHED, reason=None, published_at=first)
        )

    def postpone(
        self, product_key: str, reason: str, attempts_max: int | None = None
    ) -> Publication:
        """Back to staging unless published; with `attempts_max` this counts, the last one fails."""
        row = self._rows[product_key]
        if row.state is PublicationState.PUBLISHED:
            return row
        attempts = row.attempts if attempts_max is None else row.attempts + 1
        is_last = attempts_max is not None and attempts >= attempts_max
        state = PublicationState.FAILED if is_last else PublicationState.STAGING
        return self._keep(replace(row, state=state, reason=reason, attempts=attempts))

    def fail(self, product_key: str, reason: str) -> Publication:
        """Note why there is no copy, for good, unless it is published."""
        row = self._rows[product_key]
        if row.state is PublicationState.PUBLISHED:
            return row
        return self._keep(replace(row, state=PublicationState.FAILED, reason=reason))

    def _keep(self, row: Publication) -> Publication:
        self._rows[row.product_key] = row
        return row
