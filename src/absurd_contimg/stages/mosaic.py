"""Stage ``mosaic``: one image of many groups, its weights, its tiles and its checks.

The four files are one product: nobody sees one of them without the others. A mosaic that fails a
gate ends degraded, without error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from absurd_contimg.config import PipelineConfig
from absurd_contimg.config.mosaic import MosaicTier
from absurd_contimg.core.records import Json
from absurd_contimg.errors import (
    CorruptInputError,
    MissingInputError,
    OutputError,
)
from absurd_contimg.execution.context import MosaicInputs, PipelineContext
from absurd_contimg.execution.stage import Parameters, PipelineStage, Resource, Workspace
from absurd_contimg.products.mosaic_outputs import (
    MosaicImage,
    MosaicMember,
    MosaicMembers,
    MosaicOutputs,
    MosaicTile,
    TileTable,
)
from absurd_contimg.products.outputs import SourceCheck, names, to_json
from absurd_contimg.products.verdicts import ACCEPTED, DEGRADED
from absurd_contimg.regular_files import read_json
from absurd_contimg.science.canvas import Canvas, Footprint, plan_canvas
from absurd_contimg.science.catalogue import SkySource, read_catalogue
from absurd_contimg.science.mosaic_checks import (
    SourceCount,
    TileFlux,
    TilePair,
    check_sources,
    compare_tiles,
    count_extremes,
    count_sources,
    isolation_of,
    measure_tile,
    normalised_noise,
)
from absurd_contimg.science.mosaicking import MosaicSum, Tile, plane
from absurd_contimg.science.noise import robust_rms
from absurd_contimg.science.restoring_beams import convolved
from absurd_contimg.science.tile_selection import Selection, beam_of, select_tiles
from absurd_contimg.stages.image import read_whole
from absurd_contimg.stages.validate import rounded

_CATALOGUE_MARGIN_DEG = 3.0
"""Sources further than this from all tiles' declinations are left out."""


class MosaicStage(PipelineStage[MosaicOutputs]):
    """Adds up the images of the members that are good enough."""

    name = "mosaic"
    version = 2
    requires = frozenset(MosaicInputs.model_fields) | names(MosaicMembers)
    provides = names(MosaicOutputs)
    product_folder = "mosaics"
    resource = Resource.IMAGING

    @override
    def parameters(self, context: PipelineContext) -> Parameters:
        members = context.outputs_of(MosaicMembers)
        return {
            "tier": context.mosaic_inputs.tier,
            "members": _groups(members),
            "failed_gates": {m.group_id: list(m.failed_gates) for m in members.tiles},
            "sources": {m.group_id: [m.n_matched, m.n_expected] for m in members.tiles},
            "mosaic": context.config.mosaic.model_dump(mode="json"),
            "validation": context.config.validation.model_dump(mode="json"),
            "response_min": context.config.beam.cutoff,
        }

    @override
    def input_paths(self, context: PipelineContext) -> list[Path]:
        images = [member.image for member in context.outputs_of(MosaicMembers).tiles]
        catalogue = context.mosaic_inputs.catalog_path
        return [*(p for image in images for p in (image.path, image.beam_path)), catalogue]

    @override
    def expected_bytes(self, context: PipelineContext) -> int:
        tiles = context.outputs_of(MosaicMembers).tiles
        pixels = sum(member.image.size_px**2 for member in tiles)
        return 8 * min(pixels, context.config.mosaic.pixels_max) + 1_000_000

    @override
    def validate(self, context: PipelineContext) -> None:
        for member in context.outputs_of(MosaicMembers).tiles:
            for path in (member.image.path, member.image.beam_path):
                if not path.is_file():
                    raise MissingInputError(
                        f"the image {path} of group {member.group_id} does not exist.",
                        "Restore it, or: contimg mosaic make WINDOW --again",
                    )

    @override
    def execute(self, context: PipelineContext, workspace: Workspace) -> MosaicOutputs:
        inputs, members = context.mosaic_inputs, context.outputs_of(MosaicMembers)
        config = context.config
        selection = select_tiles(members, config, inputs.tier)
        builder = _Builder.of(selection, config, read_catalogue(inputs.catalog_path))
        tiles = [builder.add(member) for member in selection.used]
        table = TileTable(tuple(tiles), selection.refused)
        files = {
            kind: workspace.product / f"{inputs.window_id}-{kind}"
            for kind in ("mosaic.fits", "weight.fits", "checks.json")
        }
        files["tiles.json"] = workspace.product / "tiles.json"
        paths = [workspace.final_path(path) for path in files.values()]
        mosaic, details = builder.finish(inputs, table, paths)
        header = _header(builder, mosaic, selection.used)
        _write(files["mosaic.fits"], header, builder.pixels, "Jy/beam", "Intensity")
        _write(files["weight.fits"], header, builder.total.weights, "Jy-2", "Weight")
        _write_json(files["tiles.json"], to_json(table))
        _write_json(files["checks.json"], details)
        return MosaicOutputs(mosaic)

    @override
    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: MosaicOutputs
    ) -> None:
        mosaic, members = outputs.mosaic, context.outputs_of(MosaicMembers)
        planes = [
            read_whole(workspace.product / path.name)[1]
            for path in (mosaic.path, mosaic.weight_path)
        ]
        for path, data in zip((mosaic.path, mosaic.weight_path), planes, strict=True):
            if data.shape != (mosaic.height_px, mosaic.width_px):
                raise OutputError(f"{path.name} has {data.shape} pixels (rows, columns).")
        pixels, weights = planes
        if not np.array_equal(np.isfinite(pixels), weights > 0) or not np.isfinite(weights).all():
            raise OutputError(
                f"{mosaic.path.name} is not blank exactly where {mosaic.weight_path.name} is 0."
            )
        if not mosaic.noise_jy > 0 or not mosaic.noise_ratio > 0:
            raise OutputError(f"the mosaic of {mosaic.window_id} is empty: it has no noise.")
        listed = read_json(workspace.product / "tiles.json")
        groups = sorted(tile["group_id"] for tile in (*listed["used"], *listed["refused"]))
        if groups != (expected := _groups(members)):
            raise OutputError(f"the table of tiles lists {groups} instead of {expected}.")


