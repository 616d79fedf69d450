"""``contimg night``: a short night with a telescope, a daemon and two workers."""

from absurd_contimg.operations.night.night import run_night
from absurd_contimg.operations.night.preparation import NightOptions

__all__ = ["NightOptions", "run_night"]
