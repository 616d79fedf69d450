"""Stage ``calibrate_solve``: bandpass and gains from a group in which a calibrator transits.

The model carries the beam of every integration and all catalogue sources of the field. Tasks
write into Measurement Sets, even when they only solve, so a scratch copy is used. Runs in a
child process with CASA.
"""

# CASA, pyuvdata and astropy take seconds to import and may be missing: where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from absurd_contimg.config import CalibrationConfig
from absurd_contimg.core.records import Json
from absurd_contimg.errors import (
    DataQualityError,
    InputError,
    OutputError,
    SolutionsRefusedError,
)
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.fallback import OTHER_CALIBRATION, escalations_of
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.science.beam import BeamCentres
from absurd_contimg.science.calibrators import Candidate, choose_calibrator
from absurd_contimg.science.catalogue import SkySource, read_catalogue
from absurd_contimg.science.measurement_set import (
    FlagCounts,
    MeasurementSet,
    channel_frequencies,
    count_flags,
    working_copy,
)
from absurd_contimg.science.sky_model import field_sources, write_model
from absurd_contimg.science.solutions import (
    SolutionQuality,
    check_quality,
    export_gains,
    judge,
    read_solutions,
)

BANDPASS_ORDER = 30
GAIN_ORDER = 40
"""Places of bandpass and amplitude gains in the telescope's order of application."""


class CalibrateSolveStage(PipelineStage):
    """Solves when a calibrator transits; otherwise its product only says why not."""

    name = "calibrate_solve"
    requires = frozenset({"flagged_ms", "catalog"})
    provides = frozenset({"caltables"})
    product_folder: ClassVar[str | None] = "calibration"

    @override
    def parameters(self, context: PipelineContext) -> Mapping[str, Json]:
        config = context.config
        return {
            "calibrator": _wanted(context),
            "calibration": dict(config.calibration.of_solutions),
            "beam": config.beam.model_dump(mode="json"),
            **({"own_calibrator": False} if _uses_another(context) else {}),
        }

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        flagged = MeasurementSet.from_outputs(context.outputs, "flagged_ms")
        return [Path(flagged.path), _catalogue_path(context)]

    @override
    def validate(self, context: PipelineContext) -> None:
        MeasurementSet.from_outputs(context.outputs, "flagged_ms")
        if _wanted(context) not in {"auto", "none"}:
            self._calibrator(context)

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        chosen, reason = self._calibrator(context)
        try:
            result = self._solve(context, workspace, chosen) if chosen else _unsolved(reason)
        except DataQualityError as refused:
            if _wanted(context) != "auto":
                raise  # this calibrator was asked for, and no other will do
            raise SolutionsRefusedError(refused.problem, refused.remedy) from refused
        note = workspace.product / "calibration.json"
        note.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return {"caltables": result}

    @override
    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: Mapping[str, Json]
    ) -> None:
        caltables = outputs["caltables"]
        if not isinstance(caltables, Mapping):
            raise OutputError(f"solving described no calibration but {caltables!r}.")
        if not caltables["solved"]:
            return
        for suffix in ("bpcal", "gacal"):
            path = workspace.product / f"{caltables['set_name']}_{suffix}"
            if read_solutions(path, "Solve again.").flags.all():
                raise OutputError(f"all solutions in {path.name} are flagged.", "See CASA's log.")

    def _calibrator(self, context: PipelineContext) -> tuple[Candidate | None, str]:
        """The calibrator to use, or None with the reason."""
        wanted = _wanted(context)
        if wanted == "none":
            return None, "no calibration was asked for"
        if _uses_another(context):
            return None, "the solutions from this group's own calibrator were refused"
        ms = MeasurementSet.from_outputs(context.outputs, "flagged_ms")
        chosen = choose_calibrator(
            wanted,
            read_catalogue(_catalogue_path(context)),
            BeamCentres.read(Path(ms.beam_centres)),
            context.config.calibration,
            context.config.beam,
        )
        return chosen, "" if chosen else "no calibrator transits during this group"

    def _solve(
        self, context: PipelineContext, workspace: Workspace, chosen: Candidate
    ) -> dict[str, Json]:
        settings = context.config.calibration
        ms = MeasurementSet.from_outputs(context.outputs, "flagged_ms")
        centres = BeamCentres.read(Path(ms.beam_centres))
        copy = working_copy(ms, workspace.temporary)
        sources = _model_sources(context, ms, centres, chosen)
        amplitude = write_model(copy, ms, sources, centres, context.config.beam)
        flags = count_flags(copy)
        set_name = f"{context.inputs['group_id']}_{ms.mid_mjd:.6f}"
        job = _SolveJob(
            copy,
            workspace.product / f"{set_name}_bpcal",
            workspace.product / f"{set_name}_gacal",
            _reference_antenna(flags, settings),
            settings,
        )
        job.run(workspace.temporary, _phase_channels(flags))
        quality = job.check(flags, f"{chosen.source.name} in group {context.inputs['group_id']}")
        final = workspace.final_path
        return {
            "solved": True,
            "set_name": set_name,
            "tables": [
                _table(final(job.bandpass), "BP", BANDPASS_ORDER, "nearest"),
                _table(final(job.gains), "GA", GAIN_ORDER, "linear"),
            ],
            "gains": final(job.exported),
            "calibrator": chosen.source.name,
            "beam_response": round(chosen.response, 4),
            "model_sources": len(sources),
            "model_mean_jy": round(amplitude, 4),
            "refant": job.reference,
            "mid_mjd": ms.mid_mjd,
            "declination_deg": ms.declination_deg,
            "valid_start_mjd": ms.mid_mjd - settings.valid_before_hours / 24.0,
            "valid_end_mjd": ms.mid_mjd + settings.valid_after_hours / 24.0,
            "quality": quality.to_json(),
        }


