"""Earth orientation without the network, from the tables of an installed package."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.utils.iers import IERS_A


def use_bundled_tables() -> None:
    """Have astropy take UT1 and leap seconds from ``astropy-iers-data``, a year ahead.

    Reading them takes half a second, once in a process; a stage server does it for its stages.
    """
    from astropy.utils import iers

    iers.conf.auto_download = False
    iers.earth_orientation_table.set(_bundled_table())


@cache
def _bundled_table() -> IERS_A:
    from astropy.utils import iers
    from astropy_iers_data import IERS_A_FILE

    return iers.IERS_A.open(IERS_A_FILE)