def _groups(members: MosaicMembers) -> list[str]:
    """All members, in the order of their names."""
    return sorted([m.group_id for m in members.tiles] + [m.group_id for m in members.missing])


@dataclass(slots=True)
class _Builder:
    """The sums, and what is noted of each tile while its pixels are in memory."""

    selection: Selection
    config: PipelineConfig
    canvas: Canvas
    total: MosaicSum
    catalogue: list[SkySource]
    is_isolated: Callable[[int], bool]
    """Of a source of the catalogue, by its index."""
    fluxes: dict[str, Mapping[str, TileFlux]]
    counts: list[SourceCount]
    """Of each tile: a displaced tile has no source in common with others to be compared."""
    frequencies_hz: list[float]
    smearing: list[float]
    """Of each tile; see the image stage. Images of earlier versions do not have it."""
    pixels: NDArray[np.float64]

    @classmethod
    def of(
        cls, selection: Selection, config: PipelineConfig, catalogue: Sequence[SkySource]
    ) -> _Builder:
        """With an empty canvas; raises `SettingError` if that is too large."""
        footprints = [_footprint(member) for member in selection.used]
        canvas = plan_canvas(footprints, config.mosaic.pixels_max)
        declinations = [footprint.centre_dec_deg for footprint in footprints]
        low = min(declinations) - _CATALOGUE_MARGIN_DEG
        high = max(declinations) + _CATALOGUE_MARGIN_DEG
        near = [source for source in catalogue if low < source.dec_deg < high]
        total = MosaicSum(canvas, config.beam.cutoff)
        isolated = isolation_of(near, selection.beam, config.validation)
        return cls(selection, config, canvas, total, near, isolated, {}, [], [], [], total.weights)

    def add(self, member: MosaicMember) -> MosaicTile:
        """Read a tile, convolve it if need be, measure its noise and sources, and add it."""
        image, settings = member.image, self.config.mosaic
        header, tile = _read_tile(member)
        own = beam_of(member)
        if self.selection.beams_differ:
            pixels = convolved(tile.pixels, tile.wcs, own, self.selection.beam)
            tile = Tile(pixels, tile.response, tile.wcs, 0.0)
        cutoff = self.config.beam.cutoff
        noise = robust_rms(tile.pixels[tile.response >= cutoff])
        if not noise > 0:
            raise CorruptInputError(
                f"the image {image.path} of group {member.group_id} is empty: its noise is "
                f"{noise}.",
                "Image the group again.",
            )
        tile = Tile(tile.pixels, tile.response, tile.wcs, noise)
        radius_px = self.config.validation.match_radius_arcsec / image.cell_arcsec
        self.fluxes[member.group_id] = measure_tile(
            tile, self.catalogue, settings.tile_snr_min, radius_px, cutoff
        )
        count = count_sources(
            tile, self.catalogue, self.is_isolated, radius_px, self.config.validation
        )
        self.counts.append(count)
        self.frequencies_hz.append(float(header["FREQ-EFF"]))
        self.smearing.append(float(header.get("SMEARING", 0.0)))
        return MosaicTile(
            member.group_id,
            image.mid_mjd,
            image.ra_deg,
            image.dec_deg,
            noise,
            self.total.add(tile),
            self.selection.beams_differ,
            count.n_expected,
            count.n_matched,
        )

    def finish(
        self, inputs: MosaicInputs, table: TileTable, paths: Sequence[Path]
    ) -> tuple[MosaicImage, dict[str, Json]]:
        """The outputs, and the content of the file of checks."""
        self.pixels = self.total.pixels()
        weights, config, beam = self.total.weights, self.config, self.selection.beam
        frequency = float(np.average(self.frequencies_hz))
        pairs = compare_tiles(self.fluxes)
        worst = max(pairs, key=lambda pair: pair.excess) if pairs else None
        checks = check_sources(
            self.pixels, weights, self.canvas.wcs, self.catalogue, beam, frequency,
            config.validation,
        )  # fmt: skip
        judged = [c for c in self.counts if c.n_expected >= config.mosaic.tile_sources_min]
        shares = [count.n_matched / count.n_expected for count in judged]
        positive, negative = count_extremes(self.pixels, weights, config.mosaic.negative_sigma)
        covered = weights > 0
        figures: dict[str, Any] = {
            **_catalogue_figures(checks, config),
            "noise_jy": float(np.median(1.0 / np.sqrt(weights[covered]))),
            "noise_ratio": normalised_noise(self.pixels, weights),
            "peak_jy": float(np.nanmax(self.pixels)),
            "dynamic_range": float(np.nanmax(self.pixels * np.sqrt(weights))),
            "positive_sources": positive,
            "negative_sources": negative,
            "covered_deg2": int(covered.sum()) * self.canvas.cell_deg**2,
            "covered_once_fraction": float((self.total.depth == 1).sum() / covered.sum()),
            "n_tile_pairs": len(pairs),
            "tile_ratio_worst": None if worst is None else worst.ratio,
            "tile_excess_worst": None if worst is None else worst.excess,
            "completeness_worst": min(shares, default=None),
        }
        failed = failed_gates(figures, pairs, self.counts, table, config, inputs.tier)
        times = [tile.mid_mjd for tile in table.used]
        height, width = self.canvas.shape
        ra, dec = self.canvas.wcs.wcs_pix2world((width - 1) / 2, (height - 1) / 2, 0)
        path, weight_path, checks_path, tiles_path = paths
        mosaic = MosaicImage(
            path=path,
            weight_path=weight_path,
            tiles_path=tiles_path,
            checks_path=checks_path,
            window_id=inputs.window_id,
            tier=inputs.tier,
            verdict=DEGRADED if failed else ACCEPTED,
            failed_gates=failed,
            n_tiles=len(table.used),
            n_refused=len(table.refused),
            n_convolved=sum(tile.convolved for tile in table.used),
            start_mjd=min(times),
            end_mjd=max(times),
            mid_mjd=float(np.mean(times)),
            ra_deg=float(ra),
            dec_deg=float(dec),
            width_px=width,
            height_px=height,
            cell_arcsec=self.canvas.cell_deg * 3600.0,
            bmaj_arcsec=beam.major_arcsec,
            bmin_arcsec=beam.minor_arcsec,
            bpa_deg=beam.angle_deg,
            frequency_hz=frequency,
            **{name: rounded(value) for name, value in figures.items()},
        )
        details = to_json(mosaic)
        for name in ("path", "weight_path", "tiles_path", "checks_path"):
            del details[name]  # they lie beside this file
        details["pairs"] = [{k: rounded(v) for k, v in asdict(p).items()} for p in pairs]
        details["sources"] = [{k: rounded(v, k) for k, v in asdict(c).items()} for c in checks]
        return mosaic, details


