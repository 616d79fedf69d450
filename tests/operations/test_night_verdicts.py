"""The verdict of a night over random facts: never CLEAN by omission, never better for worse."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, date, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.config.night_report import NightReportConfig
from absurd_contimg.operations.night_report import (
    NightFacts,
    NightReport,
    judge,
    render_page,
    verdict_of,
)
from absurd_contimg.operations.night_report.facts import (
    CalibrationUse,
    DataFigures,
    EarlierNight,
    GroupFacts,
    ImageFigures,
    MosaicFacts,
    OperationsFacts,
    SolvedSet,
    SourceFacts,
    TaskFacts,
    UnprocessedItem,
)
from absurd_contimg.operations.night_report.stored import to_json

CONFIG = PipelineConfig(paths=PathsConfig.below(Path("/x")))
NOW = datetime(2025, 1, 15, 14, 0, tzinfo=UTC)
MJD = 60690.4
ORDER = {"CLEAN": 0, "DEGRADED": 1, "FAILED": 2}
HOSTILE = "<script>alert(1)</script>&\"'\x1b[31m\u202e"

numbers = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.floats(0.0, 100.0)
texts = st.sampled_from(["", "DSA001", "2025-01-15T10:00:00", HOSTILE]) | st.text(max_size=8)


def sources() -> st.SearchStrategy[SourceFacts]:
    return st.builds(
        SourceFacts, texts, st.floats(0.0, 10.0), numbers, numbers, numbers, numbers, numbers
    )


def image_figures() -> st.SearchStrategy[ImageFigures]:
    counts = st.none() | st.integers(0, 100)
    return st.builds(ImageFigures, numbers, numbers, numbers, numbers, counts, counts, texts)


def data_figures() -> st.SearchStrategy[DataFigures]:
    return st.builds(
        DataFigures,
        st.dictionaries(texts, st.floats(0.0, 1.0), max_size=3),
        st.lists(st.floats(0.0, 1.0), max_size=16).map(tuple),
        st.none() | st.integers(0, 50),
        st.none() | st.integers(0, 50),
        numbers,
        numbers,
        st.just(((1.0, 2.0), (math.nan, 1.0))),
        texts,
    )


def groups() -> st.SearchStrategy[GroupFacts]:
    return st.builds(
        GroupFacts,
        group_id=texts,
        mid_mjd=st.floats(MJD, MJD + 0.5),
        seconds=st.floats(0.0, 400.0),
        declination_deg=numbers,
        status=st.sampled_from(["done", "degraded", "failed", "quarantined", "discovered"]),
        reason=texts,
        ingest_state=st.sampled_from(["closed", "rejected", "collecting"]),
        n_subbands=st.integers(0, 16),
        missing_subbands=st.lists(st.integers(0, 15), max_size=3).map(tuple),
        task=st.none() | st.builds(TaskFacts, texts, texts, texts, texts, st.none() | st.just(NOW)),
        flagged_before=numbers,
        flagged_after=numbers,
        flagged_calibrated=numbers,
        dead_antennas=st.lists(texts, max_size=2).map(tuple),
        n_antennas=st.none() | st.integers(0, 50),
        data=st.none() | data_figures(),
        calibration=st.none()
        | st.builds(CalibrationUse, texts, texts, st.floats(0.0, 50.0), st.booleans()),
        has_image=st.booleans(),
        stage_noise_jy=numbers,
        peak_jy=numbers,
        bmaj_arcsec=numbers,
        bmin_arcsec=numbers,
        bpa_deg=numbers,
        figures=st.none() | image_figures(),
        sources=st.lists(sources(), max_size=4).map(tuple),
        n_uncatalogued=st.none() | st.integers(0, 9),
    )


def nights() -> st.SearchStrategy[NightFacts]:
    earlier = st.builds(
        EarlierNight,
        st.dates(date(2025, 1, 1), date(2025, 1, 14)),
        st.dictionaries(st.sampled_from(["noise", "coverage", "restoring_beam"]), numbers),
    )
    return st.builds(
        NightFacts,
        night=st.just(date(2025, 1, 15)),
        read_at=st.just(NOW),
        is_newest=st.booleans(),
        data_age_hours=numbers,
        declination_deg=numbers,
        expected_subbands=st.just(16),
        longitude_deg=st.just(-118.0),
        groups=st.lists(groups(), max_size=3).map(tuple),
        sets=st.lists(
            st.builds(
                SolvedSet, texts, texts, texts, texts, numbers, numbers, numbers,
                st.none() | st.integers(0, 50), st.lists(texts, max_size=3).map(tuple),
            ),
            max_size=2,
        ).map(tuple),
        windows_closed=st.integers(0, 2),
        unprocessed=st.lists(
            st.builds(UnprocessedItem, texts, texts, texts, texts, texts), max_size=2
        ).map(tuple),
        earlier=st.lists(earlier, max_size=4).map(tuple),
        problems=st.lists(texts, max_size=2).map(tuple),
    )  # fmt: skip


def report_of(facts: NightFacts) -> NightReport:
    rows = judge(facts, CONFIG)
    return NightReport(facts, rows, *verdict_of(rows))


class _Page(HTMLParser):
    """Notes what could load or run, and tags that are closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "img", "link"):
            self.wrong.append(tag)
        self.wrong += [
            f"{name}={value}"
            for name, value in attrs
            if name.startswith("on") or (name in ("src", "href") and not str(value).startswith("#"))
        ]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")


