"""The report shows every history and its products, also incomplete and damaged ones."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_extent import examples

from absurd_contimg.core.records import Checkpoint, History, Json, Run, State, Task, Wait
from absurd_contimg.errors import SettingError
from absurd_contimg.operations.report.group_content import SourceStatistics
from absurd_contimg.operations.report.report import Section, _template, write_report
from absurd_contimg.operations.report.timeline import overview, spans, stage_timeline
from absurd_contimg.products.outputs import SourceTable, from_json

NOON = datetime(2025, 1, 15, 12, 0, tzinfo=UTC)
GROUP = "2025-01-15T10:45:09"
TASK_ID = UUID("01900000-0000-7000-8000-00000000beef")


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def run_row(attempt: int, state: State, worker: str, reason: Json = None) -> Run:
    return Run(
        run_id=UUID(int=attempt),
        task_id=TASK_ID,
        attempt=attempt,
        state=state,
        claimed_by=worker,
        claim_expires_at=at(600),
        available_at=NOON,
        wake_event=None,
        event_payload=None,
        started_at=at(attempt),
        completed_at=at(50) if state == "completed" else None,
        failed_at=at(40) if state == "failed" else None,
        result=None,
        failure_reason=reason,
        created_at=NOON,
    )


def start(
    number: int, worker: str, seconds: float, attempt: int, outcome: str | None = None
) -> dict[str, Json]:
    return {
        "start": number,
        "attempt": attempt,
        "run_id": str(UUID(int=attempt)),
        "worker": worker,
        "started_at": at(seconds).isoformat(),
        "outcome": outcome,
    }


def started(step: str, *starts: dict[str, Json]) -> Checkpoint:
    last = datetime.fromisoformat(str(starts[-1]["started_at"]))
    return Checkpoint(f"$start:{step}", {"starts": list(starts)}, "committed", None, last)


def finished(
    step: str,
    seconds: float,
    outputs: Mapping[str, Json] | None = None,
    product: str | None = None,
    adopted: bool = False,
) -> Checkpoint:
    state: Json = {
        "outputs": dict(outputs or {}),
        "adopted": adopted,
        "seconds": 3.25,
        "product": product,
        "logs": [f"/logs/{step}.casa.log"],
    }
    return Checkpoint(step, state, "committed", None, at(seconds))


def history(
    state: State,
    runs: Sequence[Run] = (),
    checkpoints: Sequence[Checkpoint] = (),
    waits: Sequence[Wait] = (),
    result: Json = None,
    group: str = GROUP,
) -> History:
    task = Task(
        task_id=TASK_ID,
        task_name="pipeline",
        params={"group_id": group},
        headers=None,
        retry_strategy=None,
        max_attempts=None,
        cancellation=None,
        enqueue_at=NOON,
        first_started_at=at(1),
        state=state,
        attempts=len(runs),
        last_attempt_run=None,
        completed_payload=result,
        cancelled_at=None,
        idempotency_key=None,
    )
    return History("q", task, tuple(runs), tuple(checkpoints), tuple(waits))


def write_image(path: Path, value: float = 0.0, size: int = 64) -> None:
    """A FITS image as the imager writes it: four axes, 20 arcsec pixels, a point source."""
    from astropy.io import fits  # noqa: PLC0415

    pixels = np.random.default_rng(1).normal(value, 1e-3, (1, 1, size, size))
    pixels[0, 0, size // 2, size // 2] += 0.5
    header = fits.Header()
    axes = (("RA---SIN", 159.7, -20 / 3600), ("DEC--SIN", 16.1, 20 / 3600))
    for number, (kind, centre, step) in enumerate(axes, 1):
        header[f"CTYPE{number}"], header[f"CRVAL{number}"] = kind, centre
        header[f"CDELT{number}"], header[f"CRPIX{number}"] = step, size / 2 + 1
    header["CTYPE3"], header["CRVAL3"], header["CTYPE4"] = "FREQ", 1.4e9, "STOKES"
    header["BMAJ"], header["BMIN"], header["BPA"] = 60 / 3600, 50 / 3600, 30.0
    fits.PrimaryHDU(pixels.astype(np.float32), header).writeto(path, overwrite=True)


SOURCES = [
    {
        "name": "A<b>",
        "ra_deg": 159.7,
        "dec_deg": 16.1,
        "flux_jy": 0.5,
        "snr": 400.0,
        "beam_response": 0.9,
        "isolated": True,
        "measured_jy": 0.51,
        "flux_ratio": 1.02,
        "east_arcsec": 0.1,
        "north_arcsec": -0.2,
        "position_error_arcsec": 0.22,
    },
    {
        "name": "LOST",
        "ra_deg": 159.6,
        "dec_deg": 16.2,
        "flux_jy": 0.1,
        "snr": 80.0,
        "beam_response": 0.8,
        "isolated": True,
        "measured_jy": None,
        "flux_ratio": None,
        "east_arcsec": None,
        "north_arcsec": None,
        "position_error_arcsec": None,
    },
]


def completed(folder: Path, image_product: str | None = None) -> History:
    """A group whose imaging killed a worker and was finished by another."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("image", "image-pb"):
        write_image(folder / f"{kind}.fits")
    write_image(folder / "beam.fits", value=0.6)
    table = folder / "validation.json"
    table.write_text(json.dumps({"sources": SOURCES}))
    image: dict[str, Json] = {
        "path": str(folder / "image.fits"),
        "beam_path": str(folder / "beam.fits"),
        "pb_corrected_path": str(folder / "image-pb.fits"),
        "ms_path": str(folder / "a.ms"),
        "imager": "tclean",
        "ra_deg": 159.7,
        "dec_deg": 16.1,
        "mid_mjd": 60690.5,
        "rms_jy": 0.001,
        "peak_jy": 0.5,
        "dynamic_range": 500.0,
        "bmaj_arcsec": 60.0,
        "bmin_arcsec": 50.0,
        "bpa_deg": 30.0,
        "size_px": 64,
        "cell_arcsec": 20.0,
    }
    validation: dict[str, Json] = {
        "report": str(table),
        "verdict": "degraded",
        "failed_gates": ["completeness"],
        "n_expected": 2,
        "n_matched": 1,
        "completeness": 0.5,
        "rms_jy": 0.001,
        "dynamic_range": 500.0,
        "flux_ratio_median": 1.02,
        "flux_ratio_scatter": 0.0,
        "flux_error_max": 0.02,
        "position_error_median_arcsec": 0.22,
        "position_error_max_arcsec": 0.22,
    }
    died = {"name": "$ClaimTimeout", "message": "worker w1 did not renew its claim"}
    return history(
        "completed",
        [run_row(1, "failed", "w1", died), run_row(2, "completed", "w2")],
        [
            started("convert", start(1, "w1", 1, 1)),
            finished("convert", 10, product=str(folder)),
            started("image", start(1, "w1", 10, 1), start(2, "w2", 30, 2)),
            finished("image", 45, {"image": image}, product=image_product, adopted=True),
            started("validate", start(1, "w2", 45, 2)),
            finished("validate", 50, {"validation": validation}),
        ],
        result={
            "verdict": "degraded",
            "config_ref": {"digest": "abc123def456", "paths": {"output_dir": str(folder)}},
        },
    )