def failed_gates(
    figures: Mapping[str, Any],
    pairs: Sequence[TilePair],
    counts: Sequence[SourceCount],
    table: TileTable,
    config: PipelineConfig,
    tier: MosaicTier,
) -> tuple[str, ...]:
    """The names of the gates that a mosaic does not pass; nothing to compare passes."""
    settings, validation = config.mosaic, config.validation
    members = len(table.used) + len(table.refused)
    ratio, position = figures["flux_ratio_median"], figures["position_error_median_arcsec"]
    negative_max = settings.negative_fraction_max * figures["positive_sources"]
    gates = {
        "coverage": len(table.used) >= settings.tiles_fraction_min * members,
        "noise": abs(figures["noise_ratio"] - 1.0) <= settings.limits(tier).noise_error_max,
        "tiles": not any(pair.excess > settings.tile_ratio_error_max for pair in pairs),
        "dynamic_range": figures["dynamic_range"] >= validation.dynamic_range_min,
        "negative": figures["negative_sources"] <= negative_max,
        # Flux and position are of the sources that are there: other tiles may have them all.
        "completeness": all(settings.recognises(c.n_matched, c.n_expected) for c in counts),
        "flux": ratio is None or abs(ratio - 1.0) <= validation.flux_error_max,
        "position": position is None or position <= validation.position_error_max_arcsec,
    }
    return tuple(name for name, passed in gates.items() if not passed)


