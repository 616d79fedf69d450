"""The connection strings that a site with several servers, or a file of services, writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

CONNECTION_FORMS = ("several hosts", "service", "service as text", "several hosts as text")


def connection_forms(url: str, folder: Path) -> tuple[Mapping[str, str], dict[str, str]]:
    """Environment, and forms of a URL of a socket by name, that reach the same database."""
    given = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    given["port"] = given.get("port", "5432")
    services = folder / "services"
    away = {**given, "host": f"/nowhere,{given['host']}", "port": f"1,{given['port']}"}
    text = "".join(f"{name}={value}\n" for name, value in away.items())
    services.write_text(f"[ha]\n{text}target_session_attrs=read-write\n")
    hosts = f"%2Fnowhere:1,{quote(given['host'], safe='')}:{given['port']}"
    rest = f"target_session_attrs=read-write&passfile={quote(given.get('passfile', ''), safe='')}"
    forms = {
        "several hosts": f"postgresql://{given['user']}@{hosts}/{given['dbname']}?{rest}",
        "service": "postgresql:///?service=ha",
        "service as text": "service=ha",
        "several hosts as text": " ".join(f"{name}={value}" for name, value in away.items()),
    }
    return {"PGSERVICEFILE": str(services)}, forms
