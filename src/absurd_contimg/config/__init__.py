"""The configuration: every number that stages use, as a default with its unit and source.

Values come from outside (files, environment, command line), so this is pydantic: an unknown
setting or a value out of bounds is refused by name. Sources: "guide" means the operations guide
and the code of the telescope's own pipeline (docs/telescope.md), "measured" means measured with
this package on synthetic data. Where the telescope's sources disagree, the docstring says which
value was chosen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.config.limits import LimitsConfig
from absurd_contimg.config.mosaic import MosaicConfig
from absurd_contimg.config.night_report import NightReportConfig
from absurd_contimg.config.photometry import PhotometryConfig, VariabilityConfig
from absurd_contimg.config.publication import PUBLISHED, PublicationConfig
from absurd_contimg.config.retention import RetentionConfig
from absurd_contimg.config.section import Section
from absurd_contimg.core.records import Json


class PathsConfig(Section):
    """The folders that the pipeline uses, and its catalogue. It writes nowhere else.

    Scratch must lie on the file system of the output folder, because a product is renamed from
    one to the other.
    """

    input_dir: Path
    output_dir: Path
    scratch_dir: Path
    state_dir: Path
    publish_dir: Path | None = None
    """None: `PUBLISHED` in the output folder. It may lie on another file system."""
    catalog: Path | None = None
    """The sky catalogue, where it is not in the input folder: the only other file that the
    parameters of a task may name."""

    @property
    def published(self) -> Path:
        """The folder for publications."""
        return self.publish_dir or self.output_dir / PUBLISHED

    @property
    def readable(self) -> tuple[Path, ...]:
        """Where the paths in a stage's outputs may lead."""
        return self.output_dir, self.scratch_dir, self.input_dir

    @classmethod
    def below(cls, root: Path) -> Self:
        """All folders inside one, for the demo and the tests."""
        root = root.absolute()
        return cls(
            input_dir=root / "incoming",
            output_dir=root / "products",
            scratch_dir=root / "scratch",
            state_dir=root / "state",
        )


class ExecutionConfig(Section):
    """How stages run."""

    deadline_seconds: float = Field(3600.0, gt=0)
    """A stage process is killed after this time (guide: 3600 s for conversion and tasks)."""
    threads: int = Field(2, ge=1)
    """OMP_NUM_THREADS of a stage process."""
    calibration_wait_seconds: int = Field(86_400, ge=0)
    """How long a group waits for another group's calibration: a calibrator transits once a day."""
    calibration_wait_policy: Literal["stop", "degraded"] = "stop"
    """After that time: ``stop`` fails the group, ``degraded`` takes the nearest set of its strip,
    however old, and ends degraded. A silent fall-back only makes work later (desispec #1500)."""


class SiteConfig(Section):
    """The position of the array, with which a file's header is compared."""

    latitude_deg: float = Field(37.2314, ge=-90, le=90)
    """Geodetic, of the centre of the array."""
    longitude_deg: float = Field(-118.2817, ge=-180, le=180)
    """East of Greenwich."""
    altitude_m: float = 1222.0
    """Above the ellipsoid."""
    tolerance_deg: float = Field(0.1, gt=0)
    """A file with a position further away is refused: 11 km, four times the array."""
    altitude_tolerance_m: float = Field(200.0, gt=0)
    """A file with an altitude further off is refused."""


class BeamConfig(Section):
    """The primary beam: an Airy pattern that points along the meridian."""

    dish_diameter_m: float = Field(4.65, gt=0)
    """Measured diameter. 4.7 and 4.5 also appear in older code; 4.65 is in the headers."""
    cutoff: float = Field(0.2, gt=0, lt=1)
    """Images are blank where the mean beam is below this (guide: pblimit 0.2)."""
    n_frequencies: int = Field(8, ge=1)
    """The mean beam of an image is averaged over this many frequencies."""


