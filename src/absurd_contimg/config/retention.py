"""Settings of maintenance: how long what is kept, in days. Source: the deployment's own script."""

from __future__ import annotations

from pydantic import Field

from absurd_contimg.config.section import Section

REMOVED = ".removed"
"""The folder for products that are being removed, directly in the output folder."""


class RetentionConfig(Section):
    """Days after which products and records may be removed; None: never.

    What a task, a window, a batch, a publication or a valid calibration needs stays, however old
    it is (`contimg maintenance plan` says why).
    """

    science_ms_days: float | None = Field(30.0, gt=0)
    """Measurement Sets of groups without solutions of their own, from when they were made
    (deployment: 30)."""
    calibrator_ms_days: float | None = Field(90.0, gt=0)
    """Measurement Sets of groups that gave solutions (deployment: 90)."""
    failed_days: float | None = Field(7.0, gt=0)
    """All but solutions of groups that failed or are in quarantine (deployment: 7)."""
    images_days: float | None = Field(180.0, gt=0)
    """Images of groups, with their validation (deployment: 180)."""
    mosaics_days: float | None = Field(None, gt=0)
    """Mosaics with their weights and tiles: kept for ever unless this is set."""
    photometry_days: float | None = Field(None, gt=0)
    """Tables of fluxes, likewise."""
    caltables_days: float | None = Field(None, gt=0)
    """Solutions that are not valid any more."""
    raw_files_days: float = Field(30.0, gt=0)
    """Raw files (deployment: 30), from the time in their name; only where a command asks for it,
    since they are the telescope's."""
    tasks_days: float = Field(30.0, ge=0.02)
    """Tasks in Absurd, from their end; their histories are archived first. Half an hour (0.02) is
    the least: what ends while histories are archived must stay."""
    events_days: float = Field(30.0, ge=0.02)
    """Events that were emitted longer ago are removed."""
    logs_days: float | None = Field(30.0, gt=0)
    """Logs of stages in the state folder, from their last change."""
