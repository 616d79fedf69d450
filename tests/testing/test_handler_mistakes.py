"""`explore_crashes` finds the mistakes of users' handlers, and refuses none that is right."""

from __future__ import annotations

import pytest
from handler_mistakes import MISTAKES, RIGHT

from absurd_contimg.testing import explore_crashes


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_found(name: str) -> None:
    with pytest.raises(AssertionError):
        explore_crashes(MISTAKES[name], {})


@pytest.mark.parametrize("name", RIGHT)
def test_right_handler_is_accepted(name: str) -> None:
    assert explore_crashes(RIGHT[name], {}).futures > 10


def test_there_are_30_mistakes_of_12_kinds() -> None:
    kinds = {name.partition(":")[0] for name in MISTAKES}
    assert len(MISTAKES) >= 30
    assert len(kinds) >= 10
