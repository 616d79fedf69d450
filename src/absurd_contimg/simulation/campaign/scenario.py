"""Scenarios: what a campaign simulates, read from TOML.

``docs/scenarios.md`` says what each key means. A scenario that names something unknown is refused.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from absurd_contimg.config.refused_values import refusal_sentences
from absurd_contimg.regular_files import SETTINGS_BYTES_MAX, parse_toml, read_regular
from absurd_contimg.similar_names import did_you_mean
from absurd_contimg.simulation.model.faults import parse_timed_faults
from absurd_contimg.simulation.model.stage_model import FAILURES, GIB

GROUPS_MAX = 1_000_000
"""That a scenario may make: the groups of nearly ten years, one every 309 s."""

EVENTS_MAX = 1_000_000
"""Of one kind that a scenario may ask for on average: faults, retries, restarts."""
_SECONDS_MAX = 366 * 86_400.0
_BYTES_MAX = 10**18

_Pair = Annotated[tuple[float, float], Field(strict=False)]
"""TOML has lists for it; the numbers in it are strict."""


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Bytes = Annotated[int, BeforeValidator(_whole)]
"""May be written 7e9, which TOML has no whole number for."""


class ScenarioError(ValueError):
    """A scenario that cannot be simulated; the text names the field and the mistake."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Workers(_Part):
    """The workers, one a process; hosts are filled in turn."""

    count: int = Field(4, ge=1, le=256)
    hosts: int = Field(1, ge=1, le=256)
    cores_per_host: int = Field(16, ge=1, le=4096)
    memory_bytes_per_host: _Bytes = Field(64 * GIB, ge=1, le=_BYTES_MAX)
    lease_seconds: int = Field(120, ge=1, le=86_400)
    poll_seconds: float = Field(15.0, ge=0.1, le=86_400)
    restart_seconds: float = Field(30.0, ge=0, le=_SECONDS_MAX)
    grace_seconds: float = Field(10.0, ge=0, le=86_400)
    free_bytes_min: _Bytes = Field(0, ge=0, le=_BYTES_MAX)
    clock_skew_seconds: float = Field(0.0, ge=-86_400, le=86_400)
    clock_drift: float = Field(0.0, gt=-0.5, lt=0.5)


class Telescope(_Part):
    """Groups of sub-bands, one every 309 s."""

    interval_seconds: float = Field(309.0, gt=0, le=_SECONDS_MAX)
    calibrator_every: int = Field(1, ge=1, le=GROUPS_MAX)
    late_probability: float = Field(0.0, ge=0, le=1)
    late_seconds: float = Field(240.0, ge=0, le=_SECONDS_MAX)
    missing_probability: float = Field(0.0, ge=0, le=1)
    corrupt_probability: float = Field(0.0, ge=0, le=1)


class StreamPart(_Part):
    """A daemon forms groups, windows and mosaics of what arrives. Groups are numbered from 0."""

    poll_seconds: float = Field(60.0, ge=1, le=86_400)
    window_size: int = Field(10, ge=2, le=1000)
    window_stride: int = Field(8, ge=1, le=1000)
    truncated_groups: list[int] = Field(default_factory=list)
    damaged_groups: list[int] = Field(default_factory=list)
    repeated_groups: list[int] = Field(default_factory=list)
    split_groups: list[int] = Field(default_factory=list)
    removed_groups: list[int] = Field(default_factory=list)
    rewritten_groups: list[int] = Field(default_factory=list)
    incomplete_groups: list[int] = Field(default_factory=list)
    delayed_groups: list[int] = Field(default_factory=list)
    unobserved_groups: list[int] = Field(default_factory=list)
    slews: list[int] = Field(default_factory=list)
    folder_outages: list[_Pair] = Field(default_factory=list)
    clock_steps: list[_Pair] = Field(default_factory=list)

    @model_validator(mode="after")
    def _check_times(self) -> StreamPart:
        for name in ("folder_outages", "clock_steps"):
            first = min((when for when, _ in getattr(self, name)), default=0.0)
            if first < 0:
                raise ValueError(f"stream.{name} begin at {first:g} s: at least 0")
        return self


class DiskPart(_Part):
    """The disk that scratch and products of all hosts share."""

    capacity_bytes: _Bytes = Field(10**15, ge=1, le=_BYTES_MAX)
    bandwidth_bytes_per_second: float | None = Field(None, ge=1000, le=_BYTES_MAX)


class OperatorPart(_Part):
    """The duties of an operator; None: nobody does that."""

    frees_after_seconds: float | None = Field(None, ge=1, le=_SECONDS_MAX)
    archives_after_seconds: float | None = Field(None, ge=1, le=_SECONDS_MAX)
    retries_every_seconds: float | None = Field(None, ge=1, le=_SECONDS_MAX)
    restarts_every_seconds: float | None = Field(None, ge=1, le=_SECONDS_MAX)


