"""What is known of a night, as records: read once by `reading`, judged without any other input.

None is a figure that could not be measured; the record beside it says why. Times are MJD (UTC) or
aware datetimes; fluxes are Jy, angles degrees or arcsec as their names say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime

Number = float | None


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """A task of the night."""

    task_id: str
    task_name: str
    about: str
    """The group, window or product."""
    state: str
    ended_at: datetime | None = None
    explanation: str = ""
    """What it waits for, or why it failed."""
    advice: str = ""


@dataclass(frozen=True, slots=True)
class ImageFigures:
    """What the pixels of an image say; measured once for each product."""

    noise_jy: Number = None
    """1.4826 times the median absolute deviation of the inner half."""
    minimum_jy: Number = None
    maximum_jy: Number = None
    anisotropy: Number = None
    """Largest over median angular power at 1 to 1.35 kilolambda."""
    positive_spots: int | None = None
    """Connected spots beyond 5 times the noise around them; likewise the negative ones."""
    negative_spots: int | None = None
    problem: str = ""

    @property
    def negative_share(self) -> Number:
        """Negative over positive spots; 1 for negative ones alone."""
        if self.positive_spots is None or self.negative_spots is None:
            return None
        if not self.positive_spots:
            return float(self.negative_spots > 0)
        return self.negative_spots / self.positive_spots


@dataclass(frozen=True, slots=True)
class DataFigures:
    """What the flags of a Measurement Set say; measured once for each product."""

    flagged_by_antenna: Mapping[str, float] = field(default_factory=dict)
    flagged_by_subband: tuple[float, ...] = ()
    """In 16 equal parts of the band, ascending in frequency."""
    baselines: int | None = None
    unflagged_baselines: int | None = None
    longest_wavelengths: Number = None
    """Of the unflagged baselines, projected, as the gap."""
    gap_wavelengths: Number = None
    """The largest step between neighbouring unflagged baseline lengths."""
    uv_wavelengths: tuple[tuple[float, float], ...] = ()
    """A sample of (u, v) for the plot."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """A catalogue source in the image of a group."""

    name: str
    catalogue_jy: float
    response: Number = None
    """Of the primary beam and smearing."""
    ratio: Number = None
    """Measured over catalogue flux; None: not measured, or not good enough to compare."""
    sigma: Number = None
    """Significance of the measured flux."""
    east_arcsec: Number = None
    """Measured less catalogue position, times cos(dec); likewise north."""
    north_arcsec: Number = None


@dataclass(frozen=True, slots=True)
class CalibrationUse:
    """The set of solutions that a group was calibrated with."""

    set_name: str
    calibrator: str
    hours_away: float
    own: bool
    """Solved from the group itself."""
    warning: str = ""


@dataclass(frozen=True, slots=True)
class AntennaGain:
    """The solution of an antenna, both polarisations together."""

    amplitude: float
    """Median over the channels."""
    phase_deg: float
    """Of the mean over the channels, without the delay, against the reference antenna."""
    delay_ns: float
    """From the slope of the phase over the band."""


@dataclass(frozen=True, slots=True)
class SolvedSet:
    """Solutions of a calibrator of this night."""

    set_name: str
    group_id: str
    calibrator: str
    refant: str
    beam_response: Number = None
    transit_offset_seconds: Number = None
    """Middle of the observation less the transit; negative before it."""
    flux_ratio: Number = None
    """Of the calibrator in the image of its group: corrected over model."""
    antennas_with_data: int | None = None
    unsolved_antennas: tuple[str, ...] = ()
    """With data, and without any solution."""
    gains: Mapping[str, AntennaGain] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """An observation group of the night."""

    group_id: str
    mid_mjd: float
    seconds: float
    """Integrated."""
    declination_deg: Number
    status: str
    reason: str
    ingest_state: str
    state: str
    """In one word, as the overview of the site counts it."""
    n_subbands: int
    missing_subbands: tuple[int, ...] = ()
    task: TaskFacts | None = None
    flagged_before: Number = None
    """Fraction, after conversion."""
    flagged_after: Number = None
    """After flagging, before calibration."""
    flagged_calibrated: Number = None
    dead_antennas: tuple[str, ...] = ()
    n_antennas: int | None = None
    data: DataFigures | None = None
    """None: there is no Measurement Set."""
    calibration: CalibrationUse | None = None
    has_image: bool = False
    stage_noise_jy: Number = None
    """As the stage that images has measured it."""
    peak_jy: Number = None
    bmaj_arcsec: Number = None
    bmin_arcsec: Number = None
    bpa_deg: Number = None
    figures: ImageFigures | None = None
    sources: tuple[SourceFacts, ...] = ()
    failed_gates: tuple[str, ...] = ()
    n_uncatalogued: int | None = None

    @property
    def processed(self) -> bool:
        """Whether it has ended with an image."""
        return self.status in ("done", "degraded")

    @property
    def collecting(self) -> bool:
        """Whether files may still join it, and nothing has been made of it."""
        return self.ingest_state == "collecting" and not self._begun

    @property
    def accepted(self) -> bool:
        """Whether it had enough sub-bands: the daemon has closed it, or somebody spawned it."""
        return self.ingest_state == "closed" or (self.ingest_state == "collecting" and self._begun)

    @property
    def _begun(self) -> bool:
        return self.status != "discovered" or self.task is not None

    @property
    def utc_hours(self) -> float:
        """Its middle, in hours of the UTC day."""
        return self.mid_mjd % 1.0 * 24.0


@dataclass(frozen=True, slots=True)
class MosaicFacts:
    """A mosaic of groups of the night."""

    window_id: str
    verdict: str
    failed_gates: tuple[str, ...]
    n_tiles: int
    n_refused: int
    covered_deg2: Number
    covered_once: Number
    noise_jy: Number
    tile_excess: Number
    """How far the worst flux ratio of two tiles is from 1, beyond twice its error."""
    deg2_by_noise_mjy: Mapping[float, float] = field(default_factory=dict)
    """Area with at most that noise."""
    published_at: datetime | None = None
    mid_mjd: Number = None
    task_id: str = ""


@dataclass(frozen=True, slots=True)
class UnprocessedItem:
    """A group, window or publication that has not ended well."""

    kind: str
    name: str
    state: str
    why: str
    advice: str
    task_id: str = ""


@dataclass(frozen=True, slots=True)
class VariableSource:
    """A source whose light curve is beyond the gates."""

    name: str
    n_epochs: int
    modulation: Number
    eta: Number
    vs: Number
    m: Number


@dataclass(frozen=True, slots=True)
class VariabilityFacts:
    """The light curves, over all nights, of the sources that were measured in this one."""

    n_sources: int = 0
    n_with_epochs: int = 0
    """With two epochs or more."""
    variables: tuple[VariableSource, ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    """(V, eta) of each light curve."""


@dataclass(frozen=True, slots=True)
class OperationsFacts:
    """How the tasks of the night went."""

    tasks_by_state: Mapping[str, int] = field(default_factory=dict)
    stage_seconds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Ascending, of the starts that have finished."""
    superseded_failures: int = 0
    """Of the failed tasks, those whose group or window has a later one."""
    failures_by_kind: Mapping[str, int] = field(default_factory=dict)
    """Failed attempts."""
    starts: int = 0
    wasted_seconds: float = 0.0
    """In starts that did not finish, without the waits for the next ones; of those whose end
    nobody knows at most what a start of the step takes that finishes."""
    wasted_starts: int = 0
    hours_to_full: Number = None
    fullest_disk: str = ""
    disk_health: str = "ok"
    """The worst of the disks that can be looked at; `disk_problem` says why."""
    disk_problem: str = ""
    n_disks: int = 0
    """That can be looked at."""
    interruptions: tuple[str, ...] = ()
    """When which worker died, lost its lease or lacked disk space in which stage, and when the
    database was away; the oldest first."""


