"""The facts of a night's groups, from the registry, their products and their tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.records import History
from absurd_contimg.errors import UserError
from absurd_contimg.history.wait_explanation import WaitContext
from absurd_contimg.operations.night_report.facts import (
    CalibrationUse,
    DataFigures,
    GroupFacts,
    ImageFigures,
    Number,
    SolvedSet,
    SourceFacts,
)
from absurd_contimg.operations.night_report.nights import middle_of
from absurd_contimg.operations.night_report.product_figures import read_gains
from absurd_contimg.operations.night_report.task_reading import selected_calibration, task_facts
from absurd_contimg.products.outputs import (
    CalibrateApplyOutputs,
    CalibrateSolveOutputs,
    ContinuumImage,
    ConvertOutputs,
    FlagOutputs,
    ImageOutputs,
    MeasurementSet,
    Photometry,
    PhotometryOutputs,
    SelectCalibrationOutputs,
    SolvedCaltables,
    SourceCheck,
    SourceTable,
    ValidateOutputs,
    from_json,
)
from absurd_contimg.products.photometry_table import SourceFlux, read_photometry
from absurd_contimg.registry.ingestion_records import IngestGroup
from absurd_contimg.registry.models import FileState, IngestState
from absurd_contimg.registry.newest_products import RegisteredProduct
from absurd_contimg.regular_files import read_json

_T = TypeVar("_T")

_ACCEPTED = {FileState.WHOLE, FileState.CHANGED}
_GROUP_SECONDS = 309.0
_SIDEREAL_SECONDS_PER_DEG = 240.0 / 1.002_737_909

Products = Mapping[tuple[str, str], RegisteredProduct]


@dataclass(slots=True)
class Measurements:
    """How pixels and flags are read, and what of them is known already, by the product's key."""

    measure_image: Callable[[ContinuumImage], ImageFigures] | None = None
    """None: nothing is read from images."""
    images: dict[str, ImageFigures] = field(default_factory=dict)
    data: dict[str, DataFigures] = field(default_factory=dict)

    def image(self, key: str, image: ContinuumImage) -> ImageFigures | None:
        """The figures of an image; only without a problem are they kept."""
        if key not in self.images or self.images[key].problem:
            if self.measure_image is None:
                return self.images.get(key)
            self.images[key] = self.measure_image(image)
        return self.images[key]

    def read_data(
        self,
        sets: Mapping[str, Path],
        read: Callable[[Sequence[Path]], Mapping[Path, DataFigures]] | None,
    ) -> None:
        """Read the flags of those Measurement Sets, by their products' keys, that are not known."""
        new = {key: path for key, path in sets.items()
               if key not in self.data or self.data[key].problem}  # fmt: skip
        if new and read is not None:
            figures = read(list(new.values()))
            self.data |= {key: figures[path] for key, path in new.items() if path in figures}


