"""``contimg mosaic plan`` and ``make``: windows, nights and spans, in parts that fit a canvas."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_products import (
    FIRST_MJD,
    STEP_DAYS,
    commit_image,
    commit_measurement_set,
)
from synthetic_tiles import TilePlan, make_tile, strip
from typer.testing import CliRunner

from absurd_contimg.config import PathsConfig
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.services.mosaic_plans import strips
from absurd_contimg.registry import GroupStatus, Registry
from absurd_contimg.registry.mosaics import ImagedGroup
from absurd_contimg.registry.windows import Window, WindowMember, WindowState, store_windows

NIGHT = "2025-01-15"
SMALL = {"size_px": 64, "cell_arcsec": 150.0}


class Site:
    """Images in a registry, and the command on 80 columns."""

    def __init__(self, root: Path, database_url: str) -> None:
        self.paths = PathsConfig.below(root)
        self.paths.input_dir.mkdir(parents=True)
        (self.paths.input_dir / "catalog.csv").write_text(
            "name,ra_deg,dec_deg,flux_jy,spectral_index,calibrator\n"
        )
        self.paths.state_dir.mkdir()
        self.registry = Registry(
            self.paths.state_dir / "registry.sqlite3", output_dir=self.paths.output_dir
        )
        self._options = [
            *("--input-dir", str(self.paths.input_dir)),
            *("--output-dir", str(self.paths.output_dir)),
            *("--scratch-dir", str(self.paths.scratch_dir)),
            *("--state-dir", str(self.paths.state_dir)),
            *("--database-url", database_url),
        ]
        assert self.run("init", group="db").exit_code == 0

    def commit(self, plans: Sequence[TilePlan], first: int = 0) -> list[str]:
        rng, groups, output_dir = np.random.default_rng(1), [], self.paths.output_dir
        for number, plan in enumerate(plans, first):
            minutes = 5 * number
            group = f"{NIGHT}T{10 + minutes // 60:02d}:{minutes % 60:02d}:00"
            mid_mjd = FIRST_MJD + number * STEP_DAYS
            tile = make_tile(plan, [], 0.004, rng)
            commit_image(output_dir, self.registry, group, plan, tile, mid_mjd)
            commit_measurement_set(output_dir, self.registry, group, mid_mjd, plan.dec_deg)
            groups.append(group)
        return groups

    def run(self, *arguments: str, group: str = "mosaic") -> Any:
        clean = {key: None for key in os.environ if key.startswith(("ABSURD_", "PIPELINE_"))}
        return CliRunner().invoke(
            app, [*self._options, group, *arguments], env={**clean, "COLUMNS": "80"}
        )

    def plans(self, *arguments: str) -> list[dict[str, Any]]:
        result = self.run("plan", "--json", *arguments)
        assert result.exit_code == 0, repr(result.exception)
        parsed: list[dict[str, Any]] = json.loads(result.stdout)
        return parsed


@pytest.fixture
def new_site(tmp_path: Path, database_url: str) -> Callable[[], Site]:
    return lambda: Site(tmp_path / "site", database_url)


def test_window_is_planned_and_made_once(new_site: Callable[[], Site]) -> None:
    site = new_site()
    with closing(site.registry):
        groups = site.commit(strip(0.0, 16.0, 3, **SMALL))
        members = [WindowMember(group, FIRST_MJD) for group in groups]
        members.append(WindowMember(f"{NIGHT}T10:15:00", FIRST_MJD, False, "too few sub-bands"))
        span = FIRST_MJD, FIRST_MJD + 3 * STEP_DAYS
        window = Window("window-1", WindowState.CLOSED, *span, 16.0, tuple(members), {})
        store_windows(site.registry.database, [window])
        site.registry.set_group_status(groups[2], GroupStatus.FAILED, "its imager crashed")
        (planned,) = site.plans()
        assert planned == site.plans("window-1")[0]
        assert planned["members"] == groups[:2]
        assert planned["left_out"] == {
            f"{NIGHT}T10:15:00": "too few sub-bands",
            groups[2]: "it is failed: its imager crashed",
        }
        assert 0.002 < planned["noise_jy"] < 0.004
        text = site.run("plan").stdout
        assert "its imager crashed" in text
        assert "contimg mosaic show is of all that the mosaic covers" in text
        assert all(len(line) <= 80 for line in text.splitlines() if groups[2] not in line)
        first, second, third = (
            json.loads(site.run("make", "window-1", "--json", *again).stdout)["spawned"][0]
            for again in ([], [], ["--again"])
        )
        assert (first["created"], second["created"], third["created"]) == (True, False, False)
        assert first["task_id"] == second["task_id"] == third["task_id"]  # it has not ended


def test_night_is_split_by_declination_and_by_the_canvas(new_site: Callable[[], Site]) -> None:
    """Neighbouring parts share two tiles; each fits; all images are in one of them."""
    site = new_site()
    with closing(site.registry):
        low = site.commit(strip(350.0, 16.0, 9, **SMALL))
        high = site.commit(strip(20.0, 54.0, 2, **SMALL), first=9)
        whole = site.plans("--night", NIGHT)
        assert [plan["window_id"] for plan in whole] == [
            f"night-{NIGHT}-dec+16.0", f"night-{NIGHT}-dec+54.0",
        ]  # fmt: skip
        assert [plan["members"] for plan in whole] == [low, high]
        assert {plan["tier"] for plan in whole} == {"nightly"}
        limit = whole[0]["width_px"] * whole[0]["height_px"] // 2
        result = site.run("plan", "--night", NIGHT, "--declination", "16", "--json")
        assert [plan["members"] for plan in json.loads(result.stdout)] == [low]
        (site.paths.input_dir / "contimg.toml").write_text(f"[mosaic]\npixels_max = {limit}\n")
        site._options += ["--config", str(site.paths.input_dir / "contimg.toml")]
        parts = site.plans("--night", NIGHT, "--declination", "16")
        assert len(parts) >= 2
        assert all(part["width_px"] * part["height_px"] <= limit for part in parts)
        assert [part["window_id"][-3:] for part in parts] == [
            f"-{number:02d}" for number in range(1, len(parts) + 1)
        ]
        for left, right in itertools.pairwise(parts):
            assert left["members"][-2:] == right["members"][:2]
        assert sorted({group for part in parts for group in part["members"]}) == low
        made = json.loads(site.run("make", "--night", NIGHT, "--json").stdout)
        assert len(made["spawned"]) == len(parts) + 1


REFUSED = (
    ((), "Give a window, or --night DATE"),
    (("window-9",), "There is no window 'window-9' in the registry"),
    (("--night", "yesterday"), "'yesterday' is no day"),
    (("--night", "2020-01-01"), "There is no image from 2020-01-01T00:00:00"),
    (("--since", "2025-01-15"), "Give a window"),
    (("--deep", "--night", NIGHT), "Give a window"),
    (("--since", "2025-01-16", "--until", "2025-01-15"), "is not before"),
    (("--since", "soon", "--until", "2025-01-15"), "--since 'soon' is no time"),
    (("window-9", "--declination", "16"), "A window has its own declination"),
)


def test_what_cannot_be_made_is_refused_by_name(new_site: Callable[[], Site]) -> None:
    site = new_site()
    with closing(site.registry):
        for arguments, text in REFUSED:
            result = site.run("make", *arguments)
            assert result.exit_code == 1
            assert text in str(result.exception)


def test_a_mosaic_that_cannot_be_made_says_why(new_site: Callable[[], Site]) -> None:
    site = new_site()
    with closing(site.registry):
        site.commit(strip(10.0, 16.0, 1, **SMALL))
        result = site.run("make", "--since", NIGHT, "--until", "2025-01-16", "--deep")
        assert result.exit_code == 1
        assert "a mosaic needs 2" in result.stdout
        (plan,) = site.plans("--since", NIGHT, "--until", "2025-01-16", "--deep")
        assert (plan["tier"], plan["width_px"]) == ("deep", 0)


@given(
    declinations=st.lists(st.sampled_from([16.0, 16.05, 16.3, 54.0]), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
)
def test_strips_hold_every_group_once_and_never_two_declinations(
    declinations: list[float], order: Any
) -> None:
    groups = [ImagedGroup(f"g{k:02d}", float(k), dec) for k, dec in enumerate(declinations)]
    shuffled = list(groups)
    order.shuffle(shuffled)
    result = strips(shuffled, 0.1)
    assert sorted((g for strip in result for g in strip), key=lambda g: g.group_id) == groups
    for strip_groups in result:
        assert strip_groups == sorted(strip_groups, key=lambda g: g.mid_mjd)
        values = [group.declination_deg for group in strip_groups]
        assert max(values) - min(values) < 0.2