@settings(max_examples=15, deadline=None)
@given(nights())
def test_any_night_is_judged_and_shown(facts: NightFacts) -> None:
    """None, NaN, no group, one group, markup in names: a page without script, and JSON."""
    report = report_of(facts)
    page = _Page()
    page.feed(render_page(report))
    assert (page.open, page.wrong) == ([], [])
    content = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert [row["key"] for row in content["rows"]] == [row.key for row in report.rows]
    assert content["verdict"] == report.verdict


@settings(max_examples=30, deadline=None)
@given(nights())
def test_clean_means_that_nothing_failed_or_was_left_out(facts: NightFacts) -> None:
    report = report_of(facts)
    bad = {"fail", "warn"}
    if report.verdict == "CLEAN":
        assert not [row for row in report.rows if row.status in bad]
        assert not [r for r in report.rows if r.status == "not measured" and r.expected]
        assert report.reasons == ()
    else:
        assert report.reasons
    if any(row.status == "fail" for row in report.rows):
        assert report.verdict == "FAILED"
    if facts.images:
        # Data existed: a figure of theirs that is missing is no pass.
        for row in report.rows:
            if row.key in ("noise", "flux_scale", "astrometry", "anisotropy"):
                assert row.status != "not measured" or row.expected


def good_night() -> NightFacts:
    """Three groups of a good night, by hand."""
    three = tuple(
        GroupFacts(
            group_id=f"g{n}",
            mid_mjd=MJD + n * 309.24 / 86400,
            seconds=309.0,
            declination_deg=16.0,
            status="done",
            reason="",
            ingest_state="closed",
            state="done",
            n_subbands=16,
            task=TaskFacts(f"t{n}", "pipeline", f"g{n}", "completed", NOW),
            flagged_before=0.01,
            flagged_after=0.05,
            flagged_calibrated=0.06,
            n_antennas=20,
            data=DataFigures({"A": 0.05}, (0.05,) * 16, 190, 190, 4000.0, 300.0),
            calibration=CalibrationUse("set", "CAL", 2.0, own=False),
            has_image=True,
            stage_noise_jy=0.002,
            peak_jy=1.0,
            bmaj_arcsec=69.0,
            bmin_arcsec=43.0,
            bpa_deg=30.0,
            figures=ImageFigures(0.002, -0.01, 1.0, 3.0, 20, 0),
            sources=tuple(SourceFacts(f"S{k}", 0.5, 0.9, 1.01, 50.0, 0.1, -0.1) for k in range(4)),
        )
        for n in range(3)
    )
    return NightFacts(
        night=date(2025, 1, 15), read_at=NOW, is_newest=True, data_age_hours=1.0,
        declination_deg=16.0, expected_subbands=16, longitude_deg=-118.0, groups=three,
        operations=OperationsFacts({"completed": 3}),
    )  # fmt: skip


def _all(change: Any) -> Any:
    return lambda facts, x: replace(facts, groups=tuple(change(g, x) for g in facts.groups))


