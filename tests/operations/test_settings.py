"""Settings: environment, file and command line; misspelt ones are refused by name."""

from __future__ import annotations

import itertools
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from absurd_contimg import secrets
from absurd_contimg import settings as settings_module
from absurd_contimg.config.meanings import setting_meanings
from absurd_contimg.config.variables import VARIABLES
from absurd_contimg.errors import CorruptInputError, SettingError
from absurd_contimg.operations.cli.main import app
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.science.beam import BeamCentres
from absurd_contimg.science.catalogue import read_catalogue
from absurd_contimg.settings import known_settings, load_settings
from absurd_contimg.simulation.campaign.scenario import ScenarioError, load_scenario


def test_variables_of_the_operations_guide_are_read() -> None:
    settings = load_settings(
        environment={
            "ABSURD_DATABASE_URL": "postgresql://u:p@h/dsa110_absurd",
            "ABSURD_QUEUE_NAME": "dsa110-pipeline",
            "ABSURD_TASK_TIMEOUT": "7200",
            "ABSURD_WORKER_POLL_INTERVAL": "0.5",
            "PIPELINE_INPUT_DIR": "/data/incoming",
            "PIPELINE_OUTPUT_DIR": "/stage/dsa110-contimg",
            "PIPELINE_DEFAULT_REFANT": "105",
            "PYTHONPATH": "/somewhere",
        }
    )
    assert settings.database_url == "postgresql://u:p@h/dsa110_absurd"
    assert settings.pipeline.execution.deadline_seconds == 7200
    assert settings.poll_interval_seconds == 0.5
    assert settings.pipeline.paths.scratch_dir == Path("/stage/dsa110-contimg/scratch")
    assert settings.pipeline.calibration.reference_antennas == ("DSA105",)


def test_defaults_are_those_of_the_operations_guide() -> None:
    settings = load_settings(environment={})
    assert settings.queue_name == "dsa110-pipeline"
    assert settings.pipeline.execution.deadline_seconds == 3600
    assert settings.pipeline.paths.input_dir == Path("/data/incoming")
    assert settings.pipeline.paths.output_dir == Path("/stage/dsa110-contimg")
    assert settings.database_url is None


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "contimg.toml"
    file.write_text("[imaging]\nniter = 10\nsize_px = 640\n[execution]\ndeadline_seconds = 60\n")
    settings = load_settings(
        {"config_file": file, "queue_name": "from-options"},
        ["imaging.niter=20"],
        {"ABSURD_TASK_TIMEOUT": "90", "ABSURD_QUEUE_NAME": "from-environment"},
    )
    assert settings.queue_name == "from-options"
    assert settings.pipeline.imaging.niter == 20
    assert settings.pipeline.imaging.size_px == 640
    assert settings.pipeline.execution.deadline_seconds == 90


