"""The units of systemd, rendered for one host. The files in ``units`` are their text."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from absurd_contimg.errors import SettingError
from absurd_contimg.settings import Settings

MARK = "# Written by contimg deploy install. Changes belong into drop-ins: systemctl edit UNIT"
"""The first line of every unit of ours: no other file is overwritten."""

_HAND_BACK_SECONDS = 35.0
"""How long a stopping worker may take after its grace period: 30 s for a stage to end, 5 s to
release its run (`core.lease`, `core.worker`)."""
_SPARE_SECONDS = 30.0
_WORKERS_MEMORY_SHARE = 0.8
"""Of the memory of the host, for all its workers together."""
_HIGH_SHARE = 0.9
"""Above this share of its limit, a worker is slowed down before it is killed."""


@dataclass(frozen=True, slots=True)
class DeployedSite:
    """What the units of a site name on this host."""

    program: Sequence[str]
    """The command line of contimg, without arguments."""
    user: str
    group: str
    environment_file: Path
    folders: Sequence[Path]
    """Whose file systems must be mounted."""
    state_dir: Path
    grace_seconds: float
    workers: int
    """How many share the memory of this host."""
    memory_bytes: float
    credentials: Sequence[tuple[str, str, Path]] = ()
    """Secrets that systemd hands over: the variable that names the file, credential, file."""


def this_site(
    settings: Settings,
    environment_file: Path,
    user: str | None = None,
    workers: int = 4,
    credentials: Sequence[tuple[str, str, Path]] = (),
) -> DeployedSite:
    """The site of these settings on this host; `SettingError` for an unknown user."""
    account = _account(user)
    paths = settings.pipeline.paths
    return DeployedSite(
        program=_program(),
        user=account.pw_name,
        group=grp.getgrgid(account.pw_gid).gr_name,
        environment_file=environment_file,
        folders=tuple(
            dict.fromkeys(
                (
                    paths.input_dir,
                    paths.output_dir,
                    paths.scratch_dir,
                    paths.state_dir,
                    paths.published,
                )
            )
        ),
        state_dir=paths.state_dir,
        grace_seconds=settings.grace_seconds,
        workers=workers,
        memory_bytes=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        credentials=credentials,
    )


def worker_stop_seconds(grace_seconds: float) -> int:
    """``TimeoutStopSec`` of a worker: after it, systemd kills what has not ended."""
    return round(grace_seconds + _HAND_BACK_SECONDS + _SPARE_SECONDS)


def render_units(site: DeployedSite) -> dict[str, str]:
    """The text of each unit by its file's name."""
    memory_max = site.memory_bytes * _WORKERS_MEMORY_SHARE / site.workers
    values = {
        "PROGRAM": " ".join(_argument(word) for word in site.program),
        "USER": _plain(site.user),
        "GROUP": _plain(site.group),
        "ENVIRONMENT_FILE": _plain(str(site.environment_file)),
        "FOLDERS": " ".join(_path(folder) for folder in site.folders),
        "STATE_DIR": _path(site.state_dir),
        "WORKER_STOP_SECONDS": str(worker_stop_seconds(site.grace_seconds)),
        "WORKER_MEMORY_MAX": f"{memory_max / 2**20:.0f}M",
        "WORKER_MEMORY_HIGH": f"{memory_max * _HIGH_SHARE / 2**20:.0f}M",
        "CREDENTIALS": "\n".join(
            f"LoadCredential={name}:{_plain(str(file))}\nEnvironment={variable}=%d/{name}"
            for variable, name, file in site.credentials
        )
        or "# Secrets are in the environment file, or in files that its _FILE variables name.",
    }
    units = {}
    for file in sorted(resources.files(__package__).joinpath("units").iterdir(), key=str):
        text = f"{MARK}\n{file.read_text(encoding='utf-8')}"
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        units[file.name] = text
    return units


def _account(user: str | None) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(os.geteuid()) if user is None else pwd.getpwnam(user)
    except KeyError as error:
        raise SettingError(
            f"There is no user {user or os.geteuid()} on this host.",
            f"Create it: sudo useradd --system --create-home {user or 'NAME'}; "
            "or give another one with --user.",
        ) from error


def _program() -> tuple[str, ...]:
    beside = Path(sys.executable).with_name("contimg")
    program = str(beside) if beside.exists() else shutil.which("contimg")
    return (program,) if program else (sys.executable, "-m", "absurd_contimg.operations")


def _plain(text: str) -> str:
    """A value that takes the whole line; ``%`` begins a specifier."""
    if not text.isprintable():
        raise SettingError(f"{text!r} cannot stand in a unit of systemd.", "Use another name.")
    return text.replace("%", "%%")


def _path(path: Path) -> str:
    """A path in a list of paths."""
    text = _plain(str(path)).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if set(text) & set(" \"'\\") else text


def _argument(word: str) -> str:
    """A word of a command line, where ``$`` begins a variable."""
    return _path(Path(word.replace("$", "$$"))) if "/" in word else word