class CatalogConfig(Section):
    """The part of the sky catalogue that belongs to a declination strip."""

    strip_half_width_deg: float = Field(6.0, gt=0)
    """Sources within this of the strip's declination are kept (guide: 6 deg)."""


class ConversionConfig(Section):
    """From UVH5 sub-bands to one Measurement Set."""

    expected_subbands: int = Field(16, ge=1)
    """Sub-band files of a complete group."""
    subbands_min: int = Field(12, ge=1)
    """With fewer the group is refused; missing ones get flagged placeholders (guide: 12). So is one
    in which fewer have both data and solutions."""
    averaging_max: int = Field(4, ge=1)
    """Channels averaged into one, at most; the number divides the channels of a sub-band."""
    averaged_width_max_hz: float = Field(1.0e6, gt=0)
    """Averaging makes no channel wider than this: 4 x 244.14 kHz fit, coarser data stay."""
    baseline_max_m: float = Field(3210.0, gt=0)
    """A longer baseline means wrong antenna positions (guide: 3210 m)."""


class FlaggingConfig(Section):
    """Flags before calibration."""

    tfcrop: bool = True
    """Time-frequency outliers, by the search of CASA's tfcrop (guide: 4 sigma in both axes)."""
    tfcrop_cutoff_sigma: float = Field(4.0, gt=0)
    """The cut-off of that search, in time and in frequency."""
    amplitude_max_jy: float | None = Field(None, gt=0)
    """Data above this are flagged. The guide's 0.5 is in raw correlator units: off by default."""
    dead_antenna_fraction: float = Field(0.95, gt=0, le=1)
    """An antenna with more than this flagged is flagged entirely (guide: 0.95)."""
    flagged_fraction_max: float = Field(0.8, gt=0, le=1)
    """Data with more flagged than this are refused."""


class CalibrationConfig(Section):
    """Choice of calibrator, model, solutions and their limits."""

    calibrator_flux_min_jy: float = Field(0.3, gt=0)
    """Fainter calibrators give too noisy channels with 28 antennas (measured; guide: 0.1)."""
    beam_response_min: float = Field(0.3, gt=0, lt=1)
    """Smallest mean beam at the calibrator (guide: 0.3)."""
    search_radius_deg: float = Field(1.0, gt=0)
    """Largest declination offset of a calibrator (guide: 1 deg)."""
    model_radius_deg: float = Field(3.5, gt=0)
    """The model has the catalogue sources within this distance of the group's centre."""
    model_flux_min_jy: float = Field(0.005, ge=0)
    """The model has no source whose flux times mean beam is below this."""
    reference_antennas: tuple[str, ...] = tuple(
        f"DSA{n:03d}" for n in (103, *range(104, 109), *range(109, 114), *range(114, 117), 117)
    )
    """Tried in this order, by name; after them the antenna with the most unflagged data."""
    reference_flagged_max: float = Field(0.5, gt=0, le=1)
    """An antenna with more flagged than this is no reference."""
    prebandpass_interval: str = "60s"
    """Phase-only solutions before the bandpass, so that phase drifts do not decorrelate it."""
    bandpass_interval: str = "inf"
    """Solution interval of the bandpass, as CASA writes it; inf: the whole group."""
    gain_interval: str = "inf"
    """Solution interval of the gains (guide: inf)."""
    minsnr: float = Field(3.0, gt=0)
    """Guide: 3 to 5. At 5 weak channels are lost at random, which biases the mean (measured)."""
    minblperant: int = Field(4, ge=2)
    """An antenna with fewer unflagged baselines gets no solution."""
    antennas_min: int = Field(10, ge=4)
    """Smallest number of antennas with solutions (guide: 10)."""
    flagged_fraction_max: float = Field(0.25, gt=0, le=1)
    """Flagged fraction of the solutions, of channels that have data, above which the set is refused
    (guide: 0.25)."""
    amplitude_scatter_max: float = Field(0.10, gt=0)
    """Relative scatter from channel to channel of the bandpass, median over antennas.

    Scatter, not the reported signal-to-noise: that depends on the field's structure.
    """
    phase_scatter_max_deg: float = Field(8.0, gt=0)
    """The same of the phase."""
    valid_before_hours: float = Field(12.0, ge=0)
    """A set is valid from this time before its observation. Sources name 0.5 to 24 h; 12 h on each
    side cover the day between two transits of a calibrator."""
    valid_after_hours: float = Field(12.0, ge=0)
    """And until this time after it."""
    reach_hours: float = Field(12.0, ge=0)
    """Without a valid set, one this near in time is used (guide: 12 h)."""
    warn_hours: float = Field(6.0, ge=0)
    """Solutions further away in time carry a warning (guide: 6 h)."""
    declination_tolerance_deg: float = Field(5.0, gt=0)
    """Sets of a strip further away are not used: fluxes came out 16 times too low with them
    (the telescope's own notes, where more than 5 deg aborts)."""

    @property
    def of_solutions(self) -> Mapping[str, Json]:
        """The settings that shape solutions, without those that only select a set."""
        chosen_by = {"reach_hours", "warn_hours", "declination_tolerance_deg"}
        return self.model_dump(mode="json", exclude=chosen_by)