def _catalogue_figures(checks: Sequence[SourceCheck], config: PipelineConfig) -> dict[str, Any]:
    """Flux scale and position against the catalogue, with the number of sources."""
    matched = [c for c in checks if c.isolated and c.measured_jy is not None]
    strong = [c for c in matched if c.snr >= config.validation.gate_snr_min] or matched
    if not strong:
        empty = ("flux_ratio_median", "flux_ratio_scatter", "position_error_median_arcsec")
        offsets = ("east_offset_arcsec", "north_offset_arcsec")
        return {"n_compared": 0, **dict.fromkeys((*empty, *offsets))}
    ratios = np.array([c.flux_ratio for c in strong], dtype=float)
    return {
        "n_compared": len(strong),
        "flux_ratio_median": float(np.median(ratios)),
        "flux_ratio_scatter": float(ratios.std()),
        "position_error_median_arcsec": _median(c.position_error_arcsec for c in strong),
        "east_offset_arcsec": _median(c.east_arcsec for c in strong),
        "north_offset_arcsec": _median(c.north_arcsec for c in strong),
    }


def _median(values: Any) -> float:
    return float(np.median(np.array(list(values), dtype=float)))


def _footprint(member: MosaicMember) -> Footprint:
    """From the header alone: the canvas is planned before pixels are read."""
    from astropy.io import fits
    from astropy.wcs import WCS

    header = fits.getheader(member.image.path)
    shape = (int(header["NAXIS2"]), int(header["NAXIS1"]))
    return Footprint.of(WCS(header).celestial, shape)


def _read_tile(member: MosaicMember) -> tuple[Any, Tile]:
    from astropy.wcs import WCS

    image = member.image
    header, pixels = read_whole(image.path, CorruptInputError)
    _, response = read_whole(image.beam_path, CorruptInputError)
    if pixels.shape != response.shape:
        raise CorruptInputError(
            f"{image.path} has {pixels.shape} pixels, its beam {response.shape}.",
            "Image the group again.",
        )
    return header, Tile(plane(pixels), plane(response), WCS(header).celestial, 0.0)


def _header(builder: _Builder, mosaic: MosaicImage, used: Sequence[MosaicMember]) -> Any:
    header = builder.canvas.wcs.to_header(relax=True)
    header["BMAJ"] = (mosaic.bmaj_arcsec / 3600.0, "restoring beam, deg")
    header["BMIN"] = mosaic.bmin_arcsec / 3600.0
    header["BPA"] = (mosaic.bpa_deg, "from north through east, deg")
    header["OBJECT"] = mosaic.window_id
    header["TELESCOP"] = header["INSTRUME"] = "DSA-110"
    header["FREQ-EFF"] = (mosaic.frequency_hz, "mean of the tiles, Hz")
    header["SMEARING"] = (float(np.average(builder.smearing)), "mean of the tiles")
    header["MJD-OBS"] = (mosaic.start_mjd, "middle of the first tile, UTC")
    header["MJD-MID"] = (mosaic.mid_mjd, "mean of the tiles, UTC")
    header["TIER"] = mosaic.tier
    header["NTILES"] = len(used)
    return header


def _write(path: Path, header: Any, data: NDArray[Any], unit: str, kind: str) -> None:
    from astropy.io import fits

    header = header.copy()
    header["BUNIT"], header["BTYPE"] = unit, kind
    fits.PrimaryHDU(np.asarray(data, dtype=np.float32), header).writeto(path)


def _write_json(path: Path, content: Mapping[str, Json]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
