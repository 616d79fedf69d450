"""The words for the quality of a product, as its own checks found it.

Stages write them into outputs and results of tasks; publication, reports and pages judge by them.
"""

from __future__ import annotations

CLEAN = "clean"
"""An image that passed all gates of its validation."""
ACCEPTED = "accepted"
"""A mosaic that passed all gates."""
DEGRADED = "degraded"
"""An image or mosaic that failed a gate."""
UNCHECKED = "unchecked"
"""A group without the stage that validates."""

GOOD = frozenset({CLEAN, ACCEPTED})
"""Every check was made and passed."""