class ApplyConfig(Section):
    """Applying solutions, and averaging once more for imaging."""

    averaging_max: int = Field(4, ge=1)
    """Channels averaged into one for imaging, at most."""
    averaged_width_max_hz: float = Field(4.0e6, gt=0)
    """Channels for imaging are no wider than this. The peak of a source 1 deg out loses 1.3 %
    with a beam of 43 arcsec, which the image stage corrects."""
    flagged_fraction_max: float = Field(0.8, gt=0, le=1)
    """With more flagged after the solutions are applied, they do not fit the data."""


class ImagingConfig(Section):
    """Imaging and cleaning, as if spectra were flat.

    Beside a calibrator of 10 Jy with index -0.7 this adds a third to the noise, and a source 8
    arcmin from it errs by 2.0 %; with flat spectra by 0.8 % (measured).
    """

    imager: Literal["tclean", "wsclean"] = "tclean"
    """CASA's tclean, or WSClean where it is installed."""
    size_px: int = Field(1280, ge=64)
    """Width and height of the image."""
    cell_arcsec: float = Field(8.0, gt=0)
    """A third of the beam or finer. The image should hold all bright sources in the main lobe
    (2.8 deg here): sources outside it double the noise (measured)."""
    robust: float = Field(0.5, ge=-2, le=2)
    """Briggs weighting (guide: 0 to 0.5)."""
    w_planes: int = Field(32, ge=1)
    """Planes of the w-projection: without it positions err by 12 arcsec at 1 deg."""
    niter: int = Field(10_000, ge=0)
    """Iterations at most, a limit against divergence: `threshold_sigma` ends cleaning."""
    nmajor: int = Field(8, ge=1)
    """Major cycles at most, another such limit. Beside a calibrator of 10 Jy cleaning takes 3
    with a mask and 7 without (measured)."""
    cycle_factor: float = Field(0.04, gt=0, le=1)
    """A major cycle cleans down to this times the peak times the highest sidelobe (0.26 with 96
    antennas), but to no less than 1 % of the peak. At 0.3 it takes one more cycle for the same
    image; at CASA's 1.0, four end at 0.1 Jy beside a calibrator of 10 Jy, and sources there err by
    up to 2.5 % (measured). Without a mask it is 0.3 at least: at 0.04 cleaning diverges."""
    mask_radius_arcsec: float = Field(60.0, ge=0)
    """tclean cleans within this of catalogue sources (guide: 60), and everywhere if 0 or if the
    catalogue has none. Cleaning sidelobes lowers fluxes by a part of the noise: 0.3 % beside a
    calibrator (measured at 120 to 290 sigma)."""
    mask_flux_min_jy: float = Field(0.005, ge=0)
    """Fainter sources get no mask: cleaning ends at 5 mJy in the demo's images, or above."""
    loop_gain: float = Field(0.3, gt=0, lt=1)
    """Share of a peak that one cleaning step takes (CASA: 0.1, with the same fluxes to 0.1 %).
    Without a mask, as with WSClean, 0.1 at most."""
    threshold_sigma: float = Field(4.0, gt=0)
    """Cleaning stops at this multiple of the residual's noise."""
    correct_smearing: bool = True
    """Divide images also by the loss of peaks to bandwidth smearing."""
    correct_scale: bool = True
    """Correct the pixel scale for annual aberration and for the frequency frame in which CASA
    grids: 1e-4 each at most, which is 0.4 arcsec at 1 deg."""


