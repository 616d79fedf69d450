"""The environment variables of the operations guide: what each sets, and how its text is read.

An unknown one with a prefix of the pipeline is refused, with its nearest name, because the previous
system ignored misspelt variables and ran for months without settings that its operators had made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from absurd_contimg.config.previous_variables import IGNORED_VARIABLES, REPLACED_VARIABLES
from absurd_contimg.config.refused_values import shown_value
from absurd_contimg.errors import SettingError
from absurd_contimg.regular_files import read_regular
from absurd_contimg.similar_names import did_you_mean

_SECRET_BYTES_MAX = 4096
_PREFIXES = ("ABSURD_", "PIPELINE_", "CONTIMG_")


@dataclass(frozen=True, slots=True)
class Variable:
    """One environment variable: the setting that it sets, and its meaning."""

    setting: str
    help: str
    parse: Callable[[str], Any] = str
    secret: bool = False
    """Its value is never shown."""


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # whose text would have thousands of digits
        raise ValueError("a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number") from None


def _station(text: str) -> list[str]:
    """An antenna as the guide gives it (103) or by its name (DSA103)."""
    return [f"DSA{int(text):03d}" if text.isdecimal() else text]


def _shortage(text: str) -> str:
    if text == "park":  # the word of earlier versions
        return "wait"
    if text not in ("wait", "fail"):
        raise ValueError("wait or fail")
    return text


def other_folder(name: str) -> str:
    """What to do about a folder, by its setting's name: which options count, with or without
    ``--folder``."""
    return (
        f"Give another folder by --{name.replace('_', '-')}, which counts beside --folder too, or "
        f"without --folder by PIPELINE_{name.upper()}."
    )


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError("true or false")
    return text.lower() in ("true", "1", "yes")


def _addresses(text: str) -> list[str]:
    return [address.strip() for address in text.split(",") if address.strip()]


def _secret_in(path: str) -> str:
    """The secret in a file, as systemd's LoadCredential gives it."""
    try:
        return read_regular(path, _SECRET_BYTES_MAX).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"a file that can be read as text ({error})") from error


