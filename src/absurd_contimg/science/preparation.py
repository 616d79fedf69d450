"""What libraries compute at their first use in a process, done once for all stages of a worker."""

from __future__ import annotations


def prepare() -> None:
    """Read the tables of earth orientation (1 s) and let numba compile for pyuvdata (2 s).

    For a process that forks those of stages: it starts no thread and opens no file.
    """
    import numpy as np
    from pyuvdata.utils import antnums_to_baseline

    from absurd_contimg.science.earth_orientation import use_bundled_tables

    use_bundled_tables()
    antennas = np.arange(2)
    antnums_to_baseline(antennas, antennas, Nants_telescope=antennas.size)
