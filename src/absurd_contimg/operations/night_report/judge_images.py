"""The rows about the images of a night: noise, dynamic range, beam, fluxes, positions, sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median

from absurd_contimg.config.night_report import NightReportConfig
from absurd_contimg.operations.night_report.facts import (
    GroupFacts,
    NightFacts,
    Number,
    SourceFacts,
)
from absurd_contimg.operations.night_report.judge_data import trend_status
from absurd_contimg.operations.night_report.rows import (
    Chart,
    Row,
    above,
    below,
    known,
    middle,
    not_measured,
    over_time,
    scaled,
    shown,
    spread,
    tasks_of,
    worst,
)

_SIGMA_OF_NEGATIVE = 5.0
"""Noise alone makes pixels down to about -5 sigma: they are no bowl."""


def image_rows(facts: NightFacts, gates: NightReportConfig) -> Iterator[Row]:
    """All rows of this module, in their order."""
    yield _noise(facts, gates)
    yield _dynamic_range(facts, gates)
    yield _deepest_negative(facts, gates)
    yield _restoring_beam(facts, gates)
    yield _anisotropy(facts, gates)
    yield _flux_scale(facts, gates)
    yield _astrometry(facts, gates)
    yield _completeness(facts, gates)


def _no_images(facts: NightFacts, key: str, title: str, unit: str, gate: str) -> Row:
    reason = "there is no image of this night"
    return not_measured(key, title, unit, gate, reason, expected=bool(facts.images))


def _pixel_problem(images: Sequence[GroupFacts]) -> str:
    problems = [image.figures.problem for image in images if image.figures is not None]
    return next(filter(None, problems), "the pixels of no image were read")


def image_noise(group: GroupFacts) -> Number:
    """Of the inner half of the image; the stage's figure where the file is gone."""
    measured = None if group.figures is None else group.figures.noise_jy
    return group.stage_noise_jy if measured is None else measured


def _worst_first(
    images: Sequence[GroupFacts], badness: Callable[[GroupFacts], Number]
) -> list[GroupFacts]:
    def rank(group: GroupFacts) -> float:
        value = badness(group)
        return -value if value is not None and math.isfinite(value) else math.inf

    return sorted(images, key=rank)


