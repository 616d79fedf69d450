"""Which mosaics can be made now, of a window, a night or a span of time; size and noise."""

# astropy takes a second to import: it is imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from absurd_contimg.config.mosaic import MosaicTier
from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import SpawnedTask
from absurd_contimg.errors import MissingInputError, SettingError, UserError
from absurd_contimg.execution.context import MosaicInputs
from absurd_contimg.ingest.selection import mjd_of
from absurd_contimg.ingest.spawn import find_catalog
from absurd_contimg.products.mosaic_outputs import MosaicMember, MosaicMembers
from absurd_contimg.registry import Registry
from absurd_contimg.registry.mosaics import ImagedGroup, imaged_groups
from absurd_contimg.registry.window_members import NOT_USED
from absurd_contimg.registry.windows import Window, get_window
from absurd_contimg.settings import Settings
from absurd_contimg.workflows.mosaic import TASK_NAME, spawn_options

if TYPE_CHECKING:
    from absurd_contimg.science.canvas import Footprint

_SHARED_TILES = 2
"""Of neighbouring parts of a night, as windows share them: so that no edge is single."""


@dataclass(frozen=True, slots=True)
class MosaicPlan:
    """One mosaic that may be made, with the images that there are now."""

    window_id: str
    tier: MosaicTier
    declination_deg: float
    members: tuple[str, ...]
    """Groups with an image."""
    left_out: Mapping[str, str]
    """Groups without, and why."""
    width_px: int = 0
    height_px: int = 0
    noise_jy: float | None = None
    """Expected at the centres of the tiles, median."""
    problem: str = ""
    """Why it cannot be made."""

    def inputs(self, settings: Settings) -> MosaicInputs:
        """The parameters of its task."""
        return MosaicInputs(
            window_id=self.window_id,
            tier=self.tier,
            members=self.members,
            left_out=dict(self.left_out),
            catalog_path=find_catalog(settings),
        )


def plan_window(registry: Registry, settings: Settings, window_id: str) -> MosaicPlan:
    """The mosaic of a window; raises `MissingInputError` for an unknown name."""
    return plan_of(registry, settings, get_window(registry.database, window_id))


def plan_of(registry: Registry, settings: Settings, window: Window) -> MosaicPlan:
    """The mosaic of a window of the registry, of all its groups that have an image now.

    A group that was left out when the window was closed may have been repaired since.
    """
    members = registry.mosaic_members([m.group_id for m in window.members])
    noted = {m.group_id: m.reason or NOT_USED for m in window.members if not m.used}
    left_out = {m.group_id: noted.get(m.group_id, m.reason) for m in members.missing}
    plan = MosaicPlan(
        window.window_id,
        "quicklook",
        window.declination_deg,
        tuple(tile.group_id for tile in members.tiles),
        left_out,
    )
    return _measured(plan, members.tiles, settings)


def plan_span(
    registry: Registry,
    settings: Settings,
    name: str,
    span: tuple[datetime, datetime],
    tier: MosaicTier,
    declination_deg: float | None = None,
) -> list[MosaicPlan]:
    """The mosaics of all images of a span of time: for each strip, in parts that fit the canvas.

    Raises `MissingInputError` if there is no image.
    """
    tolerance = settings.pipeline.streaming.declination_tolerance_deg
    groups = [
        group
        for group in imaged_groups(registry.database, *map(mjd_of, span))
        if declination_deg is None or abs(group.declination_deg - declination_deg) <= tolerance
    ]
    if not groups:
        strip = "" if declination_deg is None else f" at declination {declination_deg:g} deg"
        raise MissingInputError(
            f"There is no image from {span[0]:%Y-%m-%dT%H:%M:%S} to {span[1]:%Y-%m-%dT%H:%M:%S} "
            f"UTC{strip}.",
            "contimg status lists the groups and how far they are.",
        )
    plans = []
    for strip_groups in strips(groups, tolerance):
        declination = sum(g.declination_deg for g in strip_groups) / len(strip_groups)
        members = registry.mosaic_members([group.group_id for group in strip_groups])
        missing = {member.group_id: member.reason for member in members.missing}
        parts = _parts(members, settings, by_time=tier != "deep")
        for number, tiles in enumerate(parts, 1):
            suffix = f"-{number:02d}" if len(parts) > 1 else ""
            plan = MosaicPlan(
                f"{name}-dec{declination:+05.1f}{suffix}",
                tier,
                declination,
                tuple(tile.group_id for tile in tiles),
                missing if number == 1 else {},
            )
            plans.append(_measured(plan, tiles, settings))
    return plans


def strips(groups: Sequence[ImagedGroup], tolerance_deg: float) -> list[list[ImagedGroup]]:
    """The groups of each declination, in the order of declination."""
    result: list[list[ImagedGroup]] = []
    for group in sorted(groups, key=lambda g: (g.declination_deg, g.mid_mjd)):
        if result and group.declination_deg - result[-1][-1].declination_deg <= tolerance_deg:
            result[-1].append(group)
        else:
            result.append([group])
    return [sorted(strip, key=lambda g: g.mid_mjd) for strip in result]


