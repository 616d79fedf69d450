"""Synthetic observations: UVH5 files as the telescope writes them, from a known sky.

The geometry is computed in apparent coordinates with baselines fixed to the Earth, not by the
stages' formulas: an error in either shows up. Shared with the stages are only the catalogue, the
shape of the beam and the record of a source. CASA is not used.
"""

from absurd_contimg.synthesis.config import (
    FAULT_MEANINGS,
    Fault,
    FaultKind,
    SynthesisConfig,
)
from absurd_contimg.synthesis.observe import SynthesisResult, SynthesizedGroup, synthesize
from absurd_contimg.synthesis.truth import compare_gains, compare_sources

__all__ = [
    "FAULT_MEANINGS",
    "Fault",
    "FaultKind",
    "SynthesisConfig",
    "SynthesisResult",
    "SynthesizedGroup",
    "compare_gains",
    "compare_sources",
    "synthesize",
]
