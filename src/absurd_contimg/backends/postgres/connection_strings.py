"""Connection strings: the one place that reads them, by libpq's rules.

A URL or libpq's other form, as ``host=/socket dbname=d``, may name several hosts and ports, or a
service of a file that only libpq reads.
"""

from __future__ import annotations

import re
from itertools import zip_longest

import psycopg
from psycopg.conninfo import conninfo_to_dict

from absurd_contimg.errors import SettingError
from absurd_contimg.secrets import known_parameters, may_show_parameter
from absurd_contimg.similar_names import did_you_mean

DATABASE_SETTING = "ABSURD_DATABASE_URL (--database-url)"
_DRIVER = re.compile(r"(postgres(?:ql)?)\+psycopg(?=://)")
"""SQLAlchemy's way to name psycopg, which libpq does not know."""
_DEFAULT_PORT = "5432"
_PORT_MAX = 65_535
_UNKNOWN = re.compile(r'invalid (?:URI query parameter|connection option):? "(.*)"')


def connection_options(text: str, setting: str = DATABASE_SETTING) -> dict[str, str]:
    """libpq's options in a connection string; raises `SettingError` for one that is malformed."""
    try:
        options = conninfo_to_dict(_DRIVER.sub(r"\1", text.strip()))
    except psycopg.ProgrammingError as error:
        raise _malformed(text, setting, str(error)) from None  # the cause quotes the text
    except UnicodeDecodeError:
        raise _malformed(text, setting, "it has bytes that are no UTF-8") from None
    given = {name: str(value) for name, value in options.items() if value is not None}
    _check_ports(text, setting, given)
    return given


def place_of(text: str, setting: str = DATABASE_SETTING) -> tuple[str, str]:
    """Where a connection string leads: its hosts with their ports, or its service; the database."""
    options = connection_options(text, setting)
    database = options.get("dbname", "")
    names = options.get("host") or options.get("hostaddr")
    if names:
        ports = options.get("port", "").split(",")
        pairs = zip_longest(names.split(","), ports, fillvalue=ports[0])
        known = ((name if "/" in name else name.lower(), port) for name, port in pairs)
        return ",".join(f"{name}:{port or _DEFAULT_PORT}" for name, port in known), database
    if service := options.get("service"):
        return f"service {service}", database
    return f"local server:{options.get('port') or _DEFAULT_PORT}", database


def _check_ports(text: str, setting: str, options: dict[str, str]) -> None:
    ports = options.get("port", "").split(",")
    if any(port and not _is_port(port) for port in ports):
        raise _malformed(text, setting, f"a port is no number from 1 to {_PORT_MAX}")
    hosts = (options.get("host") or options.get("hostaddr") or "").split(",")
    if len(ports) not in (1, len(hosts)):
        problem = f"it has {len(hosts)} host{'s'[: len(hosts) > 1]} and {len(ports)} ports"
        raise _malformed(text, setting, problem)


def _is_port(text: str) -> bool:
    number = text.strip()
    return number.isascii() and number.isdigit() and 0 < int(number[:9]) <= _PORT_MAX


def _malformed(text: str, setting: str, problem: str) -> SettingError:
    """The error for a text that may hold a password, which a parser quotes in its pieces."""
    unknown = _UNKNOWN.search(problem)
    if unknown is None:
        shown = re.sub(r'"[^\n]*"', '"***"', problem.strip())
        return SettingError(
            f"{setting} is malformed: {shown} (its text may hold a password and is not shown).",
            "Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, other characters of the password "
            "as %XX.",
        )
    name = unknown[1] if may_show_parameter(text, unknown[1]) else "***"
    return SettingError(
        f'{setting} has a parameter "{name}", which Postgres does not know.',
        did_you_mean(name, known_parameters()) or "Remove it, or correct its name.",
    )