def night_span(night: date) -> tuple[datetime, datetime]:
    """The UTC day, which holds one whole night of the telescope (02 to 14 h UTC)."""
    start = datetime(night.year, night.month, night.day, tzinfo=UTC)
    return start, start + timedelta(days=1)


async def spawn_mosaic(
    backend: Backend, settings: Settings, plan: MosaicPlan, *, again: bool
) -> SpawnedTask:
    """The task of a plan; with `again` a new one if earlier ones have ended."""
    inputs = plan.inputs(settings)
    params, options = inputs.model_dump(mode="json"), spawn_options(inputs)
    first_key, number = options.idempotency_key, 1
    while True:
        task = await backend.spawn_task(settings.queue_name, TASK_NAME, params, options)
        if task.created or not again:
            return task
        result = await backend.get_task_result(settings.queue_name, task.task_id)
        if result is None or result.state not in ("completed", "failed", "cancelled"):
            return task
        number += 1
        options = replace(options, idempotency_key=f"{first_key}#{number}")


def _parts(
    members: MosaicMembers, settings: Settings, *, by_time: bool
) -> list[tuple[MosaicMember, ...]]:
    """The tiles in parts that fit the canvas, in the order of time or of right ascension."""
    tiles = list(members.tiles)
    if not by_time:
        tiles = _by_right_ascension(tiles)
    parts: list[tuple[MosaicMember, ...]] = []
    begin = 0
    while begin < len(tiles) or not parts:
        fits = _count_fitting(tiles[begin:], settings.pipeline.mosaic.pixels_max)
        parts.append(tuple(tiles[begin : begin + fits]))
        if begin + fits >= len(tiles):
            break
        begin += max(1, fits - _SHARED_TILES)
    return parts


def _by_right_ascension(tiles: Sequence[MosaicMember]) -> list[MosaicMember]:
    """From the east side of the widest gap on, so that no part crosses it."""
    ordered = sorted(tiles, key=lambda tile: tile.image.ra_deg % 360.0)
    angles = [tile.image.ra_deg % 360.0 for tile in ordered]
    gaps = [(angle - angles[k - 1]) % 360.0 for k, angle in enumerate(angles)]
    begin = max(range(len(gaps)), key=gaps.__getitem__) if gaps else 0
    return [*ordered[begin:], *ordered[:begin]]


def _count_fitting(tiles: Sequence[MosaicMember], pixels_max: int) -> int:
    """How many of the first tiles fit on a canvas, by bisection; at least 1."""
    footprints = _footprints(tiles)
    low, high = 1, max(1, len(tiles))
    while low < high:
        middle = (low + high + 1) // 2
        if _canvas_shape(footprints[:middle], pixels_max) is None:
            high = middle - 1
        else:
            low = middle
    return low


def _canvas_shape(footprints: Sequence[Footprint], pixels_max: int) -> tuple[int, int] | None:
    from absurd_contimg.science.canvas import plan_canvas

    try:
        return plan_canvas(footprints, pixels_max).shape
    except SettingError:
        return None


def _footprints(tiles: Sequence[MosaicMember]) -> list[Footprint]:
    from absurd_contimg.science.canvas import Footprint

    images = [tile.image for tile in tiles]
    return [Footprint.planned(i.ra_deg, i.dec_deg, i.size_px, i.cell_arcsec) for i in images]


def _measured(plan: MosaicPlan, tiles: Sequence[MosaicMember], settings: Settings) -> MosaicPlan:
    """The plan with size and expected noise, or with the reason why it cannot be made."""
    from absurd_contimg.science.canvas import plan_canvas
    from absurd_contimg.science.tile_selection import select_tiles

    try:
        used = select_tiles(MosaicMembers(tuple(tiles)), settings.pipeline, plan.tier).used
        canvas = plan_canvas(_footprints(used), settings.pipeline.mosaic.pixels_max)
    except UserError as error:
        return replace(plan, problem=error.problem)
    height, width = canvas.shape
    noise = expected_noise(used, settings.pipeline.beam.dish_diameter_m)
    return replace(plan, width_px=width, height_px=height, noise_jy=noise)


def expected_noise(tiles: Sequence[MosaicMember], dish_diameter_m: float) -> float:
    """1/sqrt(weight) at the centre of each tile, median; with the beam of a single pointing."""
    import numpy as np

    from absurd_contimg.science.beam import airy_power
    from absurd_contimg.science.catalogue import REFERENCE_FREQUENCY_HZ, unit_vectors

    images = [tile.image for tile in tiles]
    ra, dec = (np.radians([getattr(i, name) for i in images]) for name in ("ra_deg", "dec_deg"))
    vectors = unit_vectors(ra, dec)
    angles = np.arccos(np.clip(vectors @ vectors.T, -1.0, 1.0))
    response = airy_power(angles, REFERENCE_FREQUENCY_HZ, dish_diameter_m)
    response = np.where(
        angles < math.radians(images[0].size_px * images[0].cell_arcsec / 7200.0), response, 0.0
    )
    weights = (response**2 / np.array([i.rms_jy for i in images]) ** 2).sum(axis=1)
    return float(np.median(1.0 / np.sqrt(weights)))