@pytest.mark.parametrize(
    ("environment", "assignments", "expected"),
    [
        (
            {"ABSURD_WORKER_POLL_INTERVAL_SEC": "1"},
            [],
            ["_SEC is unknown", "Set ABSURD_WORKER_POLL_INTERVAL."],
        ),
        ({"ABSURD_WORKER_CONCURRENCY": "many"}, [], ["CONCURRENCY", "'many'"]),
        ({}, ["imaging.nitter=5"], ["imaging.nitter is unknown", "imaging.niter?"]),
        (
            {},
            ["imaging.niter=-1"],
            ["imaging.niter is -1 (--set): it must be a whole number"],
        ),
        ({}, ["imaging.niter"], ["'imaging.niter' is no setting"]),
        ({"PIPELINE_CONFIG": "/nowhere/contimg.toml"}, [], ["/nowhere/contimg.toml", "No such"]),
        ({"PIPELINE_OUTPUT_DIR": "'/data/out'"}, [], ["_DIR has quotation marks round its value"]),
        (
            {"ABSURD_DATABASE_URL": '"postgresql://postgres:s3cret@h/x"'},
            [],
            ["The environment variable ABSURD_DATABASE_URL has quotation marks", "docker's"],
        ),
        ({"PIPELINE_OUTPUT_DIR": "~/x"}, [], ["PIPELINE_OUTPUT_DIR begins with ~, which", "./~"]),
        ({"PIPELINE_STATE_DIR": "${HOME}/x"}, [], ["begins with $", "only a shell knows"]),
        (
            {"PIPELINE_PRODUCTS_DB": "postgres//postgres:s3cret@h/x"},
            [],
            ["PIPELINE_PRODUCTS_DB is neither a plain path nor a known URL"],
        ),
        ({"PIPELINE_PRODUCTS_DB": "mysql://h/x"}, [], ["neither a plain path nor a known URL"]),
    ],
)
def test_wrong_setting_is_refused_by_name(
    environment: dict[str, str],
    assignments: list[str],
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(secrets, "_known", set())
    with pytest.raises(SettingError) as caught:
        load_settings({}, assignments, environment)
    for text in expected:
        assert text in str(caught.value)
    assert "s3cret" not in str(caught.value)


WRONG = (
    "words that fit nothing",
    -1e300,
    True,
    [[[]]],
    {"x": 1},
    10**5000,
    [10**5000],
    float("nan"),
    datetime(2026, 1, 1, tzinfo=UTC),
)
MESSAGE = re.compile(r"[a-z_.0-9]+ (is|has|are) .{1,300}: (it|they) must be [^{}\n]{4,}")
"""Name, value, and what is possible."""


def refusal(options: dict[str, Any]) -> str | None:
    """Why settings are refused."""
    try:
        load_settings(options, environment={})
    except SettingError as error:
        return error.problem
    return None


@pytest.mark.parametrize("section", sorted({name.split(".")[0] for name in known_settings()}))
def test_every_refusal_has_name_value_range_and_origin(section: str, tmp_path: Path) -> None:
    """No objects and no traceback, whatever type a file gives a setting."""
    file = tmp_path / "contimg.toml"
    refused = 0
    names = [name for name in known_settings() if name.startswith(f"{section}.")]
    for name, wrong in itertools.product(names, WRONG):
        tables: dict[str, Any] = {section: {name.split(".")[1]: wrong}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settings_module, "read_toml", lambda _, tables=tables: tables)
            problem = refusal({"config_file": file})
        if problem is None:
            continue
        refused += 1
        for sentence in problem.removesuffix(".").split("; "):
            assert MESSAGE.match(sentence) or re.match(rf"{name}\.\w+ is (miss|unkn)", sentence)
        assert name in problem
        assert str(file) in problem or "unknown" in problem
        assert len(problem) < 700
    assert refused > 4


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[imaging]\nniter = " + b"7" * 5000, "line 2, niter: a number of 5000 digits"),
        ("[imaging]\nniter = 7".encode("utf-16"), "it is no text in UTF-8"),
        (b"[imaging]\nniter = 1\nniter = 2", "overwrite"),
        (b"[imaging]\nniter = [" + b"7" * 5000 + b"]", "line 2, niter: a number of 5000 digits"),
        (b"imaging = 5", "imaging is 5 (settings file"),
        (b"[imaging]\nniter = 0x" + b"f" * 5000, "imaging.niter is a number of 6021 digits (sett"),
    ],
)
def test_content_that_is_no_settings_file_is_named(
    content: bytes, says: str, tmp_path: Path
) -> None:
    """By line and key, for settings and for scenarios."""
    file = tmp_path / "contimg.toml"
    file.write_bytes(content)
    with pytest.raises(SettingError, match=re.escape(says)) as caught:
        load_settings({"config_file": file}, environment={})
    assert str(file) in str(caught.value)
    file.write_bytes(content.replace(b"imaging", b"workers").replace(b"niter", b"count"))
    says = says.replace("imaging", "workers").replace("niter", "count").partition(" (")[0]
    with pytest.raises(ScenarioError, match=re.escape(says)) as refused:
        load_scenario(file)
    assert str(file) in str(refused.value)


def test_file_of_another_editor_is_read(tmp_path: Path) -> None:
    """A byte order mark and the ends of lines of another system."""
    file = tmp_path / "contimg.toml"
    file.write_bytes(b"\xef\xbb\xbf[imaging]\r\nniter = 20\r\n")
    assert load_settings({"config_file": file}, environment={}).pipeline.imaging.niter == 20


@pytest.mark.parametrize("sweep", ['"workers.count" = [0]', '"nope.x" = [1]', '"name.x" = [1]'])
def test_sweep_that_cannot_be_simulated_is_refused(sweep: str, tmp_path: Path) -> None:
    file = tmp_path / "scenario.toml"
    file.write_text(f'name = "x"\n[sweep]\n{sweep}')
    with pytest.raises(ScenarioError, match=r"sweep: .*(workers\.count is 0|no field)"):
        load_scenario(file).variants()


def test_variables_of_the_previous_system_are_accepted() -> None:
    load_settings(environment={"ABSURD_ENABLED": "true", "PIPELINE_MAX_WORKERS": "4"})


def test_every_variable_fills_a_setting_that_exists() -> None:
    names = set(known_settings())
    for variable in VARIABLES.values():
        if variable.setting.startswith("pipeline."):
            assert variable.setting.removeprefix("pipeline.") in names