class ValidationConfig(Section):
    """Quality gates of an image. A failed gate means degraded, not an error."""

    snr_min: float = Field(10.0, gt=0)
    """Catalogue sources whose apparent flux is this many times the noise are compared."""
    isolation_beams: float = Field(2.0, ge=0)
    """Sources with a neighbour of comparable flux within this many beams are not compared."""
    beam_response_min: float = Field(0.3, gt=0, lt=1)
    """Sources with a smaller mean beam are not compared."""
    match_radius_arcsec: float = Field(30.0, gt=0)
    """A source is found if a component lies within this of its position."""
    gate_snr_min: float = Field(50.0, gt=0)
    """Sources above this signal-to-noise decide the flux and position gates."""
    flux_error_max: float = Field(0.2, gt=0)
    """Largest error of the median flux ratio (guide: 0.2)."""
    position_error_max_arcsec: float = Field(5.0, gt=0)
    """Largest median position error."""
    completeness_min: float = Field(0.9, gt=0, le=1)
    """Fraction of the expected sources that must be found (guide: 0.95)."""
    dynamic_range_min: float = Field(5.0, gt=0)
    """Peak over noise (guide: 5)."""
    noise_max_jy: float = Field(0.0186, gt=0)
    """Largest noise of an image, whatever its cause: the telescope's own gate. Its images had 8 to
    12 mJy (guide); synthetic ones of 10 to 28 antennas have 2 to 7 (measured)."""
    sidelobe_range_min: float = Field(300.0, gt=1)
    """Beside a bright source sidelobes make the noise: it may also be the largest apparent flux of
    catalogue sources in the image over this. 656 to 1460 on the telescope (guide), 1360 with 10
    antennas and a calibrator of 10 Jy; 72 with no data in a quarter of the band (measured)."""


class StreamingConfig(Section):
    """From files that arrive to groups and windows (`docs/streaming.md`)."""

    poll_seconds: float = Field(60.0, gt=0)
    """Between two looks into the incoming folder (guide: 60 s)."""
    arrival: Literal["stable", "rename", "done"] = "stable"
    """How a file shows that it is whole: it has not changed between two looks, it has its final
    name only when it is whole, or a file of its name with ``.done`` lies beside it."""
    stable_seconds: float = Field(10.0, ge=0)
    """With ``stable`` a file must be the same in two looks so far apart, and so old."""
    group_wait_seconds: float = Field(300.0, gt=0)
    """A group waits so long for missing sub-bands after its first file (design: 5 min)."""
    arriving_wait_seconds: float = Field(180.0, ge=0)
    """And so long after the last change of a file of it that is still arriving: a fixed wait is
    too short. Longer than the 120 s after which a file that cannot be opened counts as damaged."""
    arriving_wait_max_seconds: float = Field(1800.0, ge=0)
    """But so long at most after that file was seen first."""
    next_group_grace_seconds: float = Field(120.0, ge=0)
    """An incomplete group ends so long after the first file of the next one (jitter: 60 s)."""
    watch_seconds: float = Field(3600.0, ge=0)
    """Files are watched for changes so long after their group is closed."""
    window_size: int = Field(10, ge=2)
    """Groups of a window (guide: MS_PER_GROUP 10)."""
    window_stride: int = Field(8, ge=1)
    """New groups of each further window: 2 are shared (guide: MS_OVERLAP 2)."""
    window_min: int = Field(5, ge=1)
    """A window that cannot be completed needs so many (guide: min_images 5)."""
    gap_minutes: float = Field(6.0, gt=0)
    """Groups of a window are less than this apart (guide: 6 min)."""
    declination_tolerance_deg: float = Field(0.1, gt=0)
    """Members are so near to the mean declination of their window (guide: 0.1 deg)."""
    confirm_groups: int = Field(3, ge=1)
    """So many consecutive groups confirm a new pointing; fewer are a slew (guide: 3)."""
    night_end_seconds: float = Field(1800.0, gt=0)
    """The last window ends when no group has come for so long; longer than the gap."""


