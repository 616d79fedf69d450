"""Earth orientation without the network: the tables of the installed package, for this process."""

# astropy takes a second to import and may be missing: where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations


def use_bundled_tables() -> None:
    """Make astropy take UT1 and leap seconds from ``astropy-iers-data`` and never download.

    The rapid-service table, because it reaches to the present and predicts a year ahead.
    """
    from astropy.utils import iers
    from astropy_iers_data import IERS_A_FILE

    iers.conf.auto_download = False
    iers.earth_orientation_table.set(iers.IERS_A.open(IERS_A_FILE))