@dataclass(frozen=True, slots=True)
class EarlierNight:
    """The figures of an earlier night of the same declination."""

    night: date
    numbers: Mapping[str, Number]
    """The main figure of each row, by its key."""
    gains: Mapping[str, AntennaGain] = field(default_factory=dict)
    refant: str = ""


@dataclass(frozen=True, slots=True)
class NightFacts:
    """A night."""

    night: date
    read_at: datetime
    is_newest: bool
    """No later night has a group."""
    data_age_hours: Number
    """Since the newest file of the site was seen first, at `read_at`."""
    declination_deg: Number
    """Of the strip with the most groups."""
    expected_subbands: int
    longitude_deg: float
    groups: tuple[GroupFacts, ...] = ()
    sets: tuple[SolvedSet, ...] = ()
    mosaics: tuple[MosaicFacts, ...] = ()
    windows_closed: int = 0
    """With members enough for a mosaic."""
    unprocessed: tuple[UnprocessedItem, ...] = ()
    variability: VariabilityFacts = VariabilityFacts()
    operations: OperationsFacts = OperationsFacts()
    earlier: tuple[EarlierNight, ...] = ()
    """The newest first."""
    problems: tuple[str, ...] = ()
    """What could not be read, each with what to do."""

    @property
    def groups_by_state(self) -> dict[str, int]:
        """Their numbers."""
        return dict(sorted(Counter(group.state for group in self.groups).items()))

    @property
    def images(self) -> tuple[GroupFacts, ...]:
        """The groups with an image."""
        return tuple(group for group in self.groups if group.has_image)

    def earlier_numbers(self, key: str) -> list[float]:
        """The known figures of a row in earlier nights, the newest first."""
        return [n for night in self.earlier if (n := night.numbers.get(key)) is not None]
