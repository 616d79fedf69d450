"""The environment file of a site: every variable, with its meaning."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from absurd_contimg.config.previous_variables import IGNORED_VARIABLES, REPLACED_VARIABLES
from absurd_contimg.config.variables import VARIABLES
from absurd_contimg.errors import SettingError
from absurd_contimg.regular_files import SETTINGS_BYTES_MAX, read_regular
from absurd_contimg.settings import Settings

_HEAD = """\
# The settings of the services of DSA-110 continuum imaging on this host.
# contimg deploy install never changes this file. After an edit: contimg deploy install (it takes
# folders and stop times from here), systemctl daemon-reload, and restart the services.
# For a shell: set -a; . THIS_FILE; set +a
# It may hold passwords: keep it at mode 0600.
"""


def read_installed(path: Path) -> str:
    """The text of a file that is there already; `SettingError` for what is no file of settings."""
    try:
        return read_regular(path, SETTINGS_BYTES_MAX).decode(errors="replace")
    except PermissionError as error:
        raise SettingError(f"{path} cannot be read.", "Run as root (sudo).") from error
    except OSError as error:
        raise SettingError(
            f"{path} cannot be read: {error.strerror}.", "Move away what is there."
        ) from error


def read_environment_file(path: Path) -> dict[str, str]:
    """The variables that a file sets, as systemd and a shell both read them; none without it."""
    if not path.exists():
        return {}
    variables = {}
    for line in read_installed(path).splitlines():
        name, separator, value = line.strip().partition("=")
        if not separator or name.startswith(("#", ";")):
            continue
        if value[:1] == value[-1:] == '"' and len(value) > 1:
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        elif value[:1] == value[-1:] == "'" and len(value) > 1:
            value = value[1:-1]
        variables[name] = value
    return variables


def environment_file(settings: Settings, environment: Mapping[str, str]) -> str:
    """The file with these settings: folders, and what the environment sets.

    All other variables are in it as comments.
    """
    paths = settings.pipeline.paths
    given: Mapping[str, object] = {
        "PIPELINE_INPUT_DIR": paths.input_dir,
        "PIPELINE_OUTPUT_DIR": paths.output_dir,
        "PIPELINE_SCRATCH_DIR": paths.scratch_dir,
        "PIPELINE_STATE_DIR": paths.state_dir,
        "PIPELINE_PUBLISH_DIR": paths.publish_dir,
        "PIPELINE_CATALOG": settings.catalog,
        "ABSURD_QUEUE_NAME": settings.queue_name,
        "ABSURD_WORKER_GRACE": f"{settings.grace_seconds:g}",
    }
    blocks = [_HEAD]
    for name, variable in VARIABLES.items():
        value = given.get(name, environment.get(name) or None)
        line = f"#{name}=" if value is None else f"{name}={_quoted(str(value))}"
        if name == "ABSURD_WORKER_ID":
            line = f"# {name} is set by the units: worker-1, worker-2, ..."
        help_text = variable.help[0].upper() + variable.help[1:]
        blocks.append(f"{_comment(f'{help_text}.')}\n{line}\n")
    blocks.append(
        _comment("Variables of the previous system that have no meaning here; they may stay:")
        + "".join(f"\n#   {name}" for name in sorted(IGNORED_VARIABLES))
        + "\n"
    )
    blocks.append(
        _comment("Variables of the previous system that are refused; others take their place:")
        + "".join(f"\n#   {name}: {why}" for name, why in sorted(REPLACED_VARIABLES.items()))
        + "\n"
    )
    return "\n".join(blocks)


def _comment(text: str) -> str:
    return textwrap.fill(text, 98, initial_indent="# ", subsequent_indent="# ")


def _quoted(value: str) -> str:
    """As systemd and a shell both read it."""
    if not value.isprintable():
        raise SettingError(
            f"{value!r} cannot stand in an environment file.", "Use a folder with a plain name."
        )
    if value.replace("/", "").replace("-", "").replace("_", "").replace(".", "").isalnum():
        return value
    return '"' + "".join(f"\\{c}" if c in '"\\`$' else c for c in value) + '"'
