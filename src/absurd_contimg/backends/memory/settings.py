"""Settings of a session: which there are, what they may be, how they are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.values.zones import DEFAULT as DEFAULT_ZONE
from absurd_contimg.backends.memory.values.zones import zone_setting

READ_ONLY = "transaction_read_only"
DEFERRABLE = "transaction_deferrable"
ISOLATION = "transaction_isolation"
OF_TRANSACTION = (READ_ONLY, DEFERRABLE, ISOLATION)
"""Set anew from ``default_...`` when a transaction begins, and never reset."""

Mode = tuple[str, str]
"""The name of such a setting and its value."""

DEFAULTS: Mapping[str, str] = {
    "timezone": DEFAULT_ZONE,
    "lock_timeout": "0",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
    "search_path": '"$user", public',
    "application_name": "",
    "client_encoding": "UTF8",
    "server_encoding": "UTF8",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
    "standard_conforming_strings": "on",
    "server_version": "18.6",
    "server_version_num": "180006",
    "transaction_isolation": "read committed",
    "default_transaction_isolation": "read committed",
    "transaction_read_only": "off",
    "default_transaction_read_only": "off",
    "transaction_deferrable": "off",
    "default_transaction_deferrable": "off",
    "client_min_messages": "notice",
    "synchronous_commit": "on",
    "extra_float_digits": "1",
    "jit": "on",
    "max_identifier_length": "63",
    "in_hot_standby": "off",
    "is_superuser": "on",
    "session_authorization": "postgres",
    "integer_datetimes": "on",
    "row_security": "on",
    "work_mem": "4MB",
    "deadlock_timeout": "1s",
}
"""Settings that every session knows, by lower-case name."""

_FIXED = ("server_version", "server_version_num", "server_encoding", "in_hot_standby")
_BOOLEAN = frozenset(
    {"standard_conforming_strings", "jit", "row_security", READ_ONLY, DEFERRABLE}
    | {f"default_{READ_ONLY}", f"default_{DEFERRABLE}"}
)
_LEVELS = ("debug5", "debug4", "debug3", "debug2", "debug1", "log", "notice", "warning", "error")
_CUSTOM = re.compile(r"[A-Za-z_\x80-\U0010ffff][\w$]*(\.[A-Za-z_\x80-\U0010ffff][\w$]*)+\Z")
_DURATION = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(\S*)\s*\Z", re.IGNORECASE)
_UNIT_MS = {"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6, "d": 8.64e7}
_INT_MAX = 2**31 - 1


def checked(name: str, value: str | None) -> str | None:
    """The value as ``show`` gives it, None for the default; refuses as Postgres does."""
    key = name.lower()
    if "." not in key and key not in DEFAULTS:
        raise EngineError("42704", f'unrecognized configuration parameter "{name}"')
    if "." in key and _CUSTOM.match(name) is None:
        raise EngineError(
            "42602",
            f'invalid configuration parameter name "{name}"',
            detail="Custom parameter names must be two or more simple identifiers separated by "
            "dots.",
        )
    if value is None:
        if key in OF_TRANSACTION:
            raise EngineError("0A000", f'parameter "{key}" cannot be reset')
        return None
    if key == "timezone":
        return zone_setting(value)
    if key.endswith("_timeout"):
        return _duration(key, value)
    if key in _FIXED:
        raise EngineError("55P02", f'parameter "{name}" cannot be changed')
    if key in _BOOLEAN:
        return _boolean(key, value)
    if key == "client_min_messages" and value.lower() not in _LEVELS:
        raise _invalid(key, value, f"Available values: {', '.join(_LEVELS)}.")
    if key.endswith(ISOLATION) and value.lower() in ("serializable", "repeatable read"):
        raise EngineError("0A000", f"the in-memory Absurd only has read committed, not: {value}")
    return value


def _invalid(key: str, value: str, hint: str | None = None) -> EngineError:
    return EngineError("22023", f'invalid value for parameter "{key}": "{value}"', hint=hint)


def _boolean(key: str, value: str) -> str:
    word = value.lower()
    for shown, words in (("on", ("true", "yes", "1")), ("off", ("false", "no", "0"))):
        if word and any(full.startswith(word) for full in words):
            return shown
    if word in ("on", "of", "off"):
        return "on" if word == "on" else "off"
    raise EngineError("22023", f'parameter "{key}" requires a Boolean value')


def _duration(key: str, value: str) -> str:
    match = _DURATION.match(value)
    if match is None:
        raise _invalid(key, value)
    if match[2] not in _UNIT_MS:
        units = 'Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".'
        raise _invalid(key, value, units)
    ms = round(float(match[1]) * _UNIT_MS[match[2]])
    if abs(ms) > _INT_MAX:
        raise _invalid(key, value, "Value exceeds integer range.")
    if ms < 0:
        raise EngineError(
            "22023",
            f'{ms} ms is outside the valid range for parameter "{key}" (0 ms .. {_INT_MAX} ms)',
        )
    return _shown_duration(ms)


def duration_seconds(text: str) -> float:
    """What a checked duration says, in seconds."""
    match = _DURATION.match(text)
    return 0.0 if match is None else float(match[1]) * _UNIT_MS[match[2]] / 1000


def _shown_duration(ms: int) -> str:
    """A duration in the largest unit that holds it whole, as ``show`` prints it."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if ms and ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms" if ms else "0"
