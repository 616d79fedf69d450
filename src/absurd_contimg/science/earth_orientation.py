"""Earth orientation without the network, from the tables of an installed package."""

from __future__ import annotations


def use_bundled_tables() -> None:
    """Have astropy take UT1 and leap seconds from ``astropy-iers-data``, a year ahead."""
    from astropy.utils import iers
    from astropy_iers_data import IERS_A_FILE

    iers.conf.auto_download = False
    iers.earth_orientation_table.set(iers.IERS_A.open(IERS_A_FILE))
