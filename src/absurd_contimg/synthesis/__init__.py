"""Synthetic observations: UVH5 files as the telescope writes them, from a known sky.

Sixteen sub-band files per group, made from the array's geometry, a catalogue of point sources,
the drifting primary beam, gains, bandpass and thermal noise, all from one seed; and the injected
values beside them, to compare recovered ones with. The geometry is computed in apparent
coordinates with baselines fixed to the Earth, not by the stages' formulas: an error in either
shows up in the comparison.

This package uses pyuvdata but never CASA. It shares with the stages only the catalogue's format,
the shape of the beam and the record of a source.
"""

from absurd_contimg.synthesis.config import Fault, FaultKind, SynthesisConfig
from absurd_contimg.synthesis.observe import SynthesisResult, SynthesizedGroup, synthesize
from absurd_contimg.synthesis.truth import compare_gains, compare_sources

__all__ = [
    "Fault",
    "FaultKind",
    "SynthesisConfig",
    "SynthesisResult",
    "SynthesizedGroup",
    "compare_gains",
    "compare_sources",
    "synthesize",
]
