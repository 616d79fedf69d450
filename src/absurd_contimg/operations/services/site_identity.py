"""The identity of a site: one output folder and one registry for each queue of a database.

The output folder holds it in a file, so that it is the same on every host that mounts the folder,
and moves with it; the queue's database and the registry hold it by queue. Two sites on one queue
would write products, registry and locks in two places.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.backends.postgres.queue_sites import QueueSite
from absurd_contimg.core.backend import Backend
from absurd_contimg.errors import AwayError, SettingError
from absurd_contimg.execution.host_scratch import host_name
from absurd_contimg.execution.stage import stage_queues
from absurd_contimg.registry.database import Database, exists
from absurd_contimg.registry.queue_sites import enter_site, site_of_queue
from absurd_contimg.regular_files import UnsuitableFileError, read_json
from absurd_contimg.settings import Settings

_log = logging.getLogger(__name__)

SITE_NAME = ".contimg-site.json"
"""In the output folder."""
_SQLITE = "sqlite:///"
_IDENTITY = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class _Place:
    """Folder and registry of this process, in the words of a record."""

    folder: Path
    output_dir: str
    registry: str

    @classmethod
    def of(cls, settings: Settings) -> _Place:
        folder = settings.pipeline.paths.output_dir
        url = settings.registry_url
        if url.startswith(_SQLITE):
            file = Path(url.removeprefix(_SQLITE))
            is_inside = file.is_relative_to(folder)
            registry = str(file.relative_to(folder)) if is_inside else _on_this_host(file)
        else:
            parts = urlsplit(url)
            registry = f"{parts.hostname or 'local server'}:{parts.port or 5432}{parts.path}"
        return cls(folder, _on_this_host(folder), _as_text(registry))


async def require_own_site(
    backend: Backend, settings: Settings, queues: Sequence[str], *, joins: bool = True
) -> None:
    """Raise `SettingError` if a queue belongs to a site with another output folder or registry.

    With `joins` a queue that belongs to no site belongs to this one from then on. Makes nothing
    before it has looked.
    """
    if not isinstance(backend, PostgresBackend):
        return
    recorded = await backend.sites.of_queues(queues)
    if recorded is None:
        _log.warning(
            "it is not checked that all processes of queue %s have the same output folder and "
            "registry: the database has no table absurd.contimg_sites that this user may use. "
            "contimg db init, as the owner of the schema, makes it",
            ", ".join(queues),
        )
        return
    place = _Place.of(settings)
    await asyncio.to_thread(_require_same, settings, place, recorded)
    if not joins:
        return
    known = next((each.site for each in recorded.values()), None)
    try:
        site = await asyncio.to_thread(_mark, place.folder, known or secrets.token_hex(8))
    except OSError as error:
        _log.warning("the output folder gets no identity: %s", error)
        return
    entries = [QueueSite(queue, site, place.output_dir, place.registry) for queue in queues]
    new = [each for each in entries if each.queue_name not in recorded]
    if not await backend.sites.enter(new):
        _log.warning("the database's user may not record the site of its queues: contimg db init")
        return
    # Another process may have been the first.
    recorded = await backend.sites.of_queues(queues) or {}
    await asyncio.to_thread(_require_same, settings, place, recorded)
    await asyncio.to_thread(_enter_into_registry, settings, queues, site)
    await backend.sites.enter([each for each in entries if recorded.get(each.queue_name) != each])


async def take_queue(backend: Backend, settings: Settings) -> None:
    """Let the queue of the settings and those of its stages belong to the site of the settings."""
    if not isinstance(backend, PostgresBackend):
        return
    known = await backend.list_queues()
    wanted = (settings.queue_name, *stage_queues(settings.queue_name).values())
    queues = [queue for queue in wanted if queue in known]
    if await backend.sites.of_queues(queues) is not None:
        await backend.sites.forget(queues)
    settings.pipeline.paths.output_dir.mkdir(parents=True, exist_ok=True)
    await require_own_site(backend, settings, queues)


def _require_same(settings: Settings, place: _Place, recorded: dict[str, QueueSite]) -> None:
    mark = read_site(place.folder)
    for record in recorded.values():
        is_same = mark == record.site or (mark is None and place.output_dir == record.output_dir)
        if not is_same or _is_copy(place.folder, record):
            raise _foreign("output folder", record.queue_name, record.output_dir, place.output_dir)
        if not _is_same_registry(settings.registry_url, place, record):
            raise _foreign("registry", record.queue_name, record.registry, place.registry)


def _is_copy(folder: Path, record: QueueSite) -> bool:
    """Whether the folder of the record is there as well, on this host, and is another one."""
    host, _, earlier = record.output_dir.partition(":")
    if host != host_name() or read_site(Path(earlier)) != record.site:
        return False
    with suppress(OSError):
        return not os.path.samefile(folder, earlier)
    return False


def _is_same_registry(url: str, place: _Place, record: QueueSite) -> bool:
    is_same_place = place.registry == record.registry
    if not exists(url):
        return is_same_place  # it was lost
    try:
        with closing(Database(url)) as database:
            site = site_of_queue(database, record.queue_name)
    except AwayError:
        if is_same_place:
            return True
        raise
    return site == record.site or (site is None and is_same_place)


def _enter_into_registry(settings: Settings, queues: Sequence[str], site: str) -> None:
    with closing(Database(settings.registry_url)) as database:
        missing = [queue for queue in queues if site_of_queue(database, queue) != site]
        if missing:
            enter_site(database, missing, site)


def read_site(folder: Path) -> str | None:
    """The identity in an output folder; None if it has none."""
    try:
        content = read_json(folder / SITE_NAME)
    except (OSError, ValueError, UnsuitableFileError, RecursionError):
        return None
    match content:
        case {"product": "absurd-contimg", "site": str(site)} if _IDENTITY.fullmatch(site):
            return site
    return None


def _mark(folder: Path, site: str) -> str:
    """Give an output folder an identity unless it has one; that which it has then."""
    if (present := read_site(folder)) is not None:
        return present
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SITE_NAME
    partial = folder / f"{SITE_NAME}.{secrets.token_hex(4)}"
    try:
        with partial.open("x", encoding="utf-8") as file:
            json.dump({"product": "absurd-contimg", "site": site}, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)  # of several hosts at once, one
        except FileExistsError:
            if (present := read_site(folder)) is not None:
                return present
            partial.replace(path)  # it was damaged
        except OSError:  # a file system without links
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return read_site(folder) or site


def _on_this_host(path: Path) -> str:
    return _as_text(f"{host_name()}:{path}")


def _as_text(text: str) -> str:
    return text.encode(errors="replace").decode()


def _foreign(what: str, queue: str, theirs: str, ours: str) -> SettingError:
    settings = {
        "output folder": "PIPELINE_OUTPUT_DIR (--output-dir) to the folder of the site, mounted "
        "on this host",
        "registry": "PIPELINE_PRODUCTS_DB to the registry of the site, or PIPELINE_STATE_DIR "
        "(--state-dir) to its folder",
    }
    return SettingError(
        f"The queue {queue!r} belongs to a site with the {what} {theirs}; this process has "
        f"the {what} {ours}. Both together would write products and registry in two places.",
        f"Set {settings[what]}. For a second site: a queue of its own (--queue NAME, contimg db "
        "init). If the site was moved here for good, stop its workers, then: contimg db init "
        "--this-site",
    )
