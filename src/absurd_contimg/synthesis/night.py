"""The telescope of a short night: what it observes, and the process that writes the files.

    python -m absurd_contimg.synthesis.night INCOMING STAGING --groups 30 --speed 30

It first computes all files in the staging folder, then writes ``truth.json`` there, what a pipeline
must make of them, and then the files at their pace into the incoming folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from absurd_contimg.science.catalogue import SkySource, read_catalogue, write_catalogue
from absurd_contimg.synthesis.config import SUBBANDS, Fault, FaultKind, SynthesisConfig
from absurd_contimg.synthesis.files import subband_name
from absurd_contimg.synthesis.observe import synthesize
from absurd_contimg.synthesis.replay import Pace, replay

GROUPS_MIN = 10
"""A calibrator, and three groups before and after the change of pointing and the gap: fewer are a
slew."""
TRUTH_NAME = "truth.json"
_START = datetime(2025, 1, 15, 2, 0, 0, tzinfo=UTC)
_CALIBRATOR_DEC, _FIRST_DEC, _SECOND_DEC = 59.0, 63.8, 54.2
"""So far apart that the calibrator does not disturb a strip, and so near that both can use it."""
_GAP_GROUPS = 2
"""Not written: the neighbours of the gap are 15 min apart."""
_LATE_BY_GROUPS = 4


@dataclass(frozen=True, slots=True)
class TrueSource:
    """A source on the sky."""

    name: str
    flux_jy: float


@dataclass(frozen=True, slots=True)
class TrueGroup:
    """A group that the telescope writes, and what a pipeline must make of its files."""

    group_id: str
    strip: str
    """``calibrator``, ``first``, ``second`` or ``third``: a run of groups without gap or slew."""
    n_subbands: int
    """Whole ones, in time and once each."""
    late: int = 0
    refused: int = 0
    sources: tuple[TrueSource, ...] = ()
    """Those around its centre."""


@dataclass(frozen=True, slots=True)
class TrueNight:
    """The file ``truth.json``."""

    groups: tuple[TrueGroup, ...]
    injected_faults: dict[str, str] = field(default_factory=dict)
    """Kind of the fault, and the group that has it."""

    @classmethod
    def read(cls, path: Path) -> TrueNight:
        """Read what the telescope wrote."""
        text = json.loads(path.read_text(encoding="utf-8"))
        groups = [
            TrueGroup(**{**item, "sources": tuple(TrueSource(**s) for s in item["sources"])})
            for item in text["groups"]
        ]
        return cls(tuple(groups), text["injected_faults"])


@dataclass(frozen=True, slots=True)
class Plan:
    """How many groups each strip has."""

    first: int
    second: int
    third: int

    @classmethod
    def of(cls, groups: int) -> Plan:
        """Of 30: 13, 10 and 6, and the calibrator."""
        third, second = (max(3, (groups - 1) * part // 29) for part in (6, 10))
        return cls(groups - 1 - second - third, second, third)


def strips(plan: Plan) -> tuple[SynthesisConfig, SynthesisConfig, SynthesisConfig]:
    """What is observed: the calibrator, the first strip, the second with the gap and the third."""
    common = {
        "n_antennas": 16,
        "outriggers": 0,
        "channels_per_subband": 2,
        "n_integrations": 12,
        "integration_s": 25.769804,
        "bright_per_group": 3,
        "faint_per_group": 0,
        "calibrator_group": False,
    }
    calibrator = SynthesisConfig.model_validate(
        common
        | {
            "start": _START,
            "declination_deg": _CALIBRATOR_DEC,
            "calibrator_group": True,
            "science_groups": 0,
        }
    )
    length = timedelta(seconds=calibrator.group_length_s)
    first = SynthesisConfig.model_validate(
        common
        | {
            "start": _START + length,
            "declination_deg": _FIRST_DEC,
            "science_groups": plan.first,
        }
    )
    second = SynthesisConfig.model_validate(
        common
        | {
            "start": _START + (1 + plan.first) * length,
            "declination_deg": _SECOND_DEC,
            "science_groups": plan.second + _GAP_GROUPS + plan.third,
        }
    )
    missing = _fault(FaultKind.MISSING, first, 2)
    truncated, duplicated = (
        _fault(kind, second, group)
        for group, kind in enumerate((FaultKind.TRUNCATED, FaultKind.DUPLICATED), 1)
    )
    return (
        calibrator,
        first.model_copy(update={"faults": (missing,)}),
        second.model_copy(update={"faults": (truncated, duplicated)}),
    )


def _fault(kind: FaultKind, config: SynthesisConfig, group: int) -> Fault:
    """Of the sub-band that is named latest, so that the group keeps its name."""
    latest = max(range(SUBBANDS), key=lambda subband: subband_name(config, group, subband))
    return Fault(kind=kind, group=group, subband=latest)


@dataclass(frozen=True, slots=True)
class _Written:
    """A group with its files in the staging folder, and those that come later."""

    truth: TrueGroup
    files: tuple[Path, ...]
    late: tuple[Path, ...] = ()


def observe(staging: Path, plan: Plan) -> tuple[list[_Written], list[SkySource], dict[str, str]]:
    """Compute all files: the groups in order of time, the sky, and who has which fault."""
    written: list[_Written] = []
    sky: list[SkySource] = []
    faulty: dict[str, str] = {}
    for number, config in enumerate(strips(plan)):
        made = synthesize(staging / f"strip-{number}", config)
        sources = [
            replace(source, name=f"S{number}{source.name}")
            for source in read_catalogue(made.catalog)
        ]
        sky += sources
        for index, group in enumerate(made.groups):
            strip = _strip_name(number, index, plan)
            if not strip:
                continue
            faults = [fault.kind for fault in config.faults if fault.group == index]
            files, late = list(group.files), []
            if strip == "first" and index == 1:
                late = [files.pop(_fault(FaultKind.MISSING, config, index).subband)]
            kinds = ["late"] if late else [str(kind) for kind in faults]
            lost = bool(late) or bool({FaultKind.MISSING, FaultKind.TRUNCATED} & set(faults))
            refused = bool({FaultKind.TRUNCATED, FaultKind.DUPLICATED} & set(faults))
            own = [s for s in sources if s.name.startswith(f"S{number}G{index}B")]
            truth = TrueGroup(
                group_id=min(path.name for path in files).partition("_")[0],
                strip=strip,
                n_subbands=SUBBANDS - lost,
                late=len(late),
                refused=int(refused),
                sources=tuple(TrueSource(s.name, s.flux_jy) for s in own),
            )
            faulty |= dict.fromkeys(kinds, truth.group_id)
            written.append(_Written(truth, tuple(files), tuple(late)))
    return written, sky, faulty


def _strip_name(number: int, index: int, plan: Plan) -> str:
    """The run of groups that one belongs to; empty in the gap."""
    if number < 2:
        return ("calibrator", "first")[number]
    if index < plan.second:
        return "second"
    return "" if index < plan.second + _GAP_GROUPS else "third"


def write_night(incoming: Path, staging: Path, plan: Plan, pace: Pace) -> None:
    """Compute the night, then write its files into the incoming folder as time goes by."""
    staging.mkdir(parents=True, exist_ok=True)
    incoming.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="strips-", dir=staging) as strips_folder:
        written, sky, faulty = observe(Path(strips_folder), plan)
        write_catalogue(incoming / "catalog.csv", sky)
        truth = TrueNight(tuple(item.truth for item in written), faulty)
        partial = staging / "truth.partial"
        partial.write_text(json.dumps(asdict(truth), indent=1), encoding="utf-8")
        partial.rename(staging / TRUTH_NAME)
        replay(_in_order(written), incoming, pace)


def _in_order(written: Sequence[_Written]) -> list[tuple[Path, ...]]:
    """The files of each group, with those of an earlier one that come with it."""
    batches = [list(item.files) for item in written]
    for number, item in enumerate(written):
        batches[min(number + _LATE_BY_GROUPS, len(written) - 1)] += item.late
    return [tuple(batch) for batch in batches]


def main() -> int:
    """Run the telescope."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("incoming", type=Path)
    parser.add_argument("staging", type=Path)
    parser.add_argument("--groups", type=int, default=30)
    parser.add_argument("--speed", type=float, default=30.0)
    arguments = parser.parse_args()
    if arguments.groups < GROUPS_MIN:
        parser.error(f"--groups is at least {GROUPS_MIN}")
    plan, pace = Plan.of(arguments.groups), Pace(arguments.speed)
    write_night(arguments.incoming, arguments.staging, plan, pace)
    return 0


if __name__ == "__main__":
    sys.exit(main())
