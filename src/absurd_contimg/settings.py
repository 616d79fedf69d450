"""Settings from environment variables, a TOML file and the command line; the last one counts.

The environment variables are those of the operations guide. An unknown one with a prefix of the
pipeline is refused, with its nearest name, because the previous system ignored misspelt variables
and ran for months without settings that its operators had made.
"""

from __future__ import annotations

import difflib
import math
import os
import socket
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.config.previous_variables import IGNORED_VARIABLES, REPLACED_VARIABLES
from absurd_contimg.errors import SettingError
from absurd_contimg.regular_files import SETTINGS_BYTES_MAX, read_regular
from absurd_contimg.secrets import (
    is_plain_path,
    remember_database,
    remember_environment,
    remember_registry,
    remember_secret,
)

_SECRET_BYTES_MAX = 4096
_PREFIXES = ("ABSURD_", "PIPELINE_", "CONTIMG_")


@dataclass(frozen=True, slots=True)
class _Variable:
    """One environment variable: the setting that it sets, and its meaning."""

    setting: str
    help: str
    parse: Callable[[str], Any] = str
    secret: bool = False
    """Its value is never shown."""


def _station(text: str) -> list[str]:
    """An antenna as the guide gives it (103) or by its name (DSA103)."""
    return [f"DSA{int(text):03d}" if text.isdecimal() else text]


def _shortage(text: str) -> str:
    if text == "park":  # the word of earlier versions
        return "wait"
    if text not in ("wait", "fail"):
        raise SettingError(f"CONTIMG_ON_SHORTAGE is {text!r}.", "It must be wait or fail.")
    return text


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise SettingError(f"A variable that is true or false is {text!r}.", "Write true or false.")
    return text.lower() in ("true", "1", "yes")


def _addresses(text: str) -> list[str]:
    return [address.strip() for address in text.split(",") if address.strip()]


def _secret_in(path: str) -> str:
    """The secret in a file, as systemd's LoadCredential gives it."""
    try:
        return read_regular(path, _SECRET_BYTES_MAX).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(
            f"The secret in {path} cannot be read: {error}.", "Check its path, owner and mode."
        ) from error


