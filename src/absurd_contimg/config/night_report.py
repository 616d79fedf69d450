"""The gates of the report of a night.

Two limits of a figure: beyond the first the night is degraded, beyond the second it has failed.
Sources: "table" is the list of diagnostics that the telescope's operators asked for, "ours" was
chosen here where that list has no number.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from absurd_contimg.config.section import Section


class NightReportConfig(Section):
    """When a night's report is written, what it expects, and its gates (docs/night-report.md)."""

    written: bool = True
    """Whether the daemon writes the report of each night that has ended."""
    deadline_hours: float = Field(6.0, gt=0)
    """So long after its last group was closed the report is written, though tasks go on (ours)."""
    look_minutes: float = Field(10.0, gt=0)
    """So often the daemon looks for nights that have ended, and tries again what it could not
    write (ours)."""
    trend_nights: int = Field(7, ge=1)
    """Earlier nights of the same declination that a figure is compared with (table: 7)."""
    trend_nights_min: int = Field(3, ge=1)
    """With fewer nothing is compared with them (ours)."""
    trend_change: float = Field(0.2, gt=0)
    """A relative change against their median that is degraded, for coverage and beam (ours)."""
    declination_tolerance_deg: float = Field(0.5, gt=0)
    """Nights whose strips differ by less have the same declination (ours)."""
    expected_hours: float | None = Field(None, gt=0)
    """Hours of observation expected of a night; None: from its first group to its last one."""
    gap_minutes: float = Field(6.0, gt=0)
    """Groups further apart than this have a gap between them (table: 6 min)."""
    processed_warn: float = Field(1.0, ge=0, le=1)
    """Processed groups over those that had enough sub-bands (ours)."""
    processed_fail: float = Field(0.5, ge=0, le=1)
    """The row fails from here on."""
    incomplete_warn: float = Field(0.05, ge=0, le=1)
    """Groups that lack a sub-band, over all groups (ours)."""
    rejected_fail: float = Field(0.25, ge=0, le=1)
    """Groups with too few sub-bands to be processed, over all groups (ours)."""
    group_seconds_warn: float = Field(325.0, gt=0)
    """Seconds that each further group takes, against the 309 s in which it is observed, with 5 %
    for scatter: above this the backlog grows (table: 309 s)."""
    group_seconds_fail: float = Field(618.0, gt=0)
    """The backlog grows as fast as the data come (ours)."""
    data_age_hours_warn: float = Field(3.0, gt=0)
    """Age of the newest file (table: 3 h and 24 h)."""
    data_age_hours_fail: float = Field(24.0, gt=0)
    """The row fails from here on."""
    antenna_flagged_warn: float = Field(0.2, gt=0, le=1)
    """Flagged fraction of one antenna (table: 20 %). Exactly nothing flagged in a group fails."""
    antennas_flagged_fail: float = Field(0.25, gt=0, le=1)
    """Antennas beyond that limit, over all antennas (ours)."""
    solver_yield_warn: float = Field(0.9, gt=0, le=1)
    """Antennas with solutions over antennas with data (table: 90 %)."""
    solver_yield_fail: float = Field(0.5, gt=0, le=1)
    """The row fails from here on."""
    phase_scatter_deg_warn: float = Field(30.0, gt=0)
    """Scatter over the antennas of the change of phase against the earlier nights (table: 30)."""
    phase_scatter_deg_fail: float = Field(90.0, gt=0)
    """The row fails from here on."""
    calibration_age_hours_warn: float = Field(12.0, gt=0)
    """From the calibrator's observation to that of a group (table: 12 h)."""
    calibration_age_hours_fail: float = Field(36.0, gt=0)
    """The row fails from here on."""
    calibrator_error_warn: float = Field(0.05, gt=0)
    """Of corrected over model flux of the calibrator (table: 1 +- 0.05)."""
    calibrator_error_fail: float = Field(0.2, gt=0)
    """The row fails from here on."""
    baselines_warn: float = Field(0.5, ge=0, le=1)
    """Baselines with unflagged data over all baselines (ours)."""
    baselines_fail: float = Field(0.2, ge=0, le=1)
    """The row fails from here on."""
    expected_noise_jy: float = Field(0.010, gt=0)
    """The noise of an image that is normal; the median of earlier nights counts if it is less.
    The telescope's own tiles have 8 to 12 mJy."""
    noise_ratio_warn: float = Field(1.5, gt=0)
    """Noise over the expected noise (table: 1.5 and 3)."""
    noise_ratio_fail: float = Field(3.0, gt=0)
    """The row fails from here on."""
    dynamic_range_warn: float = Field(100.0, gt=0)
    """Peak over noise (table: 100 and 30)."""
    dynamic_range_fail: float = Field(30.0, gt=0)
    """The row fails from here on."""
    negative_warn: float = Field(0.1, gt=0)
    """Deepest negative pixel over the peak, beyond five times the noise (ours)."""
    negative_fail: float = Field(0.3, gt=0)
    """The row fails from here on."""
    anisotropy_warn: float = Field(5000.0, gt=0)
    """Maximum over median angular power of an image at 1 to 1.35 kilolambda (table: 5000)."""
    anisotropy_fail: float = Field(50_000.0, gt=0)
    """The row fails from here on."""
    flux_error_warn: float = Field(0.2, gt=0)
    """Of the median of measured over catalogue flux (table: 0.8 to 1.2)."""
    flux_error_fail: float = Field(0.5, gt=0)
    """The row fails from here on."""
    sources_min: int = Field(3, ge=1)
    """With fewer sources neither fluxes nor positions are judged (table: 3)."""
    position_beams_warn: float = Field(0.2, gt=0)
    """Median offset from the catalogue over the minor axis of the beam (table: 0.2 beam)."""
    position_beams_fail: float = Field(0.5, gt=0)
    """The row fails from here on."""
    completeness_flux_jy: float = Field(0.05, gt=0)
    """Catalogue sources above this must be found (table: 50 mJy)."""
    completeness_sigma: float = Field(5.0, gt=0)
    """With this significance (table: 5)."""
    completeness_warn: float = Field(0.6, gt=0, le=1)
    """Found over expected sources (table: 60 %)."""
    completeness_fail: float = Field(0.3, gt=0, le=1)
    """The row fails from here on."""
    negative_detections_warn: float = Field(0.2, gt=0)
    """Negative over positive detections, as the gate of mosaics (ours)."""
    overlap_error_warn: float = Field(0.03, gt=0)
    """Of the flux ratio of the same sources in two tiles of a mosaic, beyond twice its error
    (table: 3 %)."""
    overlap_error_fail: float = Field(0.2, gt=0)
    """The row fails from here on."""
    variable_share_warn: float = Field(0.1, gt=0, le=1)
    """Variable sources over sources with light curves: so many are an error of the scale (ours)."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        """A limit that fails may not come before the one that warns."""
        values = self.model_dump()
        smaller_is_worse = {
            "processed", "solver_yield", "baselines", "dynamic_range", "completeness",
        }  # fmt: skip
        for name in (key.removesuffix("_warn") for key in values if key.endswith("_warn")):
            warn, fail = values[f"{name}_warn"], values.get(f"{name}_fail")
            if fail is None:
                continue
            if (fail > warn) if name in smaller_is_worse else (fail < warn):
                order = "most" if name in smaller_is_worse else "least"
                raise ValueError(
                    f"night_report.{name}_fail is {fail}: it must be at {order} "
                    f"night_report.{name}_warn, {warn}"
                )
        return self
