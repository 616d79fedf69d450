"""`SynthesisConfig`: what to observe, with how much of the instrument and which faults."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

SUBBANDS = 16
BAND_LOW_HZ = 1311.25e6
BAND_HIGH_HZ = 1498.75e6
SUBBAND_WIDTH_HZ = (BAND_HIGH_HZ - BAND_LOW_HZ) / SUBBANDS
"""11.71875 MHz: 48 channels of 244.140625 kHz in the real instrument."""


class FaultKind(StrEnum):
    """A fault of a sub-band file; `FAULT_MEANINGS` says what each is."""

    MISSING = "missing"
    TRUNCATED = "truncated"
    NOT_HDF5 = "not_hdf5"
    NAN = "nan"
    DUPLICATED = "duplicated"
    SHIFTED = "shifted"
    ALL_FLAGGED = "all_flagged"
    STUCK = "stuck"


FAULT_MEANINGS: Mapping[FaultKind, str] = {
    FaultKind.MISSING: "Not written.",
    FaultKind.TRUNCATED: "Half of the file is missing, as after a broken transfer.",
    FaultKind.NOT_HDF5: "Other content.",
    FaultKind.NAN: "Some visibilities are NaN and not flagged.",
    FaultKind.DUPLICATED: "A second file with the same sub-band.",
    FaultKind.SHIFTED: "Its times are one integration late: it belongs to another observation.",
    FaultKind.ALL_FLAGGED: "No visibility has samples, which is how the writer marks missing data.",
    FaultKind.STUCK: "Every visibility is 1, as of a stuck node or a correlator's test pattern.",
}


class Fault(BaseModel):
    """One fault of one sub-band of one group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FaultKind
    group: int = Field(ge=0)
    subband: int = Field(ge=0, lt=SUBBANDS)


class SynthesisConfig(BaseModel):
    """An observing run; the same values give the same files, bit by bit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(1, ge=0)
    """Of all random numbers."""
    start: datetime = datetime(2025, 1, 15, 10, 0, 0, tzinfo=UTC)
    """Start of the first group; inside the Earth-orientation tables that CASA has."""
    declination_deg: float = Field(16.0, ge=-40, le=89)
    """Apparent declination of the strip. 16 is the lowest in use and the hardest: the drift is
    1.24 deg on the sky within a group, and the array is seen 21 deg off the zenith."""
    n_antennas: int = Field(24, ge=4, le=96)
    """The first of the array's antennas."""
    outriggers: int | None = Field(None, ge=0, le=14)
    """How many of the antennas are outriggers: few make a wide beam. None: three
    eighths of them, two at least."""
    channels_per_subband: int = Field(4, ge=1, le=48)
    """The real instrument has 48."""
    n_integrations: int = Field(24, ge=2)
    """Integrations of a group."""
    integration_s: float = Field(12.884902, gt=0)
    """Length of one, as the telescope's."""
    science_groups: int = Field(2, ge=0)
    """Groups without a calibrator."""
    calibrator_group: bool = True
    """A first group in which a calibrator transits."""
    calibrator_lead_s: float = Field(2400.0, ge=0)
    """From the end of the calibrator's group to the first science group."""
    calibrator_flux_jy: float = Field(10.0, gt=0)
    """Its flux density."""
    calibrator_in_catalogue: bool = True
    """Off: the source is on the sky, but the catalogue does not mark it as a calibrator."""
    bright_per_group: int = Field(6, ge=0, le=12)
    """Sources of 0.5 to 1.1 Jy around the centre of each science group."""
    faint_per_group: int = Field(6, ge=0)
    """Sources of 20 to 200 mJy in each science group."""
    random_sources: int = Field(0, ge=0, le=40)
    """If not 0: each group has this many sources of 0.4 to 1 Jy at random positions within 1 deg,
    beside its calibrator if it has one, instead of the sources above."""
    sefd_jy: float = Field(6500.0, ge=0)
    """System equivalent flux density of one antenna; sets the thermal noise."""
    gain_scatter: float = Field(0.1, ge=0, lt=0.5)
    """Relative scatter of the antennas' gain amplitudes."""
    gain_phase_max_deg: float = Field(180.0, ge=0, le=180)
    """Largest gain phase of an antenna."""
    delay_max_ns: float = Field(5.0, ge=0)
    """Largest delay of an antenna."""
    bandpass_ripple: float = Field(0.1, ge=0, lt=0.5)
    """Relative amplitude of the ripple over the band."""
    products: Literal[2, 4] = 2
    """Polarisation products: XX and YY, or XY and YX as well, which hold nothing."""
    integrations_lost: int = Field(0, ge=0)
    """How many integrations the last group lacks at its end, as before a stop; what is left ends
    with an integration that holds NaN and no samples."""
    dish_diameter_m: float = Field(4.65, gt=0)
    """Sets the primary beam."""
    name_jitter_s: int = Field(2, ge=0, le=60)
    """Sub-bands of one group are named up to this much later than the earliest."""
    faults: tuple[Fault, ...] = ()
    """Of sub-band files; on the command line: --fault."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.start.tzinfo is None:
            raise ValueError("start needs a time zone; the telescope's files are named in UTC")
        if self.n_groups == 0:
            raise ValueError("nothing to observe: no calibrator group and no science group")
        if self.integrations_lost > self.n_integrations - 2:
            raise ValueError("integrations_lost leaves fewer than two integrations")
        if self.outriggers is not None and not 0 <= self.n_antennas - self.outriggers <= 82:
            raise ValueError("n_antennas less outriggers is not in the range of 0 to 82")
        for fault in self.faults:
            if fault.group >= self.n_groups:
                raise ValueError(f"fault {fault.kind} names group {fault.group} of {self.n_groups}")
        return self

    @property
    def n_groups(self) -> int:
        """Groups in all."""
        return self.science_groups + int(self.calibrator_group)

    @property
    def group_length_s(self) -> float:
        """309.24 s with the real instrument's 24 integrations."""
        return self.n_integrations * self.integration_s

    def group_offset_s(self, group: int) -> float:
        """Start of a group, in seconds after the start of the first."""
        gap = self.calibrator_lead_s if self.calibrator_group and group > 0 else 0.0
        return group * self.group_length_s + gap

    @classmethod
    def demo(cls, **changes: object) -> Self:
        """One calibrator group and two science groups: 24 antennas, 16 x 4 channels."""
        return cls.model_validate(changes)

    @classmethod
    def tiny(cls, **changes: object) -> Self:
        """For tests: one calibrator and one science group of 6 integrations, across RA 0 h."""
        defaults: dict[str, object] = {
            "start": datetime(2025, 1, 29, 22, 36, 0, tzinfo=UTC),
            "n_antennas": 10,
            "channels_per_subband": 2,
            "n_integrations": 6,
            "science_groups": 1,
            "bright_per_group": 3,
            "faint_per_group": 0,
            "sefd_jy": 2000.0,
        }
        return cls.model_validate(defaults | changes)

    @classmethod
    def full(cls, **changes: object) -> Self:
        """The full instrument: 96 antennas, 16 x 48 channels; 2.2 GB a group."""
        return cls.model_validate({"n_antennas": 96, "channels_per_subband": 48} | changes)