VARIABLES: Mapping[str, _Variable] = {
    "ABSURD_DATABASE_URL": _Variable(
        "database_url", "Postgres to use; without it an embedded server in the state folder"
    ),
    "ABSURD_QUEUE_NAME": _Variable("queue_name", "queue of the pipeline's tasks"),
    "ABSURD_WORKER_ID": _Variable("worker_id", "stable name of this worker"),
    "ABSURD_WORKER_CONCURRENCY": _Variable("concurrency", "groups a worker runs at once", int),
    "ABSURD_WORKER_POLL_INTERVAL": _Variable(
        "poll_interval_seconds", "seconds between polls", float
    ),
    "ABSURD_WORKER_CLAIM_TIMEOUT": _Variable("claim_timeout_seconds", "lease in seconds", int),
    "ABSURD_WORKER_GRACE": _Variable("grace_seconds", "seconds a stopping worker waits", float),
    "ABSURD_TASK_TIMEOUT": _Variable(
        "pipeline.execution.deadline_seconds", "seconds after which a stage is killed", float
    ),
    "ABSURD_MAX_RETRIES": _Variable(
        "transient_attempts", "attempts of a stage that fails with transient errors", int
    ),
    "CONTIMG_DISK_WARN_GB": _Variable(
        "disk_warn_gb",
        "free space below which a worker warns (100, at most 5 % of the disk)",
        float,
    ),
    "CONTIMG_DISK_CRITICAL_GB": _Variable(
        "disk_critical_gb", "free space below which it claims nothing (20, at most 2 %)", float
    ),
    "CONTIMG_ON_SHORTAGE": _Variable(
        "on_shortage", "wait or fail when the disk is full or memory is short", _shortage
    ),
    "CONTIMG_API_TOKEN": _Variable(
        "api_token", "token without which the API changes nothing; at least 16 characters"
    ),
    "CONTIMG_API_TOKEN_FILE": _Variable(
        "api_token_file", "file with that token, as systemd's LoadCredential makes it", Path
    ),
    "PIPELINE_INPUT_DIR": _Variable("input_dir", "where sub-band files arrive"),
    "PIPELINE_OUTPUT_DIR": _Variable("output_dir", "where products go"),
    "PIPELINE_SCRATCH_DIR": _Variable("scratch_dir", "working files, on the output's file system"),
    "PIPELINE_PUBLISH_DIR": _Variable(
        "publish_dir", "where mosaics are published; default: published, in the output folder"
    ),
    "PIPELINE_STATE_DIR": _Variable("state_dir", "logs, registry, embedded server"),
    "PIPELINE_PRODUCTS_DB": _Variable("registry_url", "registry: a SQLite file or a URL"),
    "PIPELINE_CONFIG": _Variable("config_file", "TOML file with pipeline settings"),
    "PIPELINE_CATALOG": _Variable("catalog", "sky catalogue (CSV)"),
    "PIPELINE_DEFAULT_REFANT": _Variable(
        "pipeline.calibration.reference_antennas", "preferred reference antenna", _station
    ),
    "PIPELINE_CAL_BP_MINSNR": _Variable(
        "pipeline.calibration.minsnr", "solutions below this are flagged", float
    ),
    "PIPELINE_WPROJPLANES": _Variable(
        "pipeline.imaging.w_planes", "planes of the w-projection", int
    ),
    "ABSURD_ALERT_EMAIL_TO": _Variable(
        "pipeline.alerts.email_to", "addresses for alerts, with commas between them", _addresses
    ),
    "ABSURD_SMTP_HOST": _Variable("pipeline.alerts.smtp_host", "mail server for alerts"),
    "ABSURD_SMTP_PORT": _Variable("pipeline.alerts.smtp_port", "its port", int),
    "ABSURD_SMTP_USER": _Variable("pipeline.alerts.smtp_user", "its user"),
    "ABSURD_SMTP_FROM": _Variable("pipeline.alerts.email_from", "sender of alerts"),
    "ABSURD_SMTP_USE_TLS": _Variable("pipeline.alerts.smtp_tls", "true: encrypted", _flag),
    "ABSURD_SMTP_PASSWORD": _Variable("smtp_password", "password of that user", secret=True),
    "ABSURD_SMTP_PASSWORD_FILE": _Variable(
        "smtp_password", "or a file that has the password", _secret_in, secret=True
    ),
    "ABSURD_SLACK_WEBHOOK_URL": _Variable(
        "webhook_url", "where alerts are posted as JSON, for Slack or another program", secret=True
    ),
    "ABSURD_SLACK_WEBHOOK_URL_FILE": _Variable(
        "webhook_url", "or a file that has this URL", _secret_in, secret=True
    ),
}
"""All environment variables that are read, in the order of ``contimg settings``."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a command: pipeline, database, worker."""

    pipeline: PipelineConfig
    catalog: Path | None
    database_url: str | None
    """None: the embedded server in the state folder."""
    registry_url: str
    queue_name: str = "dsa110-pipeline"
    worker_id: str = ""
    concurrency: int = 1
    poll_interval_seconds: float = 1.0
    claim_timeout_seconds: int = 60
    grace_seconds: float = 10.0
    transient_attempts: int = 3
    disk_warn_gb: float | None = None
    """None: see `operations.services.disk_guard.Watermarks`."""
    disk_critical_gb: float | None = None
    on_shortage: str = "wait"
    """``wait`` or ``fail``: what a stage does when the disk is full or memory is short."""
    api_token: str | None = field(default=None, repr=False)
    api_token_file: Path | None = None
    smtp_password: str = field(default="", repr=False)
    webhook_url: str = field(default="", repr=False)
    """It holds a token; empty: alerts are not posted."""

    @property
    def embedded_folder(self) -> Path:
        """The folder of the embedded server, if it is used."""
        return self.pipeline.paths.state_dir / "postgres"