@dataclass(slots=True)
class GroupReader:
    """Reads the groups of a night; what cannot be read is a problem, never an exception."""

    config: PipelineConfig
    products: Products
    tasks: Mapping[str, History]
    context: WaitContext
    measurements: Measurements
    problems: list[str] = field(default_factory=list)

    def outputs(self, group_id: str, kind: type[_T], key: str) -> tuple[str, _T] | None:
        """The newest outputs of a kind of a group, with the key of their product."""
        candidates = [
            product
            for (name, _stage), product in self.products.items()
            if name == group_id and key in product.outputs
        ]
        if not candidates:
            return None
        newest = max(candidates, key=lambda product: (product.created_at, product.key))
        try:
            return newest.key, from_json(kind, newest.outputs)
        except ValueError as error:
            self.problems.append(f"Product {newest.key} of {group_id}: {error}.")
            return None

    def read(self, group: IngestGroup) -> GroupFacts:
        """Everything known of one group."""
        name = group.group_id
        expected = self.config.conversion.expected_subbands
        present = {file.subband for file in group.files if file.state in _ACCEPTED}
        converted = self.outputs(name, ConvertOutputs, "measurement_set")
        raw = None if converted is None else converted[1].measurement_set
        missing = set(range(expected)) - present if raw is None else set(raw.placeholder_subbands)
        flagged = self.outputs(name, FlagOutputs, "flagged_ms")
        calibrated = self.outputs(name, CalibrateApplyOutputs, "calibrated_ms")
        known: MeasurementSet | None = raw or (calibrated[1].calibrated_ms if calibrated else None)
        imaged = self.outputs(name, ImageOutputs, "image")
        image = None if imaged is None else imaged[1].image
        validated = self.outputs(name, ValidateOutputs, "validation")
        measured = self.outputs(name, PhotometryOutputs, "photometry")
        history = self.tasks.get(name)
        collecting = group.ingest_state is IngestState.COLLECTING
        return GroupFacts(
            group_id=name,
            mid_mjd=middle_of(group) or 0.0,
            seconds=_seconds(known) if known else _GROUP_SECONDS * (len(present) > 0),
            declination_deg=group.declination_deg if known is None else known.declination_deg,
            status=group.status.value,
            reason=group.reason or group.closed_reason,
            ingest_state=group.ingest_state.value,
            state=group.state,
            n_subbands=len(present) if collecting or group.n_subbands is None
            else group.n_subbands,
            missing_subbands=tuple(sorted(missing)),
            task=None if history is None else task_facts(history, self.context),
            flagged_before=None if raw is None else raw.flagged_fraction,
            flagged_after=None if flagged is None else flagged[1].flagged_ms.flagged_fraction,
            flagged_calibrated=None if calibrated is None
            else calibrated[1].calibrated_ms.flagged_fraction,
            dead_antennas=() if flagged is None else flagged[1].flagged_ms.dead_antennas,
            n_antennas=None if known is None else known.n_antennas,
            data=None if calibrated is None else self.measurements.data.get(calibrated[0]),
            calibration=self._calibration(name, history),
            has_image=image is not None,
            stage_noise_jy=None if image is None else image.rms_jy,
            peak_jy=None if image is None else image.peak_jy,
            bmaj_arcsec=None if image is None else image.bmaj_arcsec,
            bmin_arcsec=None if image is None else image.bmin_arcsec,
            bpa_deg=None if image is None else image.bpa_deg,
            figures=None if imaged is None
            else self.measurements.image(imaged[0], imaged[1].image),
            sources=self._sources(
                None if validated is None else validated[1].validation.report,
                None if measured is None else measured[1].photometry,
            ),
            failed_gates=() if validated is None else validated[1].validation.failed_gates,
            n_uncatalogued=None if measured is None else measured[1].photometry.n_uncatalogued,
        )  # fmt: skip

    def _calibration(self, name: str, history: History | None) -> CalibrationUse | None:
        outputs = None if history is None else selected_calibration(history)
        if outputs is None:
            return None
        try:
            chosen = from_json(SelectCalibrationOutputs, outputs).calibration
        except ValueError as error:
            self.problems.append(f"The calibration of {name}: {error}.")
            return None
        return CalibrationUse(
            chosen.set_name, chosen.calibrator, chosen.hours_away, chosen.group_id == name,
            chosen.warning or "",
        )  # fmt: skip

    def _sources(self, report: Path | None, photometry: Photometry | None) -> tuple[
        SourceFacts, ...
    ]:  # fmt: skip
        checks = {check.name: check for check in self._checks(report)}
        rows = () if photometry is None else self._fluxes(photometry.table)
        least = self.config.photometry.ratio_snr_min
        measured = {
            row.source: _of_flux(row, checks.get(row.source), least)
            for row in rows if row.catalogue_jy is not None
        }  # fmt: skip
        others = {name: _of_check(check) for name, check in checks.items() if name not in measured}
        return (*measured.values(), *others.values())

    def _checks(self, report: Path | None) -> Sequence[SourceCheck]:
        if report is None:
            return ()
        try:
            return from_json(SourceTable, read_json(report)).sources
        except FileNotFoundError:
            self.problems.append(f"The validation table {report} is no longer there.")
        except (OSError, ValueError) as error:
            self.problems.append(f"The validation table {report} cannot be read: {error}.")
        return ()

    def _fluxes(self, table: Path) -> Iterable[SourceFlux]:
        try:
            return read_photometry(table)
        except (OSError, UserError) as error:
            self.problems.append(str(error))
            return ()

    def solved_set(self, group: GroupFacts) -> SolvedSet | None:
        """The solutions of a calibrator in a group, if there are any."""
        solved = self.outputs(group.group_id, CalibrateSolveOutputs, "caltables")
        if solved is None or not isinstance(solved[1].caltables, SolvedCaltables):
            return None
        tables = solved[1].caltables
        gains, _, problem = ({}, (), "") if tables.gains is None else read_gains(tables.gains)
        checks = self._calibrator_checks(group.group_id)
        check = next((check for check in checks if check.name == tables.calibrator), None)
        quality = tables.quality
        with_data = (
            None if group.n_antennas is None else group.n_antennas - len(group.dead_antennas)
        )
        return SolvedSet(
            set_name=tables.set_name,
            group_id=group.group_id,
            calibrator=tables.calibrator,
            refant=tables.refant,
            beam_response=tables.beam_response,
            transit_offset_seconds=None if check is None
            else self._transit_offset(check, tables.mid_mjd),
            flux_ratio=None if check is None else check.flux_ratio,
            antennas_with_data=with_data if quality is not None else None,
            unsolved_antennas=() if quality is None else quality.unsolved_antennas,
            gains=gains,
            problem=problem,
        )  # fmt: skip

    def _calibrator_checks(self, group_id: str) -> Sequence[SourceCheck]:
        validated = self.outputs(group_id, ValidateOutputs, "validation")
        return () if validated is None else self._checks(validated[1].validation.report)

    def _transit_offset(self, check: SourceCheck, mid_mjd: float) -> Number:
        try:
            import numpy as np  # noqa: PLC0415 - beside those that may be missing

            from absurd_contimg.science.catalogue import SkySource  # noqa: PLC0415
            from absurd_contimg.science.transits import (  # noqa: PLC0415
                apparent_position_deg,
                sidereal_time_deg,
            )

            moment = np.array([mid_mjd])
            source = SkySource(check.name, check.ra_deg, check.dec_deg, check.flux_jy)
            right_ascension, _ = apparent_position_deg(source, moment)
            sidereal = sidereal_time_deg(moment, self.config.site.longitude_deg)
        except ImportError:  # erfa: the extra casa
            return None
        turned = float((sidereal[0] - right_ascension[0] + 180.0) % 360.0 - 180.0)
        return turned * _SIDEREAL_SECONDS_PER_DEG