class Faults(_Part):
    """The faults to inject."""

    worker_kills_per_day: float = Field(0.0, ge=0, le=86_400)
    worker_pauses_per_day: float = Field(0.0, ge=0, le=86_400)
    worker_stops_per_day: float = Field(0.0, ge=0, le=86_400)
    host_reboots_per_day: float = Field(0.0, ge=0, le=86_400)
    partitions_per_day: float = Field(0.0, ge=0, le=86_400)
    partition_seconds: float = Field(120.0, gt=0, le=_SECONDS_MAX)
    database_restarts_per_day: float = Field(0.0, ge=0, le=86_400)
    database_outage_seconds: float = Field(20.0, ge=0, le=_SECONDS_MAX)
    outages: list[_Pair] = Field(default_factory=list)
    processing_stops: list[_Pair] = Field(default_factory=list)
    disk_fills: list[_Pair] = Field(default_factory=list)
    plan: list[str] = Field(default_factory=list)
    lost_reply_probability: float = Field(0.0, ge=0, le=1)
    latency_seconds: float = Field(0.0, ge=0, le=3600)
    stage_failures: dict[str, float] = Field(default_factory=dict)
    poison_groups: list[int] = Field(default_factory=list)


class Scenario(_Part):
    """One campaign."""

    name: str = Field(min_length=1)
    about: str = ""
    days: float = Field(1.0, gt=0, le=366)
    drain_seconds: float = Field(86_400.0, ge=0, le=_SECONDS_MAX)
    duration_spread: float = Field(0.1, ge=0, le=1)
    service_scale: float = Field(1.0, ge=1e-6, le=1e6)
    workers: Workers = Workers()
    telescope: Telescope = Telescope()
    stream: StreamPart | None = None
    """None: each group's task is spawned by hand, and there are no mosaics."""
    disk: DiskPart = DiskPart()
    operator: OperatorPart = OperatorPart()
    faults: Faults = Faults()
    sweep: dict[str, list[float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_together(self) -> Scenario:
        unknown = sorted(self.faults.stage_failures.keys() - FAILURES.keys())
        if unknown:
            raise ValueError(f"no such failure: {unknown}; known are {sorted(FAILURES)}")
        if len(self.sweep) > 1:
            raise ValueError("sweep may name one field")
        if not all(self.sweep.values()):
            raise ValueError("sweep needs at least one value of its field")
        parse_timed_faults(",".join(self.faults.plan))
        interval_seconds = self.telescope.interval_seconds
        groups = self.days * 86_400.0 / interval_seconds
        if groups > GROUPS_MAX:
            raise ValueError(
                f"days = {self.days:g} and telescope.interval_seconds = {interval_seconds:g} make "
                f"{groups:.6g} groups, and at most {GROUPS_MAX:,} are simulated: lower days or "
                "raise telescope.interval_seconds"
            )
        self._require_few_events()
        return self

    def _require_few_events(self) -> None:
        """Raise `ValueError` where a rate would make more than `EVENTS_MAX` of its events."""
        workers = self.workers.count + (self.stream is not None)
        targets = {"worker": workers, "host": self.workers.hosts, "partitions": self.workers.hosts}
        seconds = self.days * 86_400.0 + self.drain_seconds
        events = {
            f"faults.{name}": rate * self.days * targets.get(name.partition("_")[0], 1)
            for name, rate in self.faults.model_dump().items()
            if name.endswith("_per_day")
        }
        events |= {
            f"operator.{name}": seconds / every
            for name, every in self.operator.model_dump().items()
            if every is not None
        }
        for name, number in events.items():
            if number > EVENTS_MAX:
                raise ValueError(
                    f"{name} makes {number:.6g} events in days = {self.days:g}, and at most "
                    f"{EVENTS_MAX:,} are simulated"
                )

    def variants(self) -> list[tuple[str, Scenario]]:
        """The scenario for each value of its sweep, with a label; itself if there is none."""
        if not self.sweep:
            return [(self.name, self)]
        ((path, values),) = self.sweep.items()
        variants = []
        for value in values:
            data = self.model_dump()
            part, _, name = path.rpartition(".")
            place = data.get(part) if part else data
            if not isinstance(place, dict) or name not in place:
                raise ScenarioError(f"sweep: there is no field {path}")
            place[name] = int(value) if float(value).is_integer() else value
            data["sweep"] = {}
            try:
                variant = Scenario.model_validate(data)
            except ValidationError as error:
                raise ScenarioError(f"sweep: {refusal_sentences(error, Scenario)}") from error
            variants.append((f"{path} = {value:g}", variant))
        return variants


def load_scenario(path: str | Path) -> Scenario:
    """Read a scenario from a file or, by name, one of those shipped with the package.

    Raises `ScenarioError` that names the file and the field.
    """
    try:
        content = read_regular(path, SETTINGS_BYTES_MAX)
    except FileNotFoundError:
        shipped = files(__package__) / "scenarios" / f"{path}.toml"
        if not shipped.is_file():
            known = shipped_scenarios()
            raise ScenarioError(
                f"No scenario {path}: neither a file nor one of {', '.join(known)}. "
                f"{did_you_mean(str(path), known)}".strip()
            ) from None
        content = shipped.read_bytes()
    except OSError as error:
        raise ScenarioError(f"Scenario {path} cannot be read: {error}") from error
    try:
        return Scenario.model_validate(parse_toml(content))
    except ValidationError as error:
        mistakes = refusal_sentences(error, Scenario)
        raise ScenarioError(f"Scenario {path}: {mistakes}") from error
    except ValueError as error:
        raise ScenarioError(f"Scenario {path}: {error}") from error


def shipped_scenarios() -> list[str]:
    """The names of the scenarios in the package."""
    folder = files(__package__) / "scenarios"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir())