_DEFAULT_PATHS = {
    "input_dir": "/data/incoming",
    "output_dir": "/stage/dsa110-contimg",
}
"""As in the operations guide."""


def load_settings(
    overrides: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The settings from environment, file and command line; raises `SettingError`.

    `overrides` are options of the command line by name (None is not given), `assignments` are
    pipeline settings in the form ``imaging.niter=500``.
    """
    environment = os.environ if environment is None else environment
    remember_environment(environment)
    flat: dict[str, Any] = dict(_DEFAULT_PATHS) | _from_environment(environment)
    flat |= {name: value for name, value in (overrides or {}).items() if value is not None}
    pipeline = _read_file(flat.pop("config_file", None))
    for name in [name for name in flat if name.startswith("pipeline.")]:
        _assign(pipeline, name.removeprefix("pipeline.").split("."), flat.pop(name))
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise SettingError(f"{assignment!r} is no setting.", "Write it as section.name=value.")
        _assign(pipeline, name.strip().split("."), _parse_value(value.strip()))
    remember_database(flat.get("database_url") or "")
    for name in ("smtp_password", "webhook_url", "api_token"):
        remember_secret(flat.get(name, ""))
    _check_registry(flat.get("registry_url") or "")
    paths = _paths(flat)
    config = _validated(pipeline, paths)
    registry = flat.pop("registry_url", None) or str(paths.state_dir / "registry.sqlite3")
    flat.setdefault("worker_id", f"{socket.gethostname()}:1")
    _check_numbers(flat)
    settings = Settings(
        pipeline=config,
        catalog=paths.catalog,
        database_url=_as_utf8(flat.pop("database_url", None)),
        registry_url=registry if "://" in registry else f"sqlite:///{Path(registry).absolute()}",
        **flat,
    )
    _check_queue_name(settings.queue_name)
    return settings


_LEAST: Mapping[str, float] = {
    "concurrency": 1,
    "claim_timeout_seconds": 1,
    "transient_attempts": 1,
    "poll_interval_seconds": 0.001,
    "grace_seconds": 0,
    "disk_warn_gb": 0,
    "disk_critical_gb": 0,
}
"""The least value of a setting of the worker."""
_GREATEST: Mapping[str, float] = {
    "concurrency": 1000,
    "claim_timeout_seconds": 86_400,
    "transient_attempts": 1000,
    "poll_interval_seconds": 3600,
    "grace_seconds": 86_400,
    "disk_warn_gb": 1e9,
    "disk_critical_gb": 1e9,
}
"""More is a mistake: a thousand groups at once, a lease of more than a day, an exabyte."""

QUEUE_BYTES_MAX = 57
"""Absurd makes names of tables from it."""


def _check_numbers(values: Mapping[str, Any]) -> None:
    for name, least in _LEAST.items():
        value = values.get(name, least)
        if not least <= value < math.inf:
            raise SettingError(f"{name} is {value}.", f"It must be a number of at least {least:g}.")
        if value > (greatest := _GREATEST.get(name, math.inf)):
            raise SettingError(f"{name} is {value}.", f"It must be at most {greatest:g}.")


def _check_registry(text: str) -> None:
    """Refuse a misspelt URL: it would be made as a file whose name holds a password."""
    remember_registry(text)
    if text and "://" not in text and not is_plain_path(text):
        raise SettingError(
            "PIPELINE_PRODUCTS_DB is neither a plain path nor a known URL (its text may hold a "
            "password and is not shown).",
            "Use a file's path, sqlite:///PATH or postgresql://USER@HOST/DATABASE.",
        )


def _check_queue_name(name: str) -> None:
    length = len(name.encode(errors="surrogateescape"))
    if not name.strip() or length > QUEUE_BYTES_MAX or not name.isprintable():
        raise SettingError(
            f"The queue's name {name!r} has {length} bytes, is empty or cannot be printed.",
            f"Set ABSURD_QUEUE_NAME or --queue to a name of 1 to {QUEUE_BYTES_MAX} bytes.",
        )


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, text in environment.items():
        if not name.startswith(_PREFIXES) or name in IGNORED_VARIABLES or text == "":
            continue
        variable = VARIABLES.get(name)
        if variable is None:
            near = difflib.get_close_matches(name, VARIABLES, n=1)
            hint = f"Did you mean {near[0]}?" if near else "contimg settings lists all."
            hint = REPLACED_VARIABLES.get(name, hint)
            raise SettingError(f"The environment variable {name} is unknown.", hint)
        try:
            settings[variable.setting] = variable.parse(text)
        except ValueError as error:
            raise SettingError(
                f"The environment variable {name} has the value {text!r}, which is no number.",
                f"It is for: {variable.help}.",
            ) from error
    return settings


def _read_file(path: str | Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(read_regular(path, SETTINGS_BYTES_MAX).decode())
    except OSError as error:
        raise SettingError(
            f"The settings file {path} cannot be read: {error.strerror}.",
            "Correct PIPELINE_CONFIG or --config.",
        ) from error
    except (ValueError, RecursionError) as error:  # long numbers are no TOMLDecodeError
        raise SettingError(
            f"The settings file {path} is no valid TOML: {error}.", "Correct the named line."
        ) from error


def _assign(target: dict[str, Any], path: Sequence[str], value: object) -> None:
    for part in path[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise SettingError(f"{'.'.join(path)} is no setting.", "Write section.name=value.")
    target[path[-1]] = value


def _parse_value(text: str) -> object:
    """A value as TOML writes it; bare words are strings."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # long numbers are no TOMLDecodeError
        return text


def _paths(flat: dict[str, Any]) -> PathsConfig:
    output_dir = Path(flat.pop("output_dir")).absolute()
    names = ("scratch_dir", "state_dir", "publish_dir")
    given = {name: flat.pop(name, None) for name in names}
    catalog = flat.pop("catalog", None)
    return PathsConfig(
        input_dir=Path(flat.pop("input_dir")).absolute(),
        output_dir=output_dir,
        scratch_dir=Path(given["scratch_dir"] or output_dir / "scratch").absolute(),
        state_dir=Path(given["state_dir"] or output_dir / "state").absolute(),
        publish_dir=None if not given["publish_dir"] else Path(given["publish_dir"]).absolute(),
        catalog=None if catalog is None else Path(catalog).absolute(),
    )


def _validated(pipeline: dict[str, Any], paths: PathsConfig) -> PipelineConfig:
    if "paths" in pipeline:
        raise SettingError(
            "The settings file has a section paths.",
            "Give the folders as PIPELINE_INPUT_DIR, PIPELINE_OUTPUT_DIR, PIPELINE_SCRATCH_DIR, "
            "PIPELINE_STATE_DIR and PIPELINE_PUBLISH_DIR, or as options.",
        )
    try:
        return PipelineConfig.model_validate({**pipeline, "paths": paths})
    except ValidationError as error:
        problems = "; ".join(map(_explain, error.errors()))
        raise SettingError(
            f"Settings of the pipeline are not valid: {problems}.",
            "contimg settings lists all with their defaults.",
        ) from error


def _as_utf8(url: str | None) -> str | None:
    if url is not None and url.encode(errors="ignore").decode() != url:
        raise SettingError("The database's URL has bytes that are no UTF-8.", "Write each as %XX.")
    return url


def _explain(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        return f"{name} = {problem['input']!r:.300}: {problem['msg']:.300}"
    near = difflib.get_close_matches(name, known_settings(), n=1)
    return f"{name} is unknown" + (f" (did you mean {near[0]}?)" if near else "")


def known_settings() -> dict[str, object]:
    """All pipeline settings by dotted name with their defaults."""
    defaults = PipelineConfig(paths=PathsConfig.below(Path("/"))).model_dump(exclude={"paths"})
    return {
        f"{section}.{name}": value
        for section, values in defaults.items()
        for name, value in values.items()
    }