@dataclass(frozen=True, slots=True)
class _SolveJob:
    """The CASA tasks of one solve, on a working copy that has MODEL_DATA."""

    vis: Path
    bandpass: Path
    gains: Path
    reference: str
    settings: CalibrationConfig

    @property
    def exported(self) -> Path:
        return self.bandpass.parent / "gains.npz"

    def run(self, temporary: Path, phase_channels: str) -> None:
        """Phases on a narrow part of the band, bandpass, then amplitude and phase gains."""
        from casatasks import bandpass, gaincal

        common: dict[str, Any] = {
            "vis": str(self.vis),
            "refant": self.reference,
            "minsnr": self.settings.minsnr,
            "minblperant": self.settings.minblperant,
            "combine": "scan,field",
        }
        phases = temporary / "before_bandpass"
        gaincal(
            caltable=str(phases),
            calmode="p",
            gaintype="G",
            solint=self.settings.prebandpass_interval,
            spw=phase_channels,
            **common,
        )
        read_solutions(phases, self._remedy)
        bandpass(
            caltable=str(self.bandpass),
            bandtype="B",
            solint=self.settings.bandpass_interval,
            solnorm=True,
            fillgaps=3,
            gaintable=[str(phases)],
            interp=["nearest"],
            **common,
        )
        read_solutions(self.bandpass, self._remedy)
        gaincal(
            caltable=str(self.gains),
            calmode="ap",
            gaintype="G",
            solint=self.settings.gain_interval,
            gaintable=[str(self.bandpass)],
            interp=["nearest"],
            **common,
        )

    def check(self, flags: FlagCounts, what: str) -> SolutionQuality:
        """Gate the solutions and export them."""
        bandpass = read_solutions(self.bandpass, self._remedy)
        gains = read_solutions(self.gains, self._remedy)
        alive = {name for name, share in flags.by_antenna.items() if share < 1.0}
        quality = judge(bandpass, gains, alive, flags.by_channel < 1.0)
        check_quality(quality, self.settings, what)
        export_gains(self.exported, bandpass, gains, channel_frequencies(self.vis))
        return quality

    @property
    def _remedy(self) -> str:
        return (
            "Too much is flagged or the calibrator is too weak: use another group or "
            f"calibrator (minsnr {self.settings.minsnr}, minblperant {self.settings.minblperant})."
        )


def _phase_channels(flags: FlagCounts) -> str:
    """CASA selection of the quarter of the band that has the most data, central if in doubt.

    No more than a quarter, because delays of 5 ns decorrelate phases across the whole band.
    """
    good = 1.0 - flags.by_channel
    width = max(1, len(good) // 4)
    middle = (len(good) - width) / 2.0

    def merit(first: int) -> tuple[float, float]:
        return round(float(good[first : first + width].sum()), 6), -abs(first - middle)

    low = max(range(len(good) - width + 1), key=merit)
    return f"0:{low}~{low + width - 1}"


def _reference_antenna(flags: FlagCounts, settings: CalibrationConfig) -> str:
    """The first of the configured antennas that is there and mostly unflagged, or the best."""
    for name in settings.reference_antennas:
        if flags.by_antenna.get(name, 1.0) <= settings.reference_flagged_max:
            return name
    name, share = min(flags.by_antenna.items(), key=lambda item: (item[1], item[0]))
    if share > settings.reference_flagged_max:
        raise DataQualityError(
            f"no antenna can serve as reference: the best, {name}, has {share:.0%} flagged.",
            "The data are not worth calibrating; calibration.reference_flagged_max is the limit.",
        )
    return name


def _model_sources(
    context: PipelineContext, ms: MeasurementSet, centres: BeamCentres, chosen: Candidate
) -> list[SkySource]:
    sources = field_sources(
        read_catalogue(_catalogue_path(context)),
        ms,
        centres,
        context.config.calibration,
        context.config.beam,
    )
    return sources if chosen.source in sources else [*sources, chosen.source]


def _table(path: str, kind: str, order: int, interp: str) -> dict[str, Json]:
    return {"path": path, "type": kind, "apply_order": order, "interp": interp}


def _unsolved(reason: str) -> dict[str, Json]:
    return {"solved": False, "reason": reason}


def _wanted(context: PipelineContext) -> str:
    wanted = context.inputs.get("calibrator", "auto")
    if not isinstance(wanted, str) or not wanted:
        raise InputError(
            f"the input calibrator is {wanted!r}.", "It is auto, none or a calibrator's name."
        )
    return wanted


def _uses_another(context: PipelineContext) -> bool:
    """Whether the group's own solutions were refused by an earlier start."""
    return OTHER_CALIBRATION in escalations_of(context)


def _catalogue_path(context: PipelineContext) -> Path:
    catalog = context.outputs["catalog"]
    if not isinstance(catalog, Mapping):
        raise InputError(f"the output catalog describes no catalogue but {catalog!r}.")
    return Path(str(catalog["path"]))
