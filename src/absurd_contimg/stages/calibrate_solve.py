"""Stage ``calibrate_solve``: bandpass and gains from a group in which a calibrator transits.

CASA's tasks write into a Measurement Set even when they only solve, so they get a copy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import override

from absurd_contimg.config import CalibrationConfig
from absurd_contimg.errors import DataQualityError, OutputError, SolutionsRefusedError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.fallback import OTHER_CALIBRATION, fallbacks_of
from absurd_contimg.execution.stage import (
    TABLES_BYTES,
    Parameters,
    PipelineStage,
    Resource,
    Workspace,
)
from absurd_contimg.products.outputs import (
    CalibrateSolveOutputs,
    Caltable,
    CatalogSetupOutputs,
    FlagOutputs,
    SolutionQuality,
    SolvedCaltables,
    UnsolvedCaltables,
    names,
    to_json,
)
from absurd_contimg.science.antenna_names import station_name
from absurd_contimg.science.beam import BeamCentres
from absurd_contimg.science.calibrators import Candidate, choose_calibrator
from absurd_contimg.science.catalogue import read_catalogue
from absurd_contimg.science.measurement_set import (
    FlagCounts,
    channel_frequencies,
    check_table,
    count_flags,
    working_copy,
)
from absurd_contimg.science.sky_model import field_sources, write_model
from absurd_contimg.science.solutions import (
    check_quality,
    export_gains,
    measure_quality,
    read_solutions,
    with_flags,
)

GAINS_NAME = "gains.npz"
BANDPASS_ORDER = 30
GAIN_ORDER = 40
"""In the telescope's order of application (docs/telescope.md#calibration)."""


class CalibrateSolveStage(PipelineStage[CalibrateSolveOutputs]):
    """Without a calibrator in transit, its product only states the reason."""

    name = "calibrate_solve"
    version = 2
    resource = Resource.CALIBRATION
    requires = names(FlagOutputs, CatalogSetupOutputs)
    provides = names(CalibrateSolveOutputs)
    product_folder = "calibration"
    bytes_min = TABLES_BYTES

    @override
    def parameters(self, context: PipelineContext) -> Parameters:
        config = context.config
        return {
            "calibrator": context.group_inputs.calibrator,
            "calibration": dict(config.calibration.of_solutions),
            "beam": config.beam.model_dump(mode="json"),
            **({"own_calibrator": False} if OTHER_CALIBRATION in fallbacks_of(context) else {}),
        }

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        catalog = context.outputs_of(CatalogSetupOutputs).catalog
        return [context.outputs_of(FlagOutputs).flagged_ms.path, catalog.path]

    @override
    def validate(self, context: PipelineContext) -> None:
        check_table(context.outputs_of(FlagOutputs).flagged_ms.path)
        if context.group_inputs.calibrator not in {"auto", "none"}:
            _calibrator(context)

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> CalibrateSolveOutputs:
        chosen, reason = _calibrator(context)
        try:
            caltables = _solve(context, workspace, chosen) if chosen else UnsolvedCaltables(reason)
        except DataQualityError as refused:
            if context.group_inputs.calibrator != "auto":
                raise  # the user named this calibrator: no other will do
            raise SolutionsRefusedError(refused.problem, refused.remedy) from refused
        outputs = CalibrateSolveOutputs(caltables)
        text = json.dumps(to_json(outputs)["caltables"], indent=1, sort_keys=True)
        (workspace.product / "calibration.json").write_text(text + "\n", encoding="utf-8")
        return outputs

    @override
    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: CalibrateSolveOutputs
    ) -> None:
        if not isinstance(outputs.caltables, SolvedCaltables):
            return
        for table in outputs.caltables.tables:
            path = workspace.product / table.path.name
            if read_solutions(path, "Solve again.").flags.all():
                raise OutputError(f"all solutions in {path.name} are flagged.", "See CASA's log.")


def _calibrator(context: PipelineContext) -> tuple[Candidate | None, str]:
    """The calibrator to use, or None with the reason."""
    wanted = context.group_inputs.calibrator
    if wanted == "none":
        return None, "no calibration was asked for"
    if OTHER_CALIBRATION in fallbacks_of(context):
        return None, "the solutions from this group's own calibrator were refused"
    catalogue = read_catalogue(context.outputs_of(CatalogSetupOutputs).catalog.path)
    centres = BeamCentres.read(context.outputs_of(FlagOutputs).flagged_ms.beam_centres)
    settings = context.config.calibration, context.config.beam
    chosen = choose_calibrator(wanted, catalogue, centres, *settings)
    return chosen, "" if chosen else "no calibrator transits during this group"


