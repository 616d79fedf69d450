"""Writing units and environment file onto this host."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from absurd_contimg.config.variables import VARIABLES
from absurd_contimg.errors import SettingError
from absurd_contimg.operations.deploy.environment import environment_file, read_installed
from absurd_contimg.operations.deploy.units import MARK, DeployedSite, render_units
from absurd_contimg.settings import Settings
from absurd_contimg.whole_files import failures_of

ENVIRONMENT_FILE = Path("/etc/dsa110-contimg/contimg.env")
_UNIT_FOLDER = Path("/etc/systemd/system")
_SECRET_MODE = 0o600
_UNIT_MODE = 0o644
_CREDENTIALS_VERSION = 250


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file of the installation, and what would become of it."""

    path: Path
    text: str
    mode: int
    action: Literal["create", "replace", "unchanged", "keep"]
    note: str = ""


def find_credentials(root: Path = Path("/")) -> list[tuple[str, str, Path]]:
    """Secrets in files that systemd hands to the services: variable, credential, file.

    They are the ``_FILE`` variables (``CONTIMG_API_TOKEN_FILE`` is ``api-token``) and ``pgpass``,
    each in the folder ``credentials`` beside the environment file. None where systemd is older
    than 250, which does not tell a unit where they are.
    """
    if _systemd_version() < _CREDENTIALS_VERSION:
        return []
    names = {
        name: name.removesuffix("_FILE").partition("_")[2].lower().replace("_", "-")
        for name in VARIABLES
        if name.endswith("_FILE")
    } | {"PGPASSFILE": "pgpass"}
    folder = ENVIRONMENT_FILE.parent / "credentials"
    return [
        (variable, name, folder / name)
        for variable, name in names.items()
        if os.path.lexists(_below(root, folder / name))
    ]


def plan_files(
    settings: Settings,
    site: DeployedSite,
    root: Path = Path("/"),
    environment: Mapping[str, str] | None = None,
) -> list[PlannedFile]:
    """All files below `root`; `environment` is what a new environment file sets.

    Raises `SettingError` where a file is there that is not ours.
    """
    return [
        _plan_environment(
            _below(root, site.environment_file),
            environment_file(settings, environment or {}),
        ),
        *(
            _plan_unit(_below(root, _UNIT_FOLDER / name), text)
            for name, text in render_units(site).items()
        ),
    ]


def install(files: Sequence[PlannedFile], user: str) -> None:
    """Write what has changed. The environment file belongs to the user of the services."""
    for file in files:
        if file.action in ("unchanged", "keep"):
            continue
        try:
            _write(file, user)
        except PermissionError as error:
            raise SettingError(
                f"{file.path} cannot be written: {error.strerror}.",
                "Run as root (sudo), or write into another folder: --root DIR.",
            ) from error


def next_commands(site: DeployedSite, workers: int = 2) -> list[str]:
    """What an operator runs after the installation."""
    owner = f"-o {shlex.quote(site.user)} -g {shlex.quote(site.group)}"
    folders = " ".join(shlex.quote(str(folder)) for folder in site.folders)
    enabled = [unit for unit, text in render_units(site).items() if "[Install]" in text]
    names = [
        unit.removesuffix(".service").replace("worker@", f"worker@{{1..{workers}}}")
        for unit in enabled
    ]
    return [
        f"sudo install -d {owner} {folders}",
        "sudo systemctl daemon-reload",
        f"sudo systemctl enable --now {' '.join(names)}",
        "systemctl list-units 'dsa110-*'",
    ]


def _systemd_version() -> int:
    """0 where there is none."""
    program = shutil.which("systemctl")
    if program is None:
        return 0
    answer = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=10, check=False
    ).stdout.split()
    return int(answer[1]) if answer[1:] and answer[1].isdecimal() else 0


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _plan_environment(path: Path, text: str) -> PlannedFile:
    if not os.path.lexists(path):
        return PlannedFile(path, text, _SECRET_MODE, "create")
    existing = read_installed(path)
    mode = path.stat().st_mode & 0o777
    missing = [name for name in VARIABLES if name not in existing]
    notes = [f"it does not know {', '.join(missing)} yet"] if missing else []
    if mode & 0o077:
        notes.append(f"others can read it: chmod 600 {shlex.quote(str(path))}")
    return PlannedFile(path, existing, _SECRET_MODE, "keep", "; ".join(notes))


def _plan_unit(path: Path, text: str) -> PlannedFile:
    if not os.path.lexists(path):
        return PlannedFile(path, text, _UNIT_MODE, "create")
    existing = read_installed(path)
    if existing == text:
        return PlannedFile(path, text, _UNIT_MODE, "unchanged")
    if not existing.startswith(MARK):
        raise SettingError(
            f"{path} is there and was not written by contimg deploy install.",
            "Move it away first, and put what it should change into a drop-in (systemctl edit).",
        )
    return PlannedFile(path, text, _UNIT_MODE, "replace")


def _write(file: PlannedFile, user: str) -> None:
    """Whole or not at all, and never readable for others in between."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    partial = file.path.with_name(f".{file.path.name}.partial")
    partial.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(partial, flags, file.mode)
    with failures_of(file.path), open(descriptor, "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), file.mode)
        if file.mode == _SECRET_MODE and os.geteuid() == 0:
            account = pwd.getpwnam(user)
            os.fchown(stream.fileno(), account.pw_uid, account.pw_gid)
        stream.write(file.text)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(partial, file.path)
