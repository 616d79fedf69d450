"""Settings from environment variables, a TOML file and the command line; the last one counts."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.config.refused_values import refusal_sentences, shown_value
from absurd_contimg.config.variables import from_environment
from absurd_contimg.errors import SettingError
from absurd_contimg.regular_files import parse_toml, read_toml
from absurd_contimg.secrets import (
    is_plain_path,
    remember_database,
    remember_environment,
    remember_registry,
    remember_secret,
)


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
    """None: see `execution.disk_marks.Watermarks`."""
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
    variables, origins = from_environment(environment)
    flat: dict[str, Any] = dict(_DEFAULT_PATHS) | variables
    for name, value in (overrides or {}).items():
        if value is not None:
            flat[name], origins[name] = value, "an option"
    config_file = flat.pop("config_file", None)
    pipeline = _read_file(config_file)
    in_file = set(_dotted_names(pipeline))
    for name in [name for name in flat if name.startswith("pipeline.")]:
        _assign(pipeline, name.removeprefix("pipeline."), flat.pop(name))
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise SettingError(
                f"{assignment[:80]!r} is no setting.", "Write it as section.name=value."
            )
        _assign(pipeline, name.strip(), _parse_value(value.strip()))
        origins[f"pipeline.{name.strip()}"] = "--set"

    def origin_of(name: str) -> str:
        origin = f"settings file {config_file}" if name in in_file else ""
        above = name.rpartition(".")[0]
        return origins.get(f"pipeline.{name}", origin) or (origin_of(above) if above else "")

    remember_database(flat.get("database_url") or "")
    for name in ("smtp_password", "webhook_url", "api_token"):
        remember_secret(flat.get(name, ""))
    _check_registry(flat.get("registry_url") or "")
    _check_webhook(flat.get("webhook_url", ""))
    paths = _paths(flat)
    config = _validated(pipeline, paths, origin_of)
    registry = flat.pop("registry_url", None) or str(paths.state_dir / "registry.sqlite3")
    flat.setdefault("worker_id", f"{_host_label(socket.gethostname())}:1")
    _check_numbers(flat, origins)
    settings = Settings(
        pipeline=config,
        catalog=paths.catalog,
        database_url=_checked_url(flat.pop("database_url", None), origins),
        registry_url=registry if "://" in registry else f"sqlite:///{Path(registry).absolute()}",
        **flat,
    )
    _check_queue_name(settings.queue_name)
    return settings


def _host_label(name: str) -> str:
    """The host's name as a part of a worker's: the kernel takes any bytes for it."""
    return re.sub(r"[^\w.-]", "-", name).lstrip(".") or "host"


_BOUNDS: Mapping[str, tuple[float, float]] = {
    "concurrency": (1, 1000),
    "claim_timeout_seconds": (1, 86_400),
    "transient_attempts": (1, 1000),
    "poll_interval_seconds": (0.001, 3600),
    "grace_seconds": (0, 86_400),
    "disk_warn_gb": (0, 1e9),
    "disk_critical_gb": (0, 1e9),
}
"""The least and the greatest value of a setting of the worker; more is a mistake: a thousand groups
at once, a lease of more than a day, an exabyte."""

QUEUE_BYTES_MAX = 57
"""Absurd makes names of tables from it."""


def _check_numbers(values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    for name, (least, greatest) in _BOUNDS.items():
        if not least <= (value := values.get(name, least)) <= greatest:  # nor is NaN
            origin = f" ({origins[name]})" if name in origins else ""
            raise SettingError(
                f"{name} is {shown_value(value)}{origin}: it must be a number, at least {least:g} "
                f"and at most {greatest:g}.",
            )


_REGISTRY_URL = re.compile(r"sqlite(\+\w+)?:///|postgres(ql)?(\+\w+)?://")


def _check_registry(text: str) -> None:
    """Refuse a misspelt URL: it would be made as a file whose name holds a password."""
    remember_registry(text)
    if text and not (_REGISTRY_URL.match(text) or is_plain_path(text)):
        raise SettingError(
            "PIPELINE_PRODUCTS_DB is neither a plain path nor a known URL (its text may hold a "
            "password and is not shown).",
            "Use a file's path, sqlite:///PATH, postgresql://USER@HOST/DATABASE or, of a service, "
            "postgresql:///?service=NAME.",
        )


def _check_webhook(url: str) -> None:
    """Refuse a URL to which nothing can be sent."""
    problem = ""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme not in ("https", "http"):
            problem = "it begins with neither https:// nor http://"
        elif not host or " " in host:
            problem = "it names no host"
        elif parts.port == 0:
            problem = "its port is 0"
        elif not url.isprintable():
            problem = "it has characters that cannot be printed"
        host.encode("idna")
    except UnicodeError:
        problem = "its host has a name that no host can have"
    except ValueError:
        problem = "its host or its port (1 to 65535) is malformed"
    if url and problem:
        raise SettingError(
            f"ABSURD_SLACK_WEBHOOK_URL is no URL of a webhook: {problem} (its text is secret and "
            "not shown).",
            "Write https://HOST/PATH or https://HOST:PORT/PATH.",
        )


def _check_queue_name(name: str) -> None:
    length = len(name.encode(errors="surrogateescape"))
    if not name.strip() or length > QUEUE_BYTES_MAX or not name.isprintable():
        raise SettingError(
            f"The queue's name {name!r} has {length} bytes, is empty or cannot be printed.",
            f"Set ABSURD_QUEUE_NAME or --queue to a name of 1 to {QUEUE_BYTES_MAX} bytes.",
        )


def _read_file(path: str | Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return read_toml(path)
    except OSError as error:
        raise SettingError(
            f"The settings file {path} cannot be read: {error.strerror}.",
            "Correct PIPELINE_CONFIG or --config.",
        ) from error
    except ValueError as error:
        raise SettingError(
            f"The settings file {path} is no valid TOML: {error}.", "Correct the named line."
        ) from error


def _dotted_names(tables: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name, value in tables.items():
        yield above + name
        if isinstance(value, dict):
            yield from _dotted_names(value, f"{above}{name}.")


def _assign(target: dict[str, Any], name: str, value: object) -> None:
    *sections, last = name.split(".")
    for number, part in enumerate(sections, 1):
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            above = ".".join(sections[:number])
            raise SettingError(
                f"{above} is {shown_value(target)}, so that there is no {name}.",
                "Write section.name=value.",
            )
    target[last] = value


def _parse_value(text: str) -> object:
    """A value as TOML writes it; bare words are strings."""
    try:
        return parse_toml(f"value = {text}".encode(errors="replace"))["value"]
    except ValueError:
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


def _validated(
    pipeline: dict[str, Any], paths: PathsConfig, origin_of: Callable[[str], str]
) -> PipelineConfig:
    if "paths" in pipeline:
        raise SettingError(
            "The settings file has a section paths.",
            "Give the folders as PIPELINE_INPUT_DIR, PIPELINE_OUTPUT_DIR, PIPELINE_SCRATCH_DIR, "
            "PIPELINE_STATE_DIR and PIPELINE_PUBLISH_DIR, or as options.",
        )
    try:
        return PipelineConfig.model_validate({**pipeline, "paths": paths})
    except ValidationError as error:
        raise SettingError(
            f"{refusal_sentences(error, PipelineConfig, origin_of)}.",
            "contimg settings lists all with their defaults.",
        ) from error


_DATABASE = re.compile(r"\s*(postgres(ql)?://|\w+\s*=)")
"""How a URL begins, or libpq's other form, as ``host=/socket user=u dbname=d``."""


def _checked_url(url: str | None, origins: Mapping[str, str]) -> str | None:
    if url is not None and url.encode(errors="ignore").decode() != url:
        raise SettingError("The database's URL has bytes that are no UTF-8.", "Write each as %XX.")
    if url and not _DATABASE.match(url):
        is_option = origins.get("database_url") == "an option"
        name = "--database-url" if is_option else "ABSURD_DATABASE_URL"
        raise SettingError(
            f"{name} is no URL of Postgres: it must begin with postgresql:// (its text may hold a "
            "password and is not shown).",
            "Write postgresql://USER@HOST:PORT/DATABASE.",
        )
    return url


def known_settings() -> dict[str, object]:
    """All pipeline settings by dotted name with their defaults."""
    defaults = PipelineConfig(paths=PathsConfig.below(Path("/"))).model_dump(exclude={"paths"})
    return {
        f"{section}.{name}": value
        for section, values in defaults.items()
        for name, value in values.items()
    }
