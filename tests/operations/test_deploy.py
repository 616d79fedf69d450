"""The units of systemd: they are valid, and say what their services and settings need."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from absurd_contimg.config.previous_variables import IGNORED_VARIABLES
from absurd_contimg.config.variables import VARIABLES
from absurd_contimg.core import lease, worker
from absurd_contimg.errors import SettingError
from absurd_contimg.operations import deploy
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.deploy import installation
from absurd_contimg.registry.service_records import SILENT_AFTER_SECONDS
from absurd_contimg.settings import Settings, load_settings

NO_SYSTEMD = "systemd-analyze is not here. Install it: sudo apt-get install systemd"


def settings_of(folder: Path, **environment: str) -> Settings:
    folders = {"input_dir": folder / "incoming", "output_dir": folder / "products"}
    return load_settings(folders, environment=environment)


def site_of(settings: Settings, **options: object) -> deploy.DeployedSite:
    return deploy.this_site(settings, deploy.ENVIRONMENT_FILE, **options)  # type: ignore[arg-type]


@pytest.fixture
def units(tmp_path: Path) -> dict[str, str]:
    settings = settings_of(tmp_path / "50% $new", ABSURD_WORKER_GRACE="40")
    return deploy.render_units(site_of(settings))


def section(text: str, name: str = "Service") -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return dict(parser[name])


def test_systemd_finds_nothing_wrong(units: dict[str, str], tmp_path: Path) -> None:
    """Whatever signs the names of the folders hold."""
    assert shutil.which("systemd-analyze"), NO_SYSTEMD
    for name, text in units.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in units)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)


def test_systemd_refuses_a_unit_with_a_mistake(tmp_path: Path) -> None:
    """So that the test before this one can fail."""
    unit = tmp_path / "wrong.service"
    unit.write_text("[Service]\nExecStart=/nowhere/contimg worker\nTimeoutStopSecs=5\n")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "TimeoutStopSecs" in done.stderr
    assert "/nowhere/contimg" in done.stderr


def test_every_command_of_a_unit_is_one_of_contimg(units: dict[str, str]) -> None:
    commands = [
        line.partition("=")[2]
        for text in units.values()
        for line in text.splitlines()
        if line.startswith("Exec")
    ]
    assert len(commands) >= len([name for name in units if name.endswith(".service")])
    for command in commands:
        program, *words = shlex.split(command)
        assert os.access(program, os.X_OK)
        answer = CliRunner().invoke(app, [*words, "--help"])
        assert answer.exit_code == 0, f"{command}: {answer.output}"


def test_a_worker_has_time_to_hand_its_work_back(units: dict[str, str]) -> None:
    """Grace period, end of the stage, release of the run, and a reserve."""
    settings = section(units["dsa110-absurd-worker@.service"])
    least = 40 + lease._END_SECONDS + worker._RELEASE_SECONDS
    assert float(settings["TimeoutStopSec"]) >= least + 30


@pytest.mark.parametrize("unit", ["dsa110-absurd-worker@.service", "dsa110-mosaic-daemon.service"])
def test_the_table_of_settings(units: dict[str, str], unit: str) -> None:
    """What failed in the previous system (docs/operations.md gives the reasons)."""
    settings = section(units[unit])
    is_worker = "worker" in unit
    expected = {
        "Type": "notify",
        "WatchdogSec": "120" if is_worker else "300",
        "KillMode": "mixed",
        "Restart": "on-failure" if is_worker else "always",
        "RestartSec": "5" if is_worker else "10",
        "RestartPreventExitStatus": str(os.EX_CONFIG),
        "OOMPolicy": "continue",
        "LimitNOFILE": "65536",
    }
    assert {name: settings.get(name) for name in expected} == expected
    assert "TasksMax" in settings
    assert _megabytes(settings["MemoryHigh"]) < _megabytes(settings["MemoryMax"])
    assert float(settings["WatchdogSec"]) > SILENT_AFTER_SECONDS, "seen before it is killed"
    assert not re.search(r"postgresql://|password", units[unit], re.IGNORECASE)


def _megabytes(text: str) -> float:
    return float(text[:-1]) * {"M": 1, "G": 1024}[text[-1]]


def test_workers_share_the_memory_of_the_host(tmp_path: Path) -> None:
    limits = [
        _megabytes(
            section(
                deploy.render_units(site_of(settings_of(tmp_path), workers=workers))[
                    "dsa110-absurd-worker@.service"
                ]
            )["MemoryMax"]
        )
        for workers in (1, 4)
    ]
    assert limits[0] == pytest.approx(4 * limits[1], rel=0.01)


def test_every_variable_of_the_environment_file_is_known_and_explained(tmp_path: Path) -> None:
    text = deploy.environment_file(settings_of(tmp_path), {})
    named = set(re.findall(r"^#? ?([A-Z][A-Z0-9_]+)(?:=| is set)", text, re.MULTILINE))
    assert named == set(VARIABLES)
    blocks = text.split("\n\n")
    for name in VARIABLES:
        (block,) = [b for b in blocks if re.search(rf"^#? ?{name}(=| is)", b, re.MULTILINE)]
        assert block.startswith("# "), f"{name} is not explained"


def test_variables_of_the_guide_are_settings_ignored_or_refused_with_an_answer() -> None:
    guide = [
        *("ABSURD_DATABASE_URL", "ABSURD_QUEUE_NAME", "PIPELINE_INPUT_DIR"),
        *("PIPELINE_OUTPUT_DIR", "PIPELINE_PRODUCTS_DB", "CAL_REGISTRY_DB", "CONTIMG_OUTPUT_DIR"),
        *("CONTIMG_IMAGES_DIR", "CONTIMG_MOSAIC_DIR", "ABSURD_TASK_TIMEOUT"),
    ]
    for name in guide:
        if name in VARIABLES:
            continue
        if name in IGNORED_VARIABLES:
            load_settings(environment={name: "/data"})
        else:
            with pytest.raises(SettingError, match=r"PIPELINE_OUTPUT_DIR"):
                load_settings(environment={name: "/data"})


@pytest.mark.parametrize("name", ["plain", "a b", 'a"b', "a'b", "a$HOME`id`", "a\\b", "50%", "a#b"])
def test_shell_and_service_read_the_same_environment(tmp_path: Path, name: str) -> None:
    settings = settings_of(tmp_path / name)
    file = tmp_path / "env"
    file.write_text(deploy.environment_file(settings, {"ABSURD_DATABASE_URL": "postgresql:///x"}))
    read = deploy.read_environment_file(file)
    assert read["PIPELINE_INPUT_DIR"] == str(tmp_path / name / "incoming")
    shell = subprocess.run(
        ["sh", "-c", f"set -a; . {file}; env -0"],
        capture_output=True,
        text=True,
        env={},
        timeout=10,
        check=True,
    )
    variables = dict(line.split("=", 1) for line in shell.stdout.rstrip("\0").split("\0"))
    assert {key: variables[key] for key in read} == read
    assert load_settings(environment=read).pipeline.paths == settings.pipeline.paths


def run_install(root: Path, *options: str, **environment: str) -> str:
    folders = ["--input-dir", str(root / "in"), "--output-dir", str(root / "out")]
    command = [*folders, "deploy", "install", "--root", str(root), *options]
    answer = CliRunner().invoke(app, command, env=environment, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_installation_keeps_an_edited_environment_file_and_takes_its_settings(
    tmp_path: Path,
) -> None:
    """A second run changes nothing; a longer grace period gives the worker a longer stop."""
    run_install(tmp_path, "--dry-run")
    assert not (tmp_path / "etc").exists()
    run_install(tmp_path)
    file = tmp_path / "etc/dsa110-contimg/contimg.env"
    unit = tmp_path / "etc/systemd/system/dsa110-absurd-worker@.service"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "unchanged" in run_install(tmp_path)
    assert section(unit.read_text())["TimeoutStopSec"] == "75"
    edited = file.read_text().replace("ABSURD_WORKER_GRACE=10", "ABSURD_WORKER_GRACE=100")
    file.write_text(edited)
    output = run_install(tmp_path)
    assert file.read_text() == edited
    assert "keep" in output
    assert section(unit.read_text())["TimeoutStopSec"] == "165"


def test_units_of_others_are_not_overwritten(tmp_path: Path) -> None:
    """The previous system has units of the same names."""
    settings = settings_of(tmp_path)
    unit = tmp_path / "etc/systemd/system/dsa110-absurd-worker@.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/opt/start_worker.py\n")
    with pytest.raises(SettingError, match=re.escape(str(unit))):
        deploy.plan_files(settings, site_of(settings), tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
@pytest.mark.parametrize(
    "name", ["systemd/system/dsa110-absurd-worker@.service", "dsa110-contimg/contimg.env"]
)
def test_what_is_no_file_in_a_place_of_ours_is_refused_at_once(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    """A pipe would block the command for ever."""
    settings = settings_of(tmp_path)
    place = tmp_path / "etc" / name
    place.parent.mkdir(parents=True)
    make(place)
    with pytest.raises(SettingError, match=re.escape(str(place))):
        deploy.plan_files(settings, site_of(settings), tmp_path)


def test_secrets_in_files_are_handed_over_by_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the unit nor in the environment; where systemd is too old, nothing is promised."""
    folder = tmp_path / "etc/dsa110-contimg/credentials"
    folder.mkdir(parents=True)
    (folder / "pgpass").write_text("*:*:*:*:secret-word\n")
    monkeypatch.setattr(installation, "_systemd_version", lambda: 252)
    credentials = deploy.find_credentials(tmp_path)
    text = deploy.render_units(site_of(settings_of(tmp_path), credentials=credentials))
    for name in ("dsa110-absurd-worker@.service", "dsa110-mosaic-daemon.service"):
        assert "LoadCredential=pgpass:/etc/dsa110-contimg/credentials/pgpass" in text[name]
        assert "Environment=PGPASSFILE=%d/pgpass" in text[name]
        assert "secret-word" not in text[name]
    monkeypatch.setattr(installation, "_systemd_version", lambda: 249)
    assert deploy.find_credentials(tmp_path) == []


def test_an_unknown_user_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="nobody-here"):
        site_of(settings_of(tmp_path), user="nobody-here")