def _solve(context: PipelineContext, workspace: Workspace, chosen: Candidate) -> SolvedCaltables:
    settings = context.config.calibration
    ms = context.outputs_of(FlagOutputs).flagged_ms
    centres = BeamCentres.read(ms.beam_centres)
    copy = working_copy(ms.path, workspace.temporary)
    beam = context.config.beam
    catalogue = read_catalogue(context.outputs_of(CatalogSetupOutputs).catalog.path)
    sources = field_sources(catalogue, ms, centres, settings, beam)
    if chosen.source not in sources:
        sources.append(chosen.source)
    amplitude = write_model(copy, ms, sources, centres, beam)
    flags = count_flags(copy)
    set_name = f"{context.group_id}_{ms.mid_mjd:.6f}"
    bandpass, gains = (workspace.product / f"{set_name}_{kind}" for kind in ("bpcal", "gacal"))
    job = _SolveJob(copy, bandpass, gains, _reference_antenna(flags, settings), settings)
    job.run(workspace.temporary, _phase_channels(flags))
    quality = job.check(flags, f"{chosen.source.name} in group {context.group_id}")
    final = workspace.final_path
    return SolvedCaltables(
        set_name=set_name,
        tables=(
            Caltable(final(bandpass), "BP", BANDPASS_ORDER, "nearest"),
            Caltable(final(gains), "GA", GAIN_ORDER, "linear"),
        ),
        gains=final(gains.with_name(GAINS_NAME)),
        calibrator=chosen.source.name,
        beam_response=round(chosen.response, 4),
        model_sources=len(sources),
        model_mean_jy=round(amplitude, 4),
        refant=job.reference,
        mid_mjd=ms.mid_mjd,
        declination_deg=ms.declination_deg,
        valid_start_mjd=ms.mid_mjd - settings.valid_before_hours / 24.0,
        valid_end_mjd=ms.mid_mjd + settings.valid_after_hours / 24.0,
        quality=quality,
    )


@dataclass(frozen=True, slots=True)
class _SolveJob:
    """The CASA tasks of one solve, on a working copy that has MODEL_DATA."""

    vis: Path
    bandpass: Path
    gains: Path
    reference: str
    settings: CalibrationConfig

    def run(self, temporary: Path, phase_channels: str) -> None:
        """Phases on a narrow part of the band, bandpass, then amplitude and phase gains."""
        from casatasks import bandpass, gaincal

        settings = self.settings
        common: dict[str, Any] = {"vis": str(self.vis), "refant": self.reference}
        common |= {"minsnr": settings.minsnr, "minblperant": settings.minblperant}
        common["combine"] = "scan,field"
        solve_gains = partial(gaincal, gaintype="G", **common)
        phases, interval = str(temporary / "before_bandpass"), settings.prebandpass_interval
        solve_gains(caltable=phases, calmode="p", solint=interval, spw=phase_channels)
        read_solutions(Path(phases), self._remedy)
        bandpass(
            caltable=str(self.bandpass),
            bandtype="B",
            solint=settings.bandpass_interval,
            solnorm=True,
            fillgaps=3,
            gaintable=[phases],
            interp=["nearest"],
            **common,
        )
        read_solutions(self.bandpass, self._remedy)
        solve_gains(
            caltable=str(self.gains),
            calmode="ap",
            solint=settings.gain_interval,
            gaintable=[str(self.bandpass)],
            interp=[with_flags("nearest")],
        )

    def check(self, flags: FlagCounts, origin: str) -> SolutionQuality:
        """Check the quality of the solutions and export them; `origin` names them in errors."""
        bandpass, gains = (read_solutions(p, self._remedy) for p in (self.bandpass, self.gains))
        with_data = {name for name, share in flags.by_antenna.items() if share < 1.0}
        quality = measure_quality(bandpass, gains, with_data, flags.by_channel < 1.0)
        check_quality(quality, self.settings, origin)
        frequencies = channel_frequencies(self.vis)
        export_gains(self.gains.with_name(GAINS_NAME), bandpass, gains, frequencies)
        return quality

    @property
    def _remedy(self) -> str:
        return (
            "Too much is flagged or the calibrator is too weak: use another group or "
            f"calibrator (minsnr {self.settings.minsnr}, minblperant {self.settings.minblperant})."
        )


def _phase_channels(flags: FlagCounts) -> str:
    """CASA selection of the best quarter of the band: delays of 5 ns decorrelate more of it."""
    good = 1.0 - flags.by_channel
    width = max(1, len(good) // 4)
    middle = (len(good) - width) / 2.0

    def merit(first: int) -> tuple[float, float]:
        return round(float(good[first : first + width].sum()), 6), -abs(first - middle)

    low = max(range(len(good) - width + 1), key=merit)
    return f"0:{low}~{low + width - 1}"


def _reference_antenna(flags: FlagCounts, settings: CalibrationConfig) -> str:
    """The first configured antenna that is mostly unflagged, else the least flagged antenna."""
    for name in map(station_name, settings.reference_antennas):
        if flags.by_antenna.get(name, 1.0) <= settings.reference_flagged_max:
            return name
    name, share = min(flags.by_antenna.items(), key=lambda item: (item[1], item[0]))
    if share > settings.reference_flagged_max:
        raise DataQualityError(
            f"no antenna can serve as reference: the best, {name}, has {share:.0%} flagged.",
            "The data are not worth calibrating; calibration.reference_flagged_max is the limit.",
        )
    return name
