"""Which groups a set that came later would serve better."""

from __future__ import annotations

from absurd_contimg.registry import CaltableSet
from absurd_contimg.registry.calibration_use import CalibrationUse, better_sets

MJD = 61065.0


def caltables(key: str, hours: float, declination_deg: float = 16.0) -> CaltableSet:
    """A set that is valid for 12 h on each side."""
    mid_mjd = MJD + hours / 24.0
    return CaltableSet(
        *(key, f"set {key}", key, "3C286", "DSA103", declination_deg, mid_mjd),
        *(mid_mjd - 0.5, mid_mjd + 0.5, "2026-01-26T00:00:00+00:00", ()),
    )


def use(group_id: str, hours: float, key: str) -> CalibrationUse:
    return CalibrationUse(group_id, MJD + hours / 24.0, 16.0, key)


def test_groups_that_used_a_worse_set_are_named_in_order_of_time() -> None:
    """The newest valid set is the best; a group keeps its own, and another strip's never counts."""
    sets = [caltables("old", 0.0), caltables("new", 8.0), caltables("other strip", 9.0, 54.0)]
    uses = [use("late", 10.0, "old"), use("early", 4.0, "old"), use("served", 9.0, "new")]
    uses.append(use("old", 0.0, "old"))
    improvements = better_sets(uses, sets, 5.0, 12.0)
    assert [(each.use.group_id, each.better.product_key) for each in improvements] == [
        *(("early", "new"), ("late", "new")),
    ]
    assert {each.used.product_key for each in improvements if each.used is not None} == {"old"}


def test_only_groups_that_a_given_set_would_serve() -> None:
    sets = [caltables("old", 0.0), caltables("mid", 5.0), caltables("new", 20.0)]
    uses = [use("early", 4.0, "old"), use("late", 19.0, "old")]
    improvements = better_sets(uses, sets, 5.0, 12.0, "mid")
    assert [each.use.group_id for each in improvements] == ["early"]


def test_set_that_is_not_in_use_any_more_is_worse_than_any() -> None:
    (improvement,) = better_sets([use("g", 1.0, "gone")], [caltables("there", 3.0)], 5.0, 12.0)
    assert improvement.used is None


def test_group_that_no_set_serves_is_left_out() -> None:
    assert better_sets([use("g", 90.0, "gone")], [caltables("there", 3.0)], 5.0, 12.0) == []
