"""What is proposed for a misspelt name."""

from __future__ import annotations

from absurd_contimg.similar_names import did_you_mean

GROUPS = ("2025-01-15T10:00:00", "2025-01-15T10:05:09", "2025-01-16T10:00:00")


def test_a_misspelt_name_is_compared_with_the_known_ones() -> None:
    """Without regard to case."""
    assert did_you_mean("Immaging", ("validate", "imaging")) == "Did you mean imaging?"


def test_a_part_of_a_name_is_enough() -> None:
    """A time of day means the group that has it."""
    assert did_you_mean("10:05", GROUPS) == "Did you mean 2025-01-15T10:05:09?"


def test_at_most_three_names_are_proposed() -> None:
    """All as similar as the best one."""
    names = [f"2025-01-15T10:{minute:02d}:00" for minute in range(10, 20)]
    assert did_you_mean("2025-01-15T10:1:00", names).count(" or ") == 2


def test_what_is_much_less_similar_than_the_best_is_not_proposed() -> None:
    """A group of another day, or S23 where S3 was written in small letters."""
    assert did_you_mean("s3", ("S3", "S23", "S13")) == "Did you mean S3?"
    assert did_you_mean("2025-01-15T10:00:01", GROUPS) == "Did you mean 2025-01-15T10:00:00?"


def test_without_a_similar_name_the_other_advice_is_given() -> None:
    """Also for the empty name, and for a known one."""
    assert did_you_mean("mosaic", ("validate",), "contimg x lists them.") == "contimg x lists them."
    assert did_you_mean("", GROUPS, "other") == "other"
    assert did_you_mean("image", ("image",), "other") == "other"