def test_every_setting_says_what_it_means() -> None:
    meanings = setting_meanings()
    assert meanings.keys() == known_settings().keys()
    assert [name for name, meaning in meanings.items() if not meaning] == []


def test_a_variable_of_a_pipeline_setting_is_listed_with_its_value() -> None:
    """ABSURD_TASK_TIMEOUT looked as if it had none."""
    shown = CliRunner().invoke(app, ["--set", "execution.deadline_seconds=7", "settings"])
    assert "ABSURD_TASK_TIMEOUT = 7.0: seconds after which a stage is killed" in shown.output


def test_settings_are_listed_by_a_part_of_their_name() -> None:
    shown = CliRunner().invoke(app, ["settings", "niter"]).stdout
    assert "imaging.niter = " in shown
    assert "`threshold_sigma` ends cleaning" in " ".join(shown.split())
    assert "wait" not in shown
    listed = json.loads(CliRunner().invoke(app, ["settings", "poll_", "--json"]).stdout)
    assert listed["settings"][0]["setting"] == "streaming.poll_seconds"
    assert listed["settings"][0]["default"] == 60
    assert [item["variable"] for item in listed["variables"]] == ["ABSURD_WORKER_POLL_INTERVAL"]
    with pytest.raises(SettingError, match="No setting has 'nitre'"):
        CliRunner().invoke(app, ["settings", "nitre"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("name", "greatest"), [("claim_timeout_seconds", 86_400), ("concurrency", 1000)]
)
def test_numbers_that_are_too_large_are_refused(name: str, greatest: int) -> None:
    assert getattr(load_settings({name: greatest}, environment={}), name) == greatest
    with pytest.raises(SettingError, match=f"{name} is .* \\(an option\\): it must be .* at most"):
        load_settings({name: greatest + 1}, environment={})


ABSURD_NUMBERS = (
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "9" * 400,
    "9" * 5000,
    "0x10",
    "1_0",
    "٣",
    "",
)


def test_absurd_numbers_in_the_environment_are_refused_or_bounded() -> None:
    """Each variable that is a number, the worker's and the pipeline's."""
    numeric = [
        name
        for name, variable in VARIABLES.items()
        if variable.parse.__name__ in ("_whole", "_number")
    ]
    assert len(numeric) >= 8
    refusals: dict[tuple[str, str], str] = {}
    for name, text in itertools.product(numeric, ABSURD_NUMBERS):
        try:
            settings = load_settings(environment={name: text})
        except SettingError as error:
            refusals[name, text] = str(error)
            continue
        value = getattr(settings, VARIABLES[name].setting, 0) or 0
        assert 0 <= value <= 1e9, (name, text)
        json.dumps(settings.pipeline.model_dump(mode="json"), allow_nan=False)
    assert len(refusals) > 6 * len(numeric)
    for (name, _), message in refusals.items():
        assert name in message or VARIABLES[name].setting.removeprefix("pipeline.") in message


REFUSED = r"no regular file|more than|Is a directory"


def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path) -> None:
    """By every reader of a file that somebody names or puts into a folder."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 2 * 10**9)
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "large"):
        with pytest.raises(SettingError, match=REFUSED):
            load_settings({"config_file": path}, environment={})
        with pytest.raises(ScenarioError, match=REFUSED):
            load_scenario(path)
        with pytest.raises(CorruptInputError, match=REFUSED):
            read_catalogue(path)
        with pytest.raises(CorruptInputError, match=REFUSED):
            BeamCentres.read(path)
        with pytest.raises((OSError, ValueError), match=REFUSED):
            LOCAL.read_json(path)


@pytest.mark.parametrize("content", [b"\xff", b"a = " + b"[" * 5000, b"a\x00"])
def test_file_that_is_no_text_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(SettingError, match=str(path)):
        load_settings({"config_file": path}, environment={})
    with pytest.raises(ScenarioError, match=str(path)):
        load_scenario(path)
    with pytest.raises(CorruptInputError, match=str(path)):
        read_catalogue(path)


def test_url_with_bytes_that_are_no_text_is_refused() -> None:
    """libpq's parser ended each command with a traceback."""
    with pytest.raises(SettingError, match=r"no UTF-8\. Write each as %XX") as caught:
        load_settings(environment={"ABSURD_DATABASE_URL": "postgresql://u:pass\udcff@h/x"})
    assert "pass" not in str(caught.value)


def test_a_value_that_is_refused_is_not_shown_whole() -> None:
    with pytest.raises(SettingError) as caught:
        load_settings(environment={"ABSURD_ALERT_EMAIL_TO": "x" * 100_000})
    assert len(str(caught.value)) < 1000