def _noise(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "noise", "Noise", "mJy/beam"
    gate = (
        f"over the expected noise: warns above {gates.noise_ratio_warn:g}, fails above "
        f"{gates.noise_ratio_fail:g}"
    )
    images = facts.images
    noise = [scaled(image_noise(image), 1e3) for image in images]
    typical = middle(noise)
    if typical is None:
        return _no_images(facts, key, title, unit, gate)
    earlier = facts.earlier_numbers(key)[: gates.trend_nights]
    expected = 1e3 * gates.expected_noise_jy
    origin = "the setting"
    if len(earlier) >= gates.trend_nights_min and median(earlier) < expected:
        expected, origin = median(earlier), f"the median of {len(earlier)} nights"
    ratio = typical / expected if expected > 0 else math.inf
    status = above(ratio, gates.noise_ratio_warn, gates.noise_ratio_fail)
    text = f"{shown(ratio, 2)} times the expected {shown(expected, 2)} mJy/beam ({origin})"
    return Row(
        key, title, status, f"median {shown(typical, 2)} mJy/beam, {text}", typical, unit, gate,
        "" if status == "pass" else text,
        numbers={
            "ratio": ratio, "expected_mjy": expected, "largest_mjy": max(known(noise)),
            "stage_median_mjy": scaled(middle(i.stage_noise_jy for i in images), 1e3),
        },
        tasks=tasks_of(_worst_first(images, image_noise)),
        chart=over_time(
            images, noise, "noise, mJy/beam",
            (expected * gates.noise_ratio_warn, expected * gates.noise_ratio_fail),
        ),
    )  # fmt: skip


def _peak(group: GroupFacts) -> Number:
    measured = None if group.figures is None else group.figures.maximum_jy
    return group.peak_jy if measured is None else measured


def _dynamic_range(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "dynamic_range", "Dynamic range", ""
    gate = f"warns below {gates.dynamic_range_warn:g}, fails below {gates.dynamic_range_fail:g}"
    images = facts.images

    def dynamic_range(image: GroupFacts) -> Number:
        peak, noise = _peak(image), image_noise(image)
        return None if peak is None or not noise else peak / noise

    values = [dynamic_range(image) for image in images]
    typical = middle(values)
    if typical is None:
        return _no_images(facts, key, title, unit, gate)
    status = below(typical, gates.dynamic_range_warn, gates.dynamic_range_fail)
    ordered = _worst_first(images, lambda image: -(dynamic_range(image) or 0.0))
    return Row(
        key, title, status,
        f"median {shown(typical, 0)}, least {shown(min(known(values)), 0)} (peak over noise)",
        typical, unit, gate,
        "" if status == "pass" else f"the median of {len(known(values))} images is "
        f"{shown(typical, 0)}",
        numbers={"least": min(known(values))},
        tasks=tasks_of(ordered),
        chart=over_time(
            images, values, "peak over noise",
            (gates.dynamic_range_warn, gates.dynamic_range_fail),
        ),
    )  # fmt: skip


def _depth(group: GroupFacts) -> Number:
    """Deepest negative over peak, as a positive fraction, less what noise makes."""
    figures, noise, peak = group.figures, image_noise(group), _peak(group)
    if figures is None or figures.minimum_jy is None or noise is None or not peak or peak < 0:
        return None
    return max(0.0, -figures.minimum_jy - _SIGMA_OF_NEGATIVE * noise) / peak


def _deepest_negative(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "deepest_negative", "Deepest negative", "%"
    gate = (
        f"beyond {_SIGMA_OF_NEGATIVE:g} sigma, over the peak: warns above "
        f"{gates.negative_warn:.0%}, fails above {gates.negative_fail:.0%}"
    )
    images = facts.images
    depths = [_depth(image) for image in images]
    deepest = max(known(depths), default=None)
    if deepest is None:
        if not images:
            return _no_images(facts, key, title, unit, gate)
        return not_measured(key, title, unit, gate, _pixel_problem(images))
    status = above(deepest, gates.negative_warn, gates.negative_fail)
    ordered = _worst_first(images, _depth)
    lowest = ordered[0].figures.minimum_jy if ordered[0].figures is not None else None
    text = f"{shown(scaled(lowest, 1e3))} mJy/beam in {ordered[0].group_id}"
    return Row(
        key, title, status,
        f"{shown(100 * deepest)} % of the peak beyond noise; {text}",
        100.0 * deepest, unit, gate,
        "" if status == "pass" else f"a bowl or sidelobe of {text}, {shown(100 * deepest)} % of "
        "the peak",
        numbers={"minimum_mjy": scaled(lowest, 1e3), "median_percent": scaled(middle(depths), 100)},
        tasks=tasks_of(ordered),
        chart=over_time(
            images, [scaled(depth, 100.0) for depth in depths], "deepest negative, % of peak",
            (100.0 * gates.negative_warn, 100.0 * gates.negative_fail),
        ),
    )  # fmt: skip


def _restoring_beam(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "restoring_beam", "Restoring beam", "arcsec"
    gate = (
        f"major axis within {gates.trend_change:.0%} of the median of {gates.trend_nights} nights"
    )
    images = [image for image in facts.images if known([image.bmaj_arcsec])]
    if not images:
        return _no_images(facts, key, title, unit, gate)
    major = middle(image.bmaj_arcsec for image in images)
    minor = middle(image.bmin_arcsec for image in images)
    angle = middle(image.bpa_deg for image in images)
    status, before, reason = trend_status(facts, gates, key, major, both=True)
    return Row(
        key, title, status,
        f"{shown(major)} by {shown(minor)} arcsec at {shown(angle, 0)} deg (medians)",
        major, unit, gate, reason,
        numbers={
            "minor_arcsec": minor, "angle_deg": angle, "earlier_median_arcsec": before,
            "largest_arcsec": max(known(image.bmaj_arcsec for image in images)),
        },
        tasks=tasks_of(_worst_first(images, lambda image: image.bmaj_arcsec)),
        chart=over_time(images, [image.bmaj_arcsec for image in images], "major axis, arcsec"),
    )  # fmt: skip


def _anisotropy(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "anisotropy", "Anisotropy", ""
    gate = f"warns above {gates.anisotropy_warn:g}, fails above {gates.anisotropy_fail:g}"
    images = facts.images

    def anisotropy(image: GroupFacts) -> Number:
        return None if image.figures is None else image.figures.anisotropy

    values = [anisotropy(image) for image in images]
    largest = max(known(values), default=None)
    if largest is None:
        if not images:
            return _no_images(facts, key, title, unit, gate)
        return not_measured(key, title, unit, gate, _pixel_problem(images))
    status = above(largest, gates.anisotropy_warn, gates.anisotropy_fail)
    ordered = _worst_first(images, anisotropy)
    return Row(
        key, title, status,
        f"largest {largest:.3g}, median {middle(values) or 0:.3g}: power at 1 to 1.35 kilolambda, "
        "maximum over median of the directions",
        largest, unit, gate,
        "" if status == "pass" else f"stripes in {ordered[0].group_id}: {largest:.3g}",
        numbers={"median": middle(values)},
        tasks=tasks_of(ordered),
        chart=over_time(
            images, values, "maximum over median power", (gates.anisotropy_warn,)
        ),
    )  # fmt: skip


def compared_sources(facts: NightFacts) -> list[SourceFacts]:
    """The sources of all images whose flux is good enough to compare."""
    return [s for image in facts.images for s in image.sources if known([s.ratio])]


def _flux_scale(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "flux_scale", "Flux scale", ""
    gate = (
        f"median within {1 - gates.flux_error_warn:g} to {1 + gates.flux_error_warn:g} of at least "
        f"{gates.sources_min} sources; fails beyond ± {gates.flux_error_fail:g}"
    )
    sources = compared_sources(facts)
    if len(sources) < gates.sources_min:
        if not facts.images:
            return _no_images(facts, key, title, unit, gate)
        reason = f"{len(sources)} sources can be compared, {gates.sources_min} are needed"
        return not_measured(key, title, unit, gate, reason)
    ratios = [source.ratio for source in sources]
    ratio, scatter = middle(ratios), spread(ratios)
    status = above(abs((ratio or 0.0) - 1.0), gates.flux_error_warn, gates.flux_error_fail)

    def error(image: GroupFacts) -> Number:
        own = middle(source.ratio for source in image.sources)
        return None if own is None else abs(own - 1.0)

    faint = middle(s.ratio for s in sources if s.catalogue_jy < _half(sources, "catalogue_jy"))
    outer = [s for s in sources if s.response is not None]
    edge = middle(s.ratio for s in outer if (s.response or 0.0) < _half(outer, "response"))
    return Row(
        key, title, status,
        f"median {shown(ratio, 3)}, scatter {shown(scatter, 3)}, {len(sources)} measurements",
        ratio, unit, gate,
        "" if status == "pass" else f"measured over catalogue flux is {shown(ratio, 3)}",
        numbers={
            "scatter": scatter, "measurements": len(sources),
            "fainter_half": faint, "outer_half": edge,
        },
        details=(
            f"fainter half of the sources {shown(faint, 3)}, half with the lower beam response "
            f"{shown(edge, 3)}",
        ),
        tasks=tasks_of(_worst_first(facts.images, error)),
        chart=Chart(
            "points", "catalogue flux, Jy", "measured over catalogue",
            tuple(
                (s.catalogue_jy, s.ratio, f"{s.name}: {s.ratio:.3f}")
                for s in sources if s.ratio is not None and s.catalogue_jy > 0
            ),
            limits=(1 - gates.flux_error_warn, 1 + gates.flux_error_warn),
            zero=False, logarithmic=True,
        ),
    )  # fmt: skip


def _half(sources: Sequence[SourceFacts], name: str) -> float:
    return middle(getattr(source, name) for source in sources) or 0.0


def _astrometry(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "astrometry", "Astrometry", "arcsec"
    gate = (
        f"median offset: warns above {gates.position_beams_warn:g} beam, fails above "
        f"{gates.position_beams_fail:g} beam; at least {gates.sources_min} sources"
    )
    sources = [
        s for image in facts.images for s in image.sources
        if len(known([s.east_arcsec, s.north_arcsec])) == 2
    ]  # fmt: skip
    beam = middle(image.bmin_arcsec for image in facts.images)
    if len(sources) < gates.sources_min or not beam:
        if not facts.images:
            return _no_images(facts, key, title, unit, gate)
        reason = f"{len(sources)} sources have positions, {gates.sources_min} are needed"
        return not_measured(key, title, unit, gate, reason)
    east, north = (middle(getattr(s, f"{axis}_arcsec") for s in sources) or 0.0
                   for axis in ("east", "north"))  # fmt: skip
    offset = math.hypot(east, north)
    status = above(offset / beam, gates.position_beams_warn, gates.position_beams_fail)

    def error(image: GroupFacts) -> Number:
        x = middle(source.east_arcsec for source in image.sources)
        y = middle(source.north_arcsec for source in image.sources)
        return None if x is None or y is None else math.hypot(x, y)

    scatters = spread(s.east_arcsec for s in sources), spread(s.north_arcsec for s in sources)
    return Row(
        key, title, status,
        f"dRA cos(dec) {shown(east, 2)}, dDec {shown(north, 2)} arcsec (medians), scatter "
        f"{shown(scatters[0], 2)} and {shown(scatters[1], 2)} arcsec, {len(sources)} measurements",
        offset, unit, gate,
        "" if status == "pass" else f"the sky is shifted by {shown(offset, 2)} arcsec, "
        f"{shown(offset / beam, 2)} beam",
        numbers={
            "east_arcsec": east, "north_arcsec": north, "beams": offset / beam,
            "east_scatter_arcsec": scatters[0], "north_scatter_arcsec": scatters[1],
            "measurements": len(sources),
        },
        tasks=tasks_of(_worst_first(facts.images, error)),
        chart=Chart(
            "points", "dRA cos(dec), arcsec", "dDec, arcsec",
            tuple((s.east_arcsec, s.north_arcsec, s.name) for s in sources
                  if s.east_arcsec is not None and s.north_arcsec is not None),
            zero=False,
        ),
    )  # fmt: skip


def _completeness(facts: NightFacts, gates: NightReportConfig) -> Row:
    key, title, unit = "source_completeness", "Catalogue sources found", "%"
    bright = 1e3 * gates.completeness_flux_jy
    gate = (
        f"over {bright:g} mJy at {gates.completeness_sigma:g} sigma: warns below "
        f"{gates.completeness_warn:.0%}, fails below {gates.completeness_fail:.0%}; negative over "
        f"positive detections in the median image: warns above {gates.negative_detections_warn:.0%}"
    )
    images = facts.images
    expected = [
        source for image in images for source in image.sources
        if source.catalogue_jy >= gates.completeness_flux_jy
    ]  # fmt: skip
    if not expected:
        if not images:
            return _no_images(facts, key, title, unit, gate)
        reason = f"no image has a measured catalogue source over {bright:g} mJy"
        return not_measured(key, title, unit, gate, reason)
    seen = [s for s in expected if s.sigma is not None and s.sigma >= gates.completeness_sigma]
    share = len(seen) / len(expected)
    read = [image.figures for image in images if image.figures is not None]
    positive = sum(known(figures.positive_spots for figures in read))
    negative = sum(known(figures.negative_spots for figures in read))
    spots = middle(figures.negative_share for figures in read)
    status = worst(
        below(share, gates.completeness_warn, gates.completeness_fail),
        above(spots, gates.negative_detections_warn) if spots is not None else "pass",
    )
    reasons = [
        f"{len(seen)} of {len(expected)} sources over {bright:g} mJy are seen"
        if share < gates.completeness_warn else "",
        f"{shown(100 * spots)} % negative over positive detections (median of the images)"
        if spots is not None and spots > gates.negative_detections_warn else "",
    ]  # fmt: skip

    def missed(image: GroupFacts) -> Number:
        own = [s for s in image.sources if s.catalogue_jy >= gates.completeness_flux_jy]
        lost = [s for s in own if s.sigma is None or s.sigma < gates.completeness_sigma]
        return len(lost) / len(own) if own else None

    return Row(
        key, title, status,
        f"{shown(100 * share)} % of {len(expected)} over {bright:g} mJy; "
        f"{negative:.0f} negative, {positive:.0f} positive detections",
        100.0 * share, unit, gate, "; ".join(filter(None, reasons)),
        numbers={
            "expected": len(expected), "detected": len(seen), "negative": negative,
            "positive": positive, "uncatalogued": sum(i.n_uncatalogued or 0 for i in images),
        },
        tasks=tasks_of(_worst_first(images, missed)),
        chart=over_time(
            images, [scaled(None if (m := missed(i)) is None else 1.0 - m, 100.0) for i in images],
            "sources found, %", (100.0 * gates.completeness_warn,),
        ),
    )  # fmt: skip