def _seconds(ms: MeasurementSet) -> float:
    return max(0.0, (ms.end_mjd - ms.start_mjd) * 86400.0)


def _of_flux(row: SourceFlux, check: SourceCheck | None, sigma_min: float) -> SourceFacts:
    """A forced measurement; its ratio counts as in the figures of its table."""
    catalogue = row.catalogue_jy or 0.0
    sigma = None if row.flux_jy is None or not row.error_jy else row.flux_jy / row.error_jy
    is_good = not row.flags and sigma is not None and sigma >= sigma_min
    placed = check if check is not None and check.isolated else None
    return SourceFacts(
        row.source,
        catalogue,
        row.response,
        row.flux_jy / catalogue if is_good and row.flux_jy is not None and catalogue > 0 else None,
        sigma,
        None if placed is None else placed.east_arcsec,
        None if placed is None else placed.north_arcsec,
    )


def _of_check(check: SourceCheck) -> SourceFacts:
    """A source of the validation; its significance is that of its apparent flux."""
    ratio = check.flux_ratio
    return SourceFacts(
        check.name,
        check.flux_jy,
        check.beam_response,
        ratio if check.isolated else None,
        None if ratio is None else check.snr * ratio,
        check.east_arcsec if check.isolated else None,
        check.north_arcsec if check.isolated else None,
    )