def failed() -> History:
    reason: Json = {
        "name": "StageFailed",
        "message": "sub-band <sb03> holds NaN",
        "kind": "permanent",
        "rule": "bad-input",
        "advice": "Replace the file.",
        "step": "convert",
        "worker": "w1",
        "logs": ["/logs/convert.out.log"],
        "traceback": "Traceback: <here>",
    }
    return history(
        "failed",
        [run_row(1, "failed", "w1", reason)],
        [started("convert", start(1, "w1", 1, 1, "failed: bad-input"))],
    )


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


class _Balanced(HTMLParser):
    """Notes tags that are closed out of order, and everything that is loaded."""

    VOID = frozenset({"meta", "img", "br", "link", "hr", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [v or "" for k, v in attrs if k in ("src", "href", "data", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)


def test_group_is_shown_with_picture_sources_and_verdict(tmp_path: Path) -> None:
    target = tmp_path / "out" / "report.html"
    written = write_report(target, [completed(tmp_path / "p")])
    page = target.read_text()
    assert written[0] == target
    (picture,) = written[1:]
    assert picture.parent == tmp_path / "out" / "report_images"
    assert base64.b64encode(picture.read_bytes()).decode() in page
    text = text_of(page)
    assert "completed, degraded" in text
    assert "Failed: completeness." in text
    assert "The 1 detected ones in the table: flux ratio 1.020" in text
    assert re.search(r"500\.0 510\.0 1\.020 0\.10 -0\.20 0\.22", text)
    assert "not detected" in text
    assert "abc123def456" in text
    assert "/logs/image.casa.log" in text


def test_tasks_of_one_group_are_told_apart_by_the_image_that_they_made(tmp_path: Path) -> None:
    """After a reprocessing two sections and two rows had the same heading."""
    first = completed(tmp_path / "p", f"/out/images/{GROUP}-0123456789")
    again = completed(tmp_path / "p", f"/out/images/{GROUP}-abcdef0123")
    other = failed()
    again = replace(again, task=replace(again.task, task_id=UUID(int=1)))
    write_report(tmp_path / "r.html", [first, again, other])
    text = text_of((tmp_path / "r.html").read_text())
    assert text.count(f"{GROUP}, image 0123456789 ") == 2
    assert text.count(f"{GROUP}, image abcdef0123 ") == 2
    assert text.count(f"{GROUP}, pipeline 00beef ") == 2
    write_report(tmp_path / "r.html", [first])
    assert ", image 0123456789" not in text_of((tmp_path / "r.html").read_text())


def test_page_is_self_contained(tmp_path: Path) -> None:
    """No script, nothing loaded, well formed, and names are escaped."""
    write_report(tmp_path / "r.html", [completed(tmp_path / "p"), failed()])
    page = (tmp_path / "r.html").read_text()
    parser = _Balanced()
    parser.feed(page)
    assert parser.open == []
    assert parser.unbalanced == []
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in parser.loaded)
    assert "<script" not in page
    assert "url(" not in page
    assert "A<b>" not in page
    assert "A&lt;b&gt;" in page


def test_death_of_a_worker_and_resumption_are_marked(tmp_path: Path) -> None:
    """The end of the interrupted start is unknown: it is drawn until the step was started again."""
    task_history = completed(tmp_path)
    by_step = {(s.start.step, s.start.start): s for s in spans(task_history)}
    dead, again = by_step["image", 1], by_step["image", 2]
    assert (dead.died, dead.ends_at, dead.start.seconds) == (True, at(30), None)
    assert (again.resumes, again.died, again.ends_at) == (True, False, at(45))
    assert not by_step["validate", 1].resumes
    write_report(tmp_path / "r.html", [task_history])
    text = text_of((tmp_path / "r.html").read_text())
    assert re.search(r"image 1 1 w1 2025-01-15 12:00:10 UTC – its worker died", text)
    assert re.search(
        r"image 2 2 w2 2025-01-15 12:00:30 UTC 15\.0 done resumed here product existed", text
    )


def test_statistics_above_the_table_are_of_the_table() -> None:
    """The gates look at strong sources alone: faint ones are in the table and in its figures."""
    faint = {**SOURCES[0], "snr": 12.0, "flux_ratio": 1.3, "position_error_arcsec": 4.0}
    neighbour = {**SOURCES[0], "isolated": False, "flux_ratio": 9.0}
    table = from_json(SourceTable, {"sources": [*SOURCES, faint, neighbour]})
    statistics = SourceStatistics.of(table.sources)
    assert statistics is not None
    assert statistics.n_sources == 2
    assert statistics.flux_ratio_median == pytest.approx(1.16)
    assert statistics.flux_error_max == pytest.approx(0.3)
    assert statistics.position_error_max_arcsec == 4.0


def test_a_failed_stage_looks_unlike_a_finished_one(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", [failed(), completed(tmp_path / "p")])
    page = (tmp_path / "r.html").read_text()
    bars = re.findall(r'class="bar w\d( died)?( failed)?"', page)
    assert bars.count(("", " failed")) == 2  # in the overview, and with its group
    assert bars.count((" died", "")) == 2
    assert bars.count(("", "")) == 6
    assert '<b class="bad">failed: bad-input' in page


def test_bars_lie_on_a_common_axis_of_time(tmp_path: Path) -> None:
    task_history = completed(tmp_path)
    drawn = stage_timeline(task_history, ["w1", "w2"])
    assert drawn is not None
    assert [name for _, name in drawn.lanes] == ["convert", "image", "validate"]
    room = drawn.width - drawn.left
    assert all(drawn.left <= bar.x and bar.x + bar.width <= drawn.width for bar in drawn.bars)
    convert, dead = drawn.bars[0], drawn.bars[1]
    assert dead.x == pytest.approx(convert.x + convert.width, abs=0.2)
    assert dead.width == pytest.approx(convert.width * 20 / 9, rel=0.01)
    assert room > 500
    assert [bar.css for bar in drawn.bars] == ["w0", "w0", "w1", "w1"]
    assert len(drawn.ticks) > 3


def test_failure_shows_kind_message_advice_and_log(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", [failed()])
    text = text_of((tmp_path / "r.html").read_text())
    for text_part in (
        "permanent in convert , attempt 1 on w1",
        "sub-band &lt;sb03&gt; holds NaN",
        "What to do: Replace the file.",
        "/logs/convert.out.log",
        "Traceback: &lt;here&gt;",
        "failed: bad-input",
    ):
        assert text_part in text


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("image.fits", "There is no picture. The image"),
        ("validation.json", "The validation table"),
        ("beam.fits", None),
    ],
)
def test_missing_product_is_reported(tmp_path: Path, missing: str, expected: str | None) -> None:
    task_history = completed(tmp_path / "p")
    (tmp_path / "p" / missing).unlink()
    written = write_report(tmp_path / "r.html", [task_history])
    text = text_of((tmp_path / "r.html").read_text())
    if expected is None:
        assert len(written) == 2
    else:
        assert re.search(f"{expected} .* no longer there", text)
    assert "500" in text  # the figures come from the history


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_damaged_product_is_reported(tmp_path: Path) -> None:
    task_history = completed(tmp_path / "p")
    for name in ("image.fits", "validation.json"):
        path = tmp_path / "p" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    written = write_report(tmp_path / "r.html", [task_history])
    assert written == [tmp_path / "r.html"]
    assert text_of(written[0].read_text()).count("cannot be read") == 2


def test_tasks_in_every_state_are_reported(tmp_path: Path) -> None:
    event = f"calibration.available:{GROUP}"
    waiting = Wait(TASK_ID, UUID(int=1), "$awaitEvent", event, at(3600), NOON)
    running = history(
        "running", [run_row(1, "running", "w1")], [started("flag", start(1, "w1", 5, 1))]
    )
    others: list[History] = [
        history("pending"),
        history("sleeping", [run_row(1, "sleeping", "w1")], waits=[waiting]),
        history("cancelled", [run_row(1, "cancelled", "w1")]),
        running,
    ]
    write_report(tmp_path / "r.html", others)
    text = text_of((tmp_path / "r.html").read_text())
    assert "Waits for a calibration of its strip, until 2025-01-15 13:00 UTC." in text
    assert "No stage has been started." in text
    assert re.search(r"flag 1 1 w1 .* running", text)
    write_report(tmp_path / "none.html", [])
    assert "There are no tasks" in (tmp_path / "none.html").read_text()


def test_failure_with_a_later_task_is_no_failed_group(tmp_path: Path) -> None:
    """Nor is the failed task of another group one that was tried again."""
    later = history("completed")
    later = replace(later, task=replace(later.task, task_id=UUID(int=TASK_ID.int + 1)))
    other = history("failed", group="2025-01-15T11:45:09")
    other = replace(other, task=replace(other.task, task_id=UUID(int=TASK_ID.int - 1)))
    write_report(tmp_path / "r.html", [later, history("failed"), other])
    text = text_of((tmp_path / "r.html").read_text())
    assert "1 completed" in text
    assert "1 failed, tried again in a later task" in text
    assert "1 failed 0 workers" in text


def test_sections_of_the_caller_are_shown_with_their_result(tmp_path: Path) -> None:
    sections = [
        Section("Fluxes", ["All <good>."], ("source", "ratio"), [("A", 1.0012345)], ok=True),
        Section("Gains", ok=False),
        Section("Notes", ["No check."]),
    ]
    write_report(tmp_path / "r.html", [], sections)
    text = text_of((tmp_path / "r.html").read_text())
    assert "Fluxes passed All &lt;good&gt;. source ratio A 1.001" in text
    assert "Gains failed" in text
    assert "Notes No check." in text


def test_equal_histories_give_equal_bytes(tmp_path: Path) -> None:
    task_history = completed(tmp_path / "p")
    first, second = (write_report(tmp_path / d / "r.html", [task_history]) for d in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_missing_plots_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    _template.cache_clear()  # as in a process that has written none
    with pytest.raises(SettingError, match=r"absurd-contimg\[plots\]"):
        write_report(tmp_path / "r.html", [])
    assert list(tmp_path.iterdir()) == []


def test_home_folder_stays_empty(tmp_path: Path) -> None:
    """In a new process, in which matplotlib and astropy write all their caches."""
    home = tmp_path / "home"
    home.mkdir()
    image = tmp_path / "image.fits"
    write_image(image)
    program = (
        "import sys; from pathlib import Path\n"
        "from absurd_contimg.operations.report.quicklook import write_quicklook\n"
        "write_quicklook(Path(sys.argv[1]), Path(sys.argv[2]), title='x')\n"
    )
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LD_LIBRARY_PATH")}
    subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(image), "out/x.png"],
        env={**kept, "HOME": str(home)},
        cwd=tmp_path,
        check=True,
        timeout=60,
    )
    assert list(home.rglob("*")) == []
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["x.png"]


OUTCOMES = st.sampled_from([None, "retry: busy", "waiting: disk-full", "released", "poison"])


@st.composite
def any_history(draw: st.DrawFn) -> History:
    """Steps with any starts, workers and outcomes, in any state of the task."""
    state = draw(st.sampled_from(["pending", "running", "sleeping", "completed", "failed"]))
    runs = [
        run_row(n, draw(st.sampled_from(["running", "failed", "completed"])), "w1")
        for n in range(1, draw(st.integers(1, 4)))
    ]
    checkpoints: list[Checkpoint] = []
    for step in draw(st.lists(st.sampled_from(["convert", "flag", "image"]), unique=True)):
        begins = sorted(draw(st.lists(st.floats(0, 1e6), min_size=1, max_size=4)))
        starts = [
            start(n, draw(st.sampled_from(["w1", "w2", "w9"])), t, n, draw(OUTCOMES))
            for n, t in enumerate(begins, 1)
        ]
        checkpoints.append(started(step, *starts))
        if draw(st.booleans()):
            random_outputs: dict[str, Any] = draw(
                st.dictionaries(
                    st.sampled_from(["image", "validation", "x"]),
                    st.none()
                    | st.text(max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["rms_jy", "report", "path", "n_matched", "verdict"]),
                        st.none() | st.floats(allow_nan=False) | st.text(max_size=3),
                    ),
                )
            )
            checkpoints.append(finished(step, begins[-1] + 1, random_outputs))
    return history(state, runs, checkpoints)


@settings(max_examples=examples(40), deadline=None)
@given(drawable=any_history())
def test_every_history_can_be_drawn(
    drawable: History, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The report shows each start of a stage once in each timeline."""
    target = tmp_path_factory.mktemp("any") / "r.html"
    write_report(target, [drawable])
    bars = spans(drawable)
    assert all(span.ends_at >= span.start.started_at for span in bars)
    drawn = overview([drawable], ["w1", "w2", "w9"])
    assert (drawn is None) == (not bars)
    if drawn is not None:
        assert len(drawn.bars) == len(bars)
        assert target.read_text().count('class="bar ') == 2 * len(bars)
        assert all(bar.x + bar.width <= drawn.width for bar in drawn.bars)


@pytest.mark.parametrize("target", ["/dev/full", "/dev/zero", "/tmp"])
def test_target_that_is_no_regular_file_is_refused(target: str) -> None:
    with pytest.raises(SettingError, match="is no report"):
        write_report(Path(target), [])
