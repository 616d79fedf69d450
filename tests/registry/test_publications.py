"""The states of publications, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest

from absurd_contimg.errors import MissingInputError
from absurd_contimg.registry import Registry
from absurd_contimg.registry.publications import Publications, PublicationState

SOURCE, DESTINATION = Path("/out/mosaics/w-1"), Path("/out/published/mosaics/w-1")


@pytest.fixture
def publications(registry: Registry) -> Publications:
    publications = Publications(registry.database)
    publications.begin("key", "mosaic", SOURCE, DESTINATION)
    return publications


def state_of(publications: Publications) -> tuple[str, int, str | None]:
    known = publications.find("key")
    assert known is not None
    return known.state.value, known.attempts, known.reason


def test_from_staging_to_published(publications: Publications) -> None:
    """The time of the first publication stays."""
    assert state_of(publications) == ("staging", 0, None)
    publications.start_attempt("key")
    assert state_of(publications) == ("publishing", 0, None)
    published = publications.finish("key", "2026-01-01T00:00:00+00:00")
    assert (published.source, published.destination) == (SOURCE, DESTINATION)
    assert state_of(publications) == ("published", 0, None)
    again = publications.finish("key", "2026-01-02T00:00:00+00:00")
    assert again.published_at == "2026-01-01T00:00:00+00:00"


def test_a_known_publication_keeps_its_state(publications: Publications) -> None:
    """And gets the destination of today: the setting may have changed."""
    publications.start_attempt("key")
    begun = publications.begin("key", "mosaic", SOURCE, Path("/elsewhere/mosaics/w-1"))
    assert (begun.state, begun.destination) == (
        PublicationState.PUBLISHING,
        Path("/elsewhere/mosaics/w-1"),
    )
    assert len(publications.all()) == 1


def test_the_third_failed_copy_is_the_last(publications: Publications) -> None:
    """A wait for the destination in between costs no attempt."""
    for number in (1, 2):
        publications.start_attempt("key")
        publications.postpone("key", "bad copy", 3)
        assert state_of(publications) == ("staging", number, "bad copy")
    publications.start_attempt("key")
    publications.postpone("key", "disk full")
    assert state_of(publications) == ("staging", 2, "disk full")
    publications.start_attempt("key")
    publications.postpone("key", "bad copy", 3)
    assert state_of(publications) == ("failed", 3, "bad copy")
    publications.start_attempt("key")
    assert state_of(publications) == ("publishing", 0, None), (
        "an operator's retry begins again from 0"
    )


def test_a_published_one_is_not_taken_back(publications: Publications) -> None:
    """A worker that was stopped for an hour goes on when another one has published."""
    publications.start_attempt("key")
    publications.finish("key", "2026-01-01T00:00:00+00:00")
    for late in (
        lambda: publications.start_attempt("key"),
        lambda: publications.postpone("key", "late", 1),
        lambda: publications.fail("key", "late"),
    ):
        assert late().state is PublicationState.PUBLISHED
    assert publications.start_attempt("key", is_lost=True).state is PublicationState.PUBLISHING


def test_only_a_known_publication_changes(publications: Publications) -> None:
    """A mistaken key makes no row."""
    for change in (
        lambda: publications.start_attempt("other"),
        lambda: publications.finish("other", "now"),
        lambda: publications.fail("other", "reason"),
        lambda: publications.postpone("other", "reason"),
        lambda: publications.product_folder("other"),
    ):
        with pytest.raises(MissingInputError, match="other"):
            change()
    publications.fail("key", "degraded")
    assert [each.product_key for each in publications.all(PublicationState.FAILED)] == ["key"]
    assert publications.all(PublicationState.PUBLISHED) == []
