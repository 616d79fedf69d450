"""The doctor finds the problems of a machine, names a remedy, and leaves no files."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest
from small_disk import make_read_only, mounted
from standby import standby_gone
from typer.testing import CliRunner
from waiting import wait_until

from absurd_contimg.backends.postgres import EmbeddedPostgres, embedded, server_process
from absurd_contimg.backends.postgres.server_programs import EmbeddedPostgresError
from absurd_contimg.backends.postgres.sessions import Session
from absurd_contimg.execution.casa_environment import casa_environment
from absurd_contimg.execution.disk_marks import Watermarks
from absurd_contimg.execution.disk_usage import DiskUsage, size_text
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.doctor import Finding, diagnose, doctor, software, table_locks
from absurd_contimg.operations.doctor.memory import memory, memory_limit_bytes
from absurd_contimg.operations.doctor.software import shadowed_software
from absurd_contimg.operations.services.disk_guard import DiskGuard
from absurd_contimg.science.catalogue import SkySource, write_catalogue
from absurd_contimg.settings import load_settings


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("ABSURD_", "PIPELINE_", "CONTIMG_")):
            monkeypatch.delenv(name)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A short one: the socket of the private server would lie below it."""
    with tempfile.TemporaryDirectory(prefix="d-") as folder:
        yield Path(folder)


@pytest.fixture
def site(tmp_path: Path) -> dict[str, Any]:
    """Options of a correct site, before its first run."""
    (tmp_path / "in").mkdir()
    write_catalogue(
        tmp_path / "in" / "catalog.csv", [SkySource("CAL", 10.0, 20.0, 8.0, calibrator=True)]
    )
    return {"input_dir": tmp_path / "in", "output_dir": tmp_path / "site" / "out"}