class PipelineConfig(Section):
    """All settings of a pipeline."""

    paths: PathsConfig
    execution: ExecutionConfig = ExecutionConfig()
    site: SiteConfig = SiteConfig()
    beam: BeamConfig = BeamConfig()
    catalog: CatalogConfig = CatalogConfig()
    conversion: ConversionConfig = ConversionConfig()
    flagging: FlaggingConfig = FlaggingConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    apply: ApplyConfig = ApplyConfig()
    imaging: ImagingConfig = ImagingConfig()
    validation: ValidationConfig = ValidationConfig()
    limits: LimitsConfig = LimitsConfig()
    streaming: StreamingConfig = StreamingConfig()
    mosaic: MosaicConfig = MosaicConfig()
    publication: PublicationConfig = PublicationConfig()
    photometry: PhotometryConfig = PhotometryConfig()
    variability: VariabilityConfig = VariabilityConfig()
    retention: RetentionConfig = RetentionConfig()
    alerts: AlertsConfig = AlertsConfig()
    night_report: NightReportConfig = NightReportConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.conversion.subbands_min > self.conversion.expected_subbands:
            raise ValueError(
                f"conversion.subbands_min is {self.conversion.subbands_min}: it must be at most "
                f"conversion.expected_subbands, {self.conversion.expected_subbands}"
            )
        if self.streaming.window_stride >= self.streaming.window_size:
            raise ValueError(
                f"streaming.window_stride is {self.streaming.window_stride}: it must be less than "
                f"streaming.window_size, {self.streaming.window_size}"
            )
        return self

    @classmethod
    def tiny(cls, paths: PathsConfig) -> Self:
        """For data made with ``SynthesisConfig.tiny()``: seconds, a coarse image, loose gates."""
        return cls(
            paths=paths,
            execution=ExecutionConfig(deadline_seconds=120.0, threads=1),
            calibration=CalibrationConfig(antennas_min=6),
            imaging=ImagingConfig(size_px=256, cell_arcsec=24.0, w_planes=4, loop_gain=0.2),
            validation=ValidationConfig(
                gate_snr_min=20.0,
                position_error_max_arcsec=15.0,
                match_radius_arcsec=60.0,
                sidelobe_range_min=100.0,  # 159 in so coarse an image beside a calibrator of 10 Jy
            ),
        )

    def digest(self) -> str:
        """Twelve hex digits of all settings that tasks use: not the folders, not the alerts."""
        used = self.model_dump(mode="json", exclude={"paths", "alerts"})
        text = json.dumps(used, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def reference(self) -> dict[str, Json]:
        """The folders and the digest: what a checkpoint has instead of the configuration."""
        folders = self.paths.model_dump(exclude={"catalog"}, exclude_none=True)
        paths: dict[str, Json] = {name: str(folder) for name, folder in folders.items()}
        return {"digest": self.digest(), "paths": paths}