VARIABLES: Mapping[str, Variable] = {
    "ABSURD_DATABASE_URL": Variable(
        "database_url", "Postgres to use; without it an embedded server in the state folder"
    ),
    "ABSURD_QUEUE_NAME": Variable(
        "queue_name", "queue of the pipeline's tasks; default: dsa110-pipeline"
    ),
    "ABSURD_WORKER_ID": Variable("worker_id", "stable name of this worker"),
    "ABSURD_WORKER_CONCURRENCY": Variable("concurrency", "groups a worker runs at once", _whole),
    "ABSURD_WORKER_POLL_INTERVAL": Variable(
        "poll_interval_seconds", "seconds between polls", _number
    ),
    "ABSURD_WORKER_CLAIM_TIMEOUT": Variable("claim_timeout_seconds", "lease in seconds", _whole),
    "ABSURD_WORKER_GRACE": Variable("grace_seconds", "seconds a stopping worker waits", _number),
    "ABSURD_TASK_TIMEOUT": Variable(
        "pipeline.execution.deadline_seconds", "seconds after which a stage is killed", _number
    ),
    "ABSURD_MAX_RETRIES": Variable(
        "transient_attempts", "attempts of a stage that fails with transient errors", _whole
    ),
    "CONTIMG_DISK_WARN_GB": Variable(
        "disk_warn_gb",
        "free space in GB below which a worker warns (100, at most 5 % of the disk)",
        _number,
    ),
    "CONTIMG_DISK_CRITICAL_GB": Variable(
        "disk_critical_gb",
        "free space in GB below which it claims nothing (20, at most 2 %)",
        _number,
    ),
    "CONTIMG_ON_SHORTAGE": Variable(
        "on_shortage", "wait or fail when the disk is full or memory is short", _shortage
    ),
    "CONTIMG_API_TOKEN": Variable(
        "api_token", "token without which the API changes nothing; at least 16 characters"
    ),
    "CONTIMG_API_TOKEN_FILE": Variable(
        "api_token_file", "file with that token, as systemd's LoadCredential makes it", Path
    ),
    "PIPELINE_INPUT_DIR": Variable(
        "input_dir", "where sub-band files arrive; default: /data/incoming"
    ),
    "PIPELINE_OUTPUT_DIR": Variable(
        "output_dir", "where products go; default: /stage/dsa110-contimg"
    ),
    "PIPELINE_SCRATCH_DIR": Variable(
        "scratch_dir",
        "working files, on the output's file system; default: scratch, in the output folder",
    ),
    "PIPELINE_PUBLISH_DIR": Variable(
        "publish_dir", "where mosaics are published; default: published, in the output folder"
    ),
    "PIPELINE_STATE_DIR": Variable(
        "state_dir", "logs, registry, embedded server; default: state, in the output folder"
    ),
    "PIPELINE_PRODUCTS_DB": Variable(
        "registry_url",
        "registry: a SQLite file or a URL; default: registry.sqlite3, in the state folder",
    ),
    "PIPELINE_CONFIG": Variable("config_file", "TOML file with pipeline settings"),
    "PIPELINE_CATALOG": Variable(
        "catalog", "sky catalogue (CSV); default: catalog.csv, in the input folder"
    ),
    "PIPELINE_DEFAULT_REFANT": Variable(
        "pipeline.calibration.reference_antennas", "preferred reference antenna", _station
    ),
    "PIPELINE_CAL_BP_MINSNR": Variable(
        "pipeline.calibration.minsnr", "solutions below this are flagged", _number
    ),
    "PIPELINE_WPROJPLANES": Variable(
        "pipeline.imaging.w_planes", "planes of the w-projection", _whole
    ),
    "ABSURD_ALERT_EMAIL_TO": Variable(
        "pipeline.alerts.email_to", "addresses for alerts, with commas between them", _addresses
    ),
    "ABSURD_SMTP_HOST": Variable("pipeline.alerts.smtp_host", "mail server for alerts"),
    "ABSURD_SMTP_PORT": Variable("pipeline.alerts.smtp_port", "its port", _whole),
    "ABSURD_SMTP_USER": Variable("pipeline.alerts.smtp_user", "its user"),
    "ABSURD_SMTP_FROM": Variable("pipeline.alerts.email_from", "sender of alerts"),
    "ABSURD_SMTP_USE_TLS": Variable("pipeline.alerts.smtp_tls", "true: encrypted", _flag),
    "ABSURD_SMTP_PASSWORD": Variable("smtp_password", "password of that user", secret=True),
    "ABSURD_SMTP_PASSWORD_FILE": Variable(
        "smtp_password", "or a file that has the password", _secret_in, secret=True
    ),
    "ABSURD_SLACK_WEBHOOK_URL": Variable(
        "webhook_url", "where alerts are posted as JSON, for Slack or another program", secret=True
    ),
    "ABSURD_SLACK_WEBHOOK_URL_FILE": Variable(
        "webhook_url", "or a file that has this URL", _secret_in, secret=True
    ),
}
"""All environment variables that are read, in the order of ``contimg settings``."""


def from_environment(environment: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings by name, and the variable of each."""
    settings: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, text in environment.items():
        if not name.startswith(_PREFIXES) or name in IGNORED_VARIABLES or text == "":
            continue
        variable = VARIABLES.get(name)
        if variable is None:
            hint = did_you_mean(name, VARIABLES, "contimg settings lists all.")
            hint = REPLACED_VARIABLES.get(name, hint)
            raise SettingError(f"The environment variable {name} is unknown.", hint)
        if not variable.secret:
            _check_expanded(name, text)
        try:
            settings[variable.setting] = variable.parse(text)
        except ValueError as error:
            raise SettingError(
                f"The environment variable {name} is {shown_value(text)}: it must be {error}.",
                f"It is for: {variable.help}.",
            ) from error
        origins[variable.setting] = f"environment variable {name}"
    return settings, origins


def _check_expanded(name: str, text: str) -> None:
    """Refuse what a shell would have replaced: it would be a part of a name or of a path."""
    if text[0] in "'\"" and text[-1] == text[0]:
        raise SettingError(
            f"The environment variable {name} has quotation marks round its value.",
            "Write it without them: docker's --env-file, for one, takes them as a part of it.",
        )
    if re.match(r"~(/|$)|\$\{?\w", text):
        raise SettingError(
            f"The environment variable {name} begins with {text[0]}, which nothing has replaced.",
            "Write the whole value: only a shell knows ~ and $NAME. A folder that is called so is "
            f"./{text[0]}...",
        )