WORSE = {
    "noise": _all(
        lambda g, x: replace(
            g, figures=replace(g.figures, noise_jy=g.figures.noise_jy * (1 + x))
        )
    ),
    "depth": _all(
        lambda g, x: replace(
            g, figures=replace(g.figures, minimum_jy=g.figures.minimum_jy * (1 + 50 * x))
        )
    ),
    "anisotropy": _all(
        lambda g, x: replace(
            g, figures=replace(g.figures, anisotropy=g.figures.anisotropy * 10 ** (3 * x))
        )
    ),
    "flux": _all(
        lambda g, x: replace(
            g, sources=tuple(replace(s, ratio=s.ratio * (1 + x)) for s in g.sources)
        )
    ),
    "position": _all(
        lambda g, x: replace(
            g, sources=tuple(replace(s, east_arcsec=s.east_arcsec + 10 * x) for s in g.sources)
        )
    ),
    "lost sources": _all(
        lambda g, x: replace(
            g,
            sources=tuple(
                replace(s, sigma=1.0) if k < round(x) else s for k, s in enumerate(g.sources)
            ),
        )
    ),
    "flags": _all(
        lambda g, x: replace(
            g, data=replace(g.data, flagged_by_antenna={"A": min(1.0, 0.05 * (1 + 5 * x))})
        )
    ),
    "baselines": _all(
        lambda g, x: replace(
            g, data=replace(g.data, unflagged_baselines=max(0, round(190 - 40 * x)))
        )
    ),
    "calibration": _all(
        lambda g, x: replace(
            g, calibration=replace(g.calibration, hours_away=2.0 + 10 * x)
        )
    ),
    "age": lambda facts, x: replace(facts, data_age_hours=1.0 + 8 * x),
    "sub-bands": _all(lambda g, x: replace(g, n_subbands=max(0, round(16 - x)))),
}  # fmt: skip


def test_the_good_night_is_clean() -> None:
    assert report_of(good_night()).verdict == "CLEAN"


@pytest.mark.parametrize("name", WORSE)
@settings(max_examples=15, deadline=None)
@given(steps=st.tuples(st.floats(0.0, 4.0), st.floats(0.0, 4.0)))
def test_a_worse_value_never_improves_the_verdict(name: str, steps: tuple[float, float]) -> None:
    less, more = sorted(steps)
    verdicts = [
        report_of(WORSE[name](good_night(), amount)).verdict for amount in (0.0, less, more, 5.0)
    ]
    assert [ORDER[v] for v in verdicts] == sorted(ORDER[v] for v in verdicts)
    assert verdicts[-1] != "CLEAN"


@pytest.mark.parametrize("field", ["figures", "data", "sources"])
def test_what_was_not_measured_is_no_pass(field: str) -> None:
    """Of data that are there: the night is degraded, and says which row."""
    empty: Any = () if field == "sources" else None
    facts = _all(lambda g, _: replace(g, **{field: empty}))(good_night(), 0)
    report = report_of(facts)
    assert report.verdict == "DEGRADED"
    assert any(row.status == "not measured" and row.expected for row in report.rows)


def test_an_empty_night_is_not_clean() -> None:
    report = report_of(replace(good_night(), groups=()))
    assert report.verdict == "DEGRADED"
    assert "There is no observation group of this night." in render_page(report)


def test_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match="noise_ratio_fail"):
        NightReportConfig(noise_ratio_warn=3.0, noise_ratio_fail=2.0)
    with pytest.raises(ValueError, match="dynamic_range_fail"):
        NightReportConfig(dynamic_range_warn=30.0, dynamic_range_fail=100.0)


@pytest.mark.parametrize(("excess", "status"), [(0.0, "pass"), (0.029, "pass"), (0.05, "warn")])
def test_tiles_that_differ_within_their_errors_are_no_warning(excess: float, status: str) -> None:
    """The gate of the mosaic itself: of a hundred pairs of tiles one differs by chance."""
    mosaic = MosaicFacts("w", "accepted", (), 2, 0, 1.0, 0.2, 0.008, tile_excess=excess)
    facts = replace(good_night(), mosaics=(mosaic,), windows_closed=1)
    row = next(each for each in judge(facts, CONFIG) if each.key == "mosaics")
    assert row.status == status
