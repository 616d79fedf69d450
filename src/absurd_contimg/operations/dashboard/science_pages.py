"""Pages of telescope and science: strip, transits, mosaics, images, sources that vary."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse
from sqlalchemy import select

from absurd_contimg.errors import MissingInputError
from absurd_contimg.operations.dashboard.frame import PICTURE_HEADERS, Frame
from absurd_contimg.operations.dashboard.point_charts import point_chart
from absurd_contimg.operations.dashboard.telescope import (
    Calibrators,
    next_transits,
    read_antennas,
    read_strip,
)
from absurd_contimg.operations.services import light_curves
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import ImageRow, Product
from absurd_contimg.registry.mosaics import MosaicRow
from absurd_contimg.registry.photometry import newest_measurements
from absurd_contimg.science.light_curves import LightCurve
from absurd_contimg.settings import Settings

_MOSAICS_SHOWN = 12
_IMAGES_SHOWN = 6
_SOURCES_SHOWN = 25
_CURVES_SECONDS = 60.0
"""All light curves are made again at most so often."""
_EPOCH_OF_MJD = datetime(1858, 11, 17, tzinfo=UTC)
_PICTURED = ("image", "mosaic")


@dataclass(frozen=True, slots=True)
class ShownMosaic:
    """A mosaic of the page."""

    product_key: str
    window_id: str
    tier: str
    observed_at: datetime
    figures: Mapping[str, Any]
    """The fields of `MosaicImage`, as far as the registry has them."""


def add_science_pages(router: APIRouter, frame: Frame) -> None:
    """``/telescope``, ``/science``, ``/sources/NAME``, pictures of products."""
    settings = frame.site.settings
    calibrators = Calibrators(None if settings is None else catalogue_path(settings))
    curves = Curves(frame)

    @router.get("/telescope")
    async def telescope(request: Request) -> HTMLResponse:
        overview = await frame.snapshots.overview()
        strip = antennas = None
        database = await frame.database()
        transits, problem = [], ""
        if database is not None:
            strip = await asyncio.to_thread(read_strip, database)
            antennas = await asyncio.to_thread(read_antennas, database)
        if strip is not None and strip.declination_deg is not None and settings is not None:
            sources, problem = await asyncio.to_thread(calibrators.sources)
            longitude = settings.pipeline.site.longitude_deg
            transits = next_transits(sources, strip.declination_deg, overview.at, longitude)
        observed = None if strip is None or strip.mid_mjd is None else utc_of(strip.mid_mjd)
        return await frame.page(
            request,
            "telescope.html.jinja",
            "telescope",
            "Telescope",
            data=overview.data,
            strip=strip,
            strip_seconds=None if observed is None else (overview.at - observed).total_seconds(),
            antennas=antennas,
            transits=transits,
            transit_problem=problem,
            images=overview.images,
        )

    @router.get("/science")
    async def science(request: Request) -> HTMLResponse:
        overview = await frame.snapshots.overview()
        database = await frame.database()
        pictures = [] if database is None else await asyncio.to_thread(newest_images, database)
        mosaics = [] if database is None else await asyncio.to_thread(newest_mosaics, database)
        variables = await curves.read()
        ratios = [
            (image.observed_at, image.flux_ratio, None)
            for image in reversed(overview.images)
            if image.flux_ratio is not None
        ]
        return await frame.page(
            request,
            "science.html.jinja",
            "science",
            "Science",
            mosaics=mosaics,
            pictures=pictures,
            images=overview.images,
            ratio_chart=point_chart(ratios, band=(0.8, 1.2)),
            curves=variables[:_SOURCES_SHOWN],
            curve_number=len(variables),
            variable_number=sum(curve.variability.variable for curve in variables),
            has_registry=database is not None,
        )

    @router.get("/sources/{name:path}")
    async def source(request: Request, name: str) -> HTMLResponse:
        for curve in await curves.read():
            if name in curve.names:
                points = [
                    (utc_of(point.mjd), 1e3 * point.flux_jy, 1e3 * point.error_jy)
                    for point in curve.points
                ]
                return await frame.page(
                    request,
                    "source.html.jinja",
                    "science",
                    name[:80],
                    curve=curve,
                    times=[utc_of(point.mjd) for point in curve.points],
                    chart=point_chart(points),
                )
        raise MissingInputError(f"No image has a measurement of a source {name}.")

    @router.get("/products/{key}/quicklook")
    async def quicklook(key: str) -> FileResponse:
        outputs, database = None, await frame.database()
        if database is not None:
            outputs = await asyncio.to_thread(pictured_outputs, database, key)
        if outputs is None:
            raise MissingInputError(f"The registry has no image or mosaic {key}.")
        path = await frame.quicklooks.of_product(key, outputs)
        return FileResponse(path, media_type="image/png", headers=PICTURE_HEADERS)


def catalogue_path(settings: Settings) -> Any:
    """Where the sky catalogue is, there or not."""
    return settings.catalog or settings.pipeline.paths.input_dir / "catalog.csv"


def utc_of(mjd: float) -> datetime:
    """The time of a modified Julian date; the epoch for one that is no date."""
    try:
        return _EPOCH_OF_MJD + timedelta(days=mjd)
    except (OverflowError, ValueError):
        return _EPOCH_OF_MJD


def newest_mosaics(database: Database) -> list[ShownMosaic]:
    """The newest mosaics by time of observation."""
    query = select(MosaicRow).order_by(MosaicRow.mid_mjd.desc()).limit(_MOSAICS_SHOWN)
    with database.reading() as session:
        return [
            ShownMosaic(
                row.product_key,
                row.window_id,
                row.tier,
                utc_of(row.mid_mjd),
                row.details.get("mosaic", {}) if isinstance(row.details, dict) else {},
            )
            for row in session.scalars(query)
        ]


def newest_images(database: Database) -> list[tuple[str, str]]:
    """Product keys and groups of the newest images of groups."""
    query = (
        select(ImageRow.product_key, ImageRow.group_id)
        .order_by(ImageRow.group_id.desc(), ImageRow.product_key)
        .limit(_IMAGES_SHOWN)
    )
    with database.reading() as session:
        return [(key, group) for key, group in session.execute(query)]


def pictured_outputs(database: Database, key: str) -> Mapping[str, Any] | None:
    """The outputs of an image or a mosaic with their paths; None if there is none."""
    with database.reading() as session:
        product = session.get(Product, key)
        if product is None or product.stage not in _PICTURED:
            return None
        outputs: Mapping[str, Any] = database.resolved(product.outputs)
        return outputs


class Curves:
    """The light curves of all sources, those that vary most first; made once a minute at most."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self._lock = asyncio.Lock()
        self._made: tuple[float, list[LightCurve]] | None = None

    async def read(self) -> list[LightCurve]:
        """The curves in images; empty without a registry."""
        async with self._lock:
            if self._made is None or time.monotonic() - self._made[0] > _CURVES_SECONDS:
                database = await self._frame.database()
                self._made = time.monotonic(), await asyncio.to_thread(self._make, database)
            return self._made[1]

    def _make(self, database: Database | None) -> list[LightCurve]:
        settings = self._frame.site.settings
        if database is None or settings is None:
            return []
        measurements = newest_measurements(database, "image")
        return light_curves(measurements, settings.pipeline.variability)