@pytest.fixture
def _no_software(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the import of CASA, which takes seconds."""
    monkeypatch.setattr(doctor, "stage_software", lambda folders: [])


def find(findings: list[Finding], check: str) -> Finding:
    (finding,) = [finding for finding in findings if finding.check == check]
    return finding


def test_correct_machine_passes_and_no_file_is_left(
    site: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real CASA, pyuvdata and embedded server; the home folder stays empty too."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    findings = diagnose(site, [])
    assert sorted(tmp_path.rglob("*")) == before
    assert [finding for finding in findings if not finding.ok] == []
    assert {finding.check for finding in findings} >= {
        *("Python", "settings", "memory", "open files", "HDF5 locking", "input_dir", "output_dir"),
        *("scratch_dir", "state_dir", "scratch and output", "disk space", "catalogue", "WSClean"),
        *("CASA", "leap seconds", "observatory", "pyuvdata", "database"),
    }
    assert "casatasks 6." in find(findings, "CASA").finding
    assert "1 of them calibrators" in find(findings, "catalogue").finding


def test_casa_warning_about_leap_seconds_is_a_finding(tmp_path: Path) -> None:
    """CASA sees its table with a date years ago and warns, in its log only."""
    log = tmp_path / "casa.log"
    environment = {**os.environ, **casa_environment(tmp_path, log, today=date(2020, 1, 1))}
    environment["CONTIMG_MEASURES"] = str(tmp_path / "measures")
    answer = software._probe(software._CASA_PROBE, tmp_path, environment)
    assert isinstance(answer, dict)
    finding = software._times(log)
    assert not finding.ok
    assert "TAI_UTC" in finding.finding
    assert "pip install --upgrade casadata" in finding.remedy


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("import time; time.sleep(60)", "still importing after 0 s"),
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("import os; os.abort()", "exit code -6: no message"),
    ],
)
def test_software_that_hangs_crashes_or_is_missing_is_a_finding(
    tmp_path: Path, program: str, expected: str
) -> None:
    seconds = 0.3 if "sleep" in program else 30.0
    answer = software._probe(program, tmp_path, dict(os.environ), seconds)
    finding = software._imports("CASA", answer)
    assert not finding.ok
    assert expected in finding.finding
    assert "pip install --force-reinstall 'absurd-contimg[casa]'" in finding.remedy


def test_casa_that_is_not_installed_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    finding, _ = software.stage_software([tmp_path / "scratch"])
    assert (finding.ok, finding.check) == (False, "CASA")
    assert "pip install 'absurd-contimg[casa]'" in finding.remedy
    assert list(tmp_path.iterdir()) == []


def test_casa_on_a_full_disk_is_one_sentence(small_disk: Path) -> None:
    """It listed every file that could not be copied, in 1,500 characters."""
    with (small_disk / "filler").open("wb", 0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 12))
    (finding,) = software.stage_software([small_disk])
    assert "No space left on device" in finding.finding
    assert len(finding.finding) < 400


def shadow(folder: Path, module: str, text: str) -> dict[str, str]:
    """An environment whose PYTHONPATH has another package of that name."""
    (folder / "other" / module).mkdir(parents=True)
    (folder / "other" / module / "__init__.py").write_text(text)
    return {**os.environ, "PYTHONPATH": str(folder / "other"), "COLUMNS": "1000"}


@pytest.mark.parametrize(("module", "text"), [
    ("absurd_sdk", "__version__ = '0.1'"),  # an older one, needed to start
    ("numpy", "raise RuntimeError('built for another Python')"),
    ("typer", "def ("),
])  # fmt: skip
def test_a_doctor_that_pythonpath_keeps_from_starting_says_so(
    module: str, text: str, tmp_path: Path
) -> None:
    """It was a traceback."""
    shown = subprocess.run(
        [sys.executable, "-m", "absurd_contimg.operations", "doctor"],
        env=shadow(tmp_path, module, text),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    place = tmp_path / "other" / module / "__init__.py"
    assert shown.returncode == 1
    assert f"PYTHONPATH={tmp_path / 'other'} puts another {module} ({place})" in shown.stderr
    assert "unset PYTHONPATH" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_shadowed_software_of_the_stages_is_not_to_be_installed_again(
    site: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That cannot help: Python finds the other one first."""
    environment = shadow(tmp_path, "casatasks", "raise ImportError('of another CASA')")
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    findings = diagnose(site, [])
    casa = find(findings, "CASA")
    assert "of another CASA" in casa.finding
    assert "casatasks" in find(findings, "PYTHONPATH").finding
    for finding in (casa, find(findings, "PYTHONPATH")):
        assert not finding.ok
        assert "unset PYTHONPATH" in finding.remedy
        assert "force-reinstall" not in finding.remedy
    (tmp_path / "other/casatasks").rename(tmp_path / "other/of_mine")
    assert shadowed_software() == []


def test_the_software_is_tried_further_where_pythonpath_hides_the_data_of_casa(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyuvdata was left out, and the package was to be installed again."""
    monkeypatch.setenv("PYTHONPATH", shadow(tmp_path, "casadata", "")["PYTHONPATH"])
    monkeypatch.syspath_prepend(tmp_path / "other")
    casa, pyuvdata = software.stage_software([tmp_path])
    assert (casa.check, casa.ok) == ("CASA", False)
    assert "unset PYTHONPATH" in casa.remedy
    assert (pyuvdata.check, pyuvdata.ok) == ("pyuvdata", True)


@pytest.mark.usefixtures("_no_software")
@pytest.mark.parametrize(
    ("variables", "assignments", "expected", "remedy"),
    [
        ({"PIPELINE_INPUT_DIRR": "/x"}, [], "PIPELINE_INPUT_DIRR is unknown", "PIPELINE_INPUT_DIR"),
        ({}, ["imaging.nitre=1"], "imaging.nitre is unknown", "contimg settings"),
        ({"PIPELINE_CONFIG": "/nowhere.toml"}, [], "cannot be read", "PIPELINE_CONFIG"),
    ],
)
def test_settings_that_cannot_be_loaded_are_a_finding(
    variables: dict[str, str],
    assignments: list[str],
    expected: str,
    remedy: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    findings = diagnose({}, assignments)
    finding = find(findings, "settings")
    assert not finding.ok
    assert expected in finding.finding
    assert remedy in finding.remedy
    assert find(findings, "Python").ok  # the other checks still run


@pytest.mark.usefixtures("_no_software")
def test_unusable_folders_are_findings(site: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    wrong = {"input_dir": tmp_path / "nothing", "state_dir": tmp_path / "file" / "state"}
    findings = diagnose(site | wrong, [])
    missing, blocked = find(findings, "input_dir"), find(findings, "state_dir")
    assert (missing.ok, blocked.ok) == (False, False)
    assert "contimg synth" in missing.remedy
    assert f"Move {tmp_path / 'file'} away" in blocked.remedy
    assert "PIPELINE_STATE_DIR" in blocked.remedy
    assert not find(findings, "catalogue").ok


@pytest.mark.usefixtures("_no_software")
def test_names_of_folders_that_cannot_work_are_findings(
    site: dict[str, Any], tmp_path: Path
) -> None:
    """For CASA, and for the socket of the private server; both name what counts with --folder."""
    findings = diagnose(site | {"state_dir": tmp_path / "it's"}, [])
    for name in ("folder names", "database"):
        finding = find(findings, name)
        assert not finding.ok
        assert '"\'"' in finding.finding
        assert "--state-dir, which counts beside --folder" in finding.remedy


@pytest.mark.usefixtures("_no_software")
def test_a_folder_on_a_read_only_disk_is_to_be_mounted(site: dict[str, Any]) -> None:
    """It was to be given to another user, root by root."""
    with mounted(site["input_dir"] / "disk", 1) as disk:
        make_read_only(disk)
        finding = find(diagnose(site | {"scratch_dir": disk}, []), "scratch_dir")
    assert not finding.ok
    assert "Read-only file system" in finding.finding
    assert finding.remedy.startswith("Mount its file system for writing")
    assert "chown" not in finding.remedy


def refusing(number: int) -> Callable[..., None]:
    def call(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.usefixtures("_no_software")
@pytest.mark.parametrize(
    ("call", "number", "lacking", "words"),
    [
        ("fcntl.flock", errno.ENOLCK, ("output", "scratch", "state"), "no file locks (flock)"),
        ("fcntl.lockf", errno.ENOTSUP, ("scratch", "state"), "no file locks (fcntl)"),
        ("os.symlink", errno.EPERM, ("scratch",), "no symbolic links (Operation not permitted)"),
        ("os.fsync", errno.EINVAL, ("output", "scratch", "state"), "fsync (Invalid argument)"),
    ],
)
def test_what_a_file_system_lacks_is_a_finding(
    call: str,
    number: int,
    lacking: tuple[str, ...],
    words: str,
    site: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By name, in each folder that needs it, and no file is left."""
    before = sorted(tmp_path.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(call, refusing(number))
        findings = diagnose(site, [])
    for name in ("output", "scratch", "state"):
        finding = find(findings, f"file system of {name}_dir")
        assert finding.ok == (name not in lacking)
        if name in lacking:
            assert words in finding.finding
            assert f"PIPELINE_{name.upper()}_DIR" in finding.remedy
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("_no_software")
def test_a_file_system_that_syncs_no_folders_is_noted(
    site: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used: Postgres, too, does without."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            refusing(errno.EINVAL)()
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    finding = find(diagnose(site, []), "file system of state_dir")
    assert finding.ok
    assert "folders cannot be written to the disk (Invalid argument)" in finding.finding


@pytest.mark.usefixtures("_no_software")
def test_folder_that_is_not_writable_is_a_finding(
    site: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc accepts no files, not even from root."""
    findings = diagnose(site | {"scratch_dir": Path("/proc/contimg")}, [])
    scratch = find(findings, "scratch_dir")
    assert not scratch.ok
    assert "PIPELINE_SCRATCH_DIR" in scratch.remedy
    other = find(findings, "scratch and output")
    assert not other.ok  # /proc is a file system of its own
    assert str(site["output_dir"] / "scratch") in other.remedy


@pytest.mark.usefixtures("_no_software")
def test_a_broken_catalogue_is_a_finding(site: dict[str, Any]) -> None:
    (site["input_dir"] / "catalog.csv").write_text("name,ra_deg\nA,1\n")
    finding = find(diagnose(site, []), "catalogue")
    assert not finding.ok
    assert "lacks the columns" in finding.finding


@pytest.mark.usefixtures("_no_software")
def test_wsclean_is_needed_only_when_it_is_chosen(
    site: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(site["input_dir"]))
    assert find(diagnose(site, []), "WSClean").ok
    chosen = find(diagnose(site, ["imaging.imager=wsclean"]), "WSClean")
    assert not chosen.ok
    assert "apt-get install wsclean" in chosen.remedy


@pytest.mark.parametrize(
    ("version", "ok"), [((3, 11, 7), True), ((3, 12, 1), False), ((3, 13, 0), True)]
)
def test_only_a_python_with_a_working_casa_wheel_passes(version: tuple[int, ...], ok: bool) -> None:
    finding = doctor._python(version)
    assert finding.ok == ok
    assert ok or "make PYTHON=" in finding.remedy


@pytest.mark.parametrize(
    ("available_gib", "limit", "ok", "expected"),
    [(8, None, True, "8.0 GiB"), (3, None, False, "3.0 GiB"), (8, 2**31, False, "2.0 GiB")],
)
def test_too_little_memory_is_a_finding(
    available_gib: int, limit: int | None, ok: bool, expected: str
) -> None:
    """Of the machine, or of the container."""
    meminfo = f"MemTotal: {16 * 2**20} kB\nMemAvailable: {available_gib * 2**20} kB\n"
    finding = memory(meminfo, limit)
    assert finding.ok == ok
    assert expected in finding.finding
    assert ok or "--concurrency 1" in finding.remedy


def test_memory_without_the_file_of_the_kernel_is_a_finding(tmp_path: Path) -> None:
    finding = memory(kernel=tmp_path / "meminfo")
    assert not finding.ok
    assert "mount -t proc proc /proc" in finding.remedy


@pytest.mark.parametrize(("own", "limits", "expected"), [
    ("0::/a/b", {"a/b": ("memory.max", "max"), "a": ("memory.max", "3000")}, 3000),
    ("0::/a", {"a": ("memory.max", "2000"), ".": ("memory.max", "9000")}, 2000),
    ("0::/", {".": ("memory.max", "4000")}, 4000),  # in a container with a namespace
    ("0::/a\n3:memory,hugetlb:/x:y/z", {"memory/x:y": ("memory.limit_in_bytes", "5000")}, 5000),
    ("2:memory:/docker/1", {"memory": ("memory.limit_in_bytes", "6000")}, 6000),  # one without
    ("2:cpu:/a\n0::/", {"cpu/a": ("memory.limit_in_bytes", "1")}, None),
])  # fmt: skip
def test_the_smallest_limit_of_the_own_control_group_and_those_above_counts(
    own: str, limits: dict[str, tuple[str, str]], expected: int | None, tmp_path: Path
) -> None:
    """The doctor looked at the root's alone: 22 GiB were available in a group of 3 GiB."""
    (tmp_path / "own").write_text(f"{own}\n")
    groups = tmp_path / "groups"
    (groups / "other").mkdir(parents=True)
    (groups / "other/memory.max").write_text("1\n")
    for name, (file, text) in limits.items():
        (groups / name).mkdir(parents=True, exist_ok=True)
        (groups / name / file).write_text(f"{text}\n")
    assert memory_limit_bytes(groups, tmp_path / "own") == expected


def test_memory_without_control_groups_is_not_limited(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path, tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("soft", "hard", "ok"),
    [
        (1024, 524288, True),
        (1024, 1024, False),
        (4096, 4096, True),
        (1024, resource.RLIM_INFINITY, True),
    ],
)
def test_limit_of_open_files_is_the_one_it_can_be_raised_to(
    soft: int, hard: int, ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    finding = doctor._open_files()
    assert finding.ok == ok
    assert ok or "LimitNOFILE=65536" in finding.remedy


@pytest.mark.parametrize(("marks", "free", "ok"), [
    (Watermarks(), 2_100_000_000, True),
    (Watermarks(), 1_900_000_000, False),
    (Watermarks(None, 5.0), 4_900_000_000, False),
])  # fmt: skip
def test_a_disk_on_which_workers_claim_nothing_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marks: Watermarks, free: int, ok: bool
) -> None:
    """By the marks of the workers; it had others of its own."""
    usage = DiskUsage(free, 100_000_000_000, None, None)
    for module in ("doctor.doctor", "services.disk_guard"):
        monkeypatch.setattr(f"absurd_contimg.operations.{module}.disk_usage", lambda _: usage)
    finding = doctor._free_space(tmp_path, marks)
    assert finding.ok is ok
    assert DiskGuard("worker-1", [tmp_path], tmp_path, marks).check()[0] is ok
    critical = size_text(marks.critical_bytes(usage.total_bytes))
    assert f"free of 100.0 GB at {tmp_path}" in finding.finding
    assert f"claim nothing below {critical}" in finding.finding


def test_a_file_system_without_inodes_is_a_finding(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", inodes=100) as folder:
        assert doctor._free_inodes(folder, Watermarks()).ok
        for number in range(99):
            (folder / f"file-{number}").touch()
        finding = doctor._free_inodes(folder, Watermarks())
    assert not finding.ok
    assert "inodes" in finding.remedy


@pytest.mark.usefixtures("_no_software")
def test_unusable_databases_are_findings(
    site: dict[str, Any], postgres_server: EmbeddedPostgres, new_database: Callable[[], str]
) -> None:
    """No server, no such database, no schema, no URL: each has its own remedy."""
    cases = {
        "postgresql://me:secret@127.0.0.1:1/x": ("database", "psql"),
        postgres_server.url("no_such_database"): ("database", "createdb"),
        postgres_server.create_database("doctor_empty"): ("database", "contimg db init"),
        "not a url": ("settings", "postgresql://USER@HOST:PORT/DATABASE"),
    }
    for url, (check, remedy) in cases.items():
        finding = find(diagnose(site | {"database_url": url}, []), check)
        assert not finding.ok, url
        assert remedy in finding.remedy
        assert "secret" not in finding.finding
    findings = diagnose(site | {"database_url": new_database()}, [])
    good = find(findings, "database")
    assert good.ok
    assert "Absurd's schema" in good.finding
    assert find(findings, "clock").ok


@pytest.mark.usefixtures("_no_software")
def test_a_lock_that_somebody_keeps_is_a_finding(
    site: dict[str, Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers wait for it."""
    given = site | {"database_url": database_url}
    with psycopg.connect(database_url) as session:
        session.execute("lock table absurd.queues in exclusive mode")
        assert "table locks" not in {finding.check for finding in diagnose(given, [])}
        monkeypatch.setattr(table_locks, "KEPT_SECONDS", 0.0)
        finding = find(diagnose(given, []), "table locks")
        pid = session.info.backend_pid
    assert not finding.ok
    assert f"held by session {pid} of user postgres" in finding.finding
    assert "pg_terminate_backend" in finding.remedy


@pytest.mark.usefixtures("_no_software")
def test_a_synchronous_standby_that_is_gone_is_a_finding(
    site: dict[str, Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every change waits for it, and all that is asked is answered; also by what shows the site."""
    durable = f"{database_url}&options=-csynchronous_commit%3Don"  # as in production
    monkeypatch.setenv("ABSURD_DATABASE_URL", durable)
    options = [f"--{name.replace('_', '-')}={folder}" for name, folder in site.items()]
    commands = (["status"], ["status", "--json"], ["monitor", "--once"])
    assert CliRunner().invoke(app, [*options, "db", "init"]).exit_code == 0
    with standby_gone(database_url):
        finding = find(diagnose(site | {"database_url": durable}, []), "standby")
        relaxed = diagnose(site | {"database_url": database_url}, [])
        shown = [CliRunner().invoke(app, [*options, *each]).output for each in commands]
    for text in shown:
        assert "waits for a synchronous standby that does not answer" in " ".join(text.split())
    assert not finding.ok
    assert "synchronous_standby_names = 'gone'" in finding.finding
    assert "alter system set synchronous_standby_names = ''" in finding.remedy
    assert "standby" not in {finding.check for finding in relaxed}


@pytest.mark.usefixtures("_no_software")
def test_a_wrong_clock_is_a_finding(
    site: dict[str, Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared with the database's, which all hosts share."""
    right = doctor.time.time
    monkeypatch.setattr(doctor.time, "time", lambda: right() + 300)
    finding = find(diagnose(site | {"database_url": database_url}, []), "clock")
    assert not finding.ok
    assert finding.finding.endswith("s ahead of the database's.")
    assert "timesyncd" in finding.remedy


@pytest.mark.usefixtures("_no_software")
def test_a_missing_embedded_server_is_a_finding(
    site: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    finding = find(diagnose(site, []), "database")
    assert not finding.ok
    assert "absurd-contimg[embedded]" in finding.remedy
    assert "ABSURD_DATABASE_URL" in finding.remedy


@pytest.mark.usefixtures("_no_software")
def test_a_server_of_another_container_is_a_finding(
    site: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds its lock, and has no process here: every command is refused."""
    monkeypatch.setattr(server_process, "_LAST_PROCESS_SECONDS", 0.0)
    folder = tmp_path / "site" / "out" / "state" / "postgres"
    folder.mkdir(parents=True)
    assert load_settings(site, environment={}).embedded_folder == folder
    assert find(diagnose(site, []), "database").ok
    with (folder / "server.lock").open("w") as lock:
        assert find(diagnose(site, []), "database").ok
        fcntl.flock(lock, fcntl.LOCK_EX)
        finding = find(diagnose(site, []), "database")
    assert not finding.ok
    assert "runs on another host or in another container" in finding.finding
    assert finding.remedy.startswith("Use it there, or end them (fuser ")


@pytest.mark.usefixtures("_no_software")
def test_a_private_server_that_does_not_run_while_services_need_it_is_a_finding(
    site: dict[str, Any],
) -> None:
    """Killed, or unable to start: it is no server that starts with the first command."""
    folder = load_settings(site, environment={}).embedded_folder
    service, command = (EmbeddedPostgres(folder, durable=False) for _ in range(2))
    service.start()
    command.stop("immediate")
    finding = find(diagnose(site, []), "database")
    assert not finding.ok
    assert "does not run, although services wait for it" in finding.finding
    assert "contimg db init" in finding.remedy
    service.release()
    assert find(diagnose(site, []), "database").ok


@pytest.mark.usefixtures("_no_software")
def test_a_private_server_that_cannot_start_is_a_finding_whose_mend_lets_it_start(
    site: dict[str, Any],
) -> None:
    """After ``chmod -R 777`` and ``find -type d -empty -delete``; the start's own error says it."""
    server = EmbeddedPostgres(load_settings(site, environment={}).embedded_folder, durable=False)
    data = server.folder / "data"
    server.start().stop("immediate")
    assert find(diagnose(site, []), "database").ok
    data.chmod(0o777)
    for folder in server.folder.rglob("*"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    for word in (f"chmod 700 {data}", "mkdir -p -m 700 pg_commit_ts"):
        finding = find(diagnose(site, []), "database")
        assert not finding.ok
        assert word in finding.remedy
        with pytest.raises(EmbeddedPostgresError, match=word):
            server.start()
        subprocess.run(["sh", "-c", finding.remedy.rpartition(": ")[2]], check=True)
    assert find(diagnose(site, []), "database").ok
    server.start().stop("immediate")
    (data / "global").rename(data / "elsewhere")
    assert "lacks global, which held data" in find(diagnose(site, []), "database").finding


@pytest.mark.usefixtures("_no_software")
def test_a_private_server_that_takes_no_connection_is_a_finding_with_what_helps(
    site: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no ABSURD_DATABASE_URL to check."""
    server = EmbeddedPostgres(load_settings(site, environment={}).embedded_folder, durable=False)
    with monkeypatch.context() as patch:  # as with more statistics than memory for them
        patch.setattr(embedded, "_SETTINGS", ("dynamic_shared_memory_type=mmap",))
        server.start()
    shared = server.folder / "data/pg_dynshmem"
    try:
        wait_until(lambda: len(list(shared.iterdir())) > 1)  # the second is made after the start
        for path in shared.iterdir():
            path.unlink()
        finding = find(diagnose(site, []), "database")
        assert not finding.ok
        assert "could not open shared memory segment" in finding.finding
        assert finding.remedy.startswith("Its shared memory was removed while it runs")
        assert finding.remedy.endswith("contimg db stop; contimg db init")
        server.stop()
        with Session.connect(server.start().url("postgres")):
            number = int((server.folder / "data/postmaster.pid").read_text().split()[0])
            os.kill(number, signal.SIGTERM)
            wait_until(lambda: "shutting down" in find(diagnose(site, []), "database").finding)
            finding = find(diagnose(site, []), "database")
            assert f"Its log is {server.folder / 'server.log'}. Unless" in finding.remedy
            assert "psql" not in finding.remedy
        wait_until(lambda: not server.is_running())
    finally:
        server.stop("immediate")


def test_root_without_user_namespaces_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/bin/false")
    finding = doctor._user_namespace()
    assert not finding.ok
    assert "ordinary user" in finding.remedy


def test_private_server_keeps_no_limits_of_its_starter(tmp_path: Path) -> None:
    """Those of a shell or a nice batch job: raised where possible, and said where not."""
    start = (
        "import sys; from pathlib import Path; from absurd_contimg.backends.postgres import "
        "EmbeddedPostgres; EmbeddedPostgres(Path(sys.argv[1]), durable=False).start()"
    )
    limited = 'ulimit -S -t 900; ulimit -S -f 4000000; exec nice -n 5 "$@"'
    folder = tmp_path / "pg"
    try:
        subprocess.run(
            ["sh", "-c", limited, "sh", sys.executable, "-c", start, str(folder)],
            check=True,
            timeout=120,
        )
        finding = doctor._server_limits(folder)
        assert "limit" not in finding.finding.replace("no limits", "")
        assert finding.ok == (os.geteuid() == 0), "only root may raise a priority"
        pid = int((folder / "data/postmaster.pid").read_text().split()[0])
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (10**9, resource.RLIM_INFINITY))
        finding = doctor._server_limits(folder)
        assert not finding.ok
        assert "a limit of file size" in finding.finding
    finally:
        EmbeddedPostgres(folder).stop()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:abc/defg@host/d",
        "postgresql://u:abc/9@host:5432/d",
        "postgresql://localhost:abc/defg@host/d",
        "postgresql://u:a/abc/cd@host:5432/d?x=1",
        "postgres://u:abc#de/fg@host/d",
    ],
)
def test_no_part_of_a_password_is_shown_of_a_malformed_url(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a slash in the password, its first characters were shown as the port."""
    (finding,) = doctor._reachable(url)
    assert not finding.ok
    assert "malformed" in finding.finding
    assert not re.search("abc|def", finding.finding)
    monkeypatch.setenv("ABSURD_DATABASE_URL", url)
    for command in (["status"], ["settings"], ["db", "url"], ["db", "init"], ["monitor", "--once"]):
        result = CliRunner().invoke(app, command)
        assert not re.search("abc|defg", result.output + str(result.exception)), command
