"""Synthetic observations: UVH5 files as the telescope writes them, from a known sky.

Sixteen sub-band files per group, made from the array's geometry, a catalogue of point sources,
the drifting primary beam, gains, bandpass and thermal noise, all from one seed; and the truth
beside them, so that what the pipeline recovers can be compared. The geometry here is computed
in apparent coordinates and baselines fixed to the Earth, on purpose not with the formulas that
the stages use: an error in either shows up in the comparison.

This package uses pyuvdata but never CASA, and knows nothing of stages beyond the catalogue
format and the shape of the beam.
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
