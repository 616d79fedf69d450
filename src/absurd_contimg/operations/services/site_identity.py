"""The identity of a site: one output folder and one registry for each queue of a database.

The output folder holds it in a file, so that it is the same on every host that mounts the folder,
and moves with it; the queue's database and the registry hold it by queue. Two sites on one queue
would write products, registry and locks in two places.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.backends.postgres.connection_strings import DATABASE_SETTING, place_of
from absurd_contimg.backends.postgres.queue_sites import QueueSite
from absurd_contimg.core.backend import Backend
from absurd_contimg.errors import AwayError, SettingError, UserError
from absurd_contimg.execution.host_scratch import host_name
from absurd_contimg.file_owners import SITE_NAME
from absurd_contimg.ingest.batches import pipeline_queues
from absurd_contimg.owned_folders import make_private
from absurd_contimg.products.site_file import (
    SiteFile,
    mark_site,
    read_site,
    read_site_file,
    replace_site_file,
)
from absurd_contimg.registry.database import Database, exists
from absurd_contimg.registry.engines import REGISTRY_SETTING
from absurd_contimg.registry.queue_sites import enter_site, serves_site, site_of_queue
from absurd_contimg.settings import Settings

_log = logging.getLogger(__name__)

_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class _Place:
    """Folder, registry and database of this process, in the words of a record."""

    folder: Path
    output_dir: str
    registry: str
    database: str

    @classmethod
    def of(cls, settings: Settings) -> _Place:
        folder = settings.pipeline.paths.output_dir
        url = settings.registry_url
        if url.startswith(_SQLITE):
            registry = _file_place(Path(url.removeprefix(_SQLITE)), folder)
        else:
            registry = _server_place(url, REGISTRY_SETTING)
        database = (
            _file_place(settings.embedded_folder, folder)
            if settings.database_url is None
            else _server_place(settings.database_url, DATABASE_SETTING)
        )
        return cls(folder, _on_this_host(folder), registry, database)


async def require_own_site(
    backend: Backend, settings: Settings, queues: Sequence[str], *, joins: bool = True
) -> None:
    """Raise `SettingError` if a queue belongs to a site with another output folder or registry.

    With `joins` a queue that belongs to no site belongs to this one from then on. Makes nothing
    before it has looked.
    """
    if not isinstance(backend, PostgresBackend):
        return
    everything = await backend.sites.all()
    if everything is None:
        _log.warning(
            "it is not checked that all processes of queue %s have the same output folder and "
            "registry: the database has no table absurd.contimg_sites that this user may use. "
            "contimg db init, as the owner of the schema, makes it",
            ", ".join(queues),
        )
        return
    place = _Place.of(settings)
    recorded = {queue: everything[queue] for queue in queues if queue in everything}
    await asyncio.to_thread(_require_same, settings, place, recorded, queues)
    if recorded.keys() != set(queues):
        others = [each for each in everything.values() if each.queue_name not in recorded]
        await asyncio.to_thread(_require_joins_others, settings, place, others)
    # What was lost is named before anything is made.
    await asyncio.to_thread(exists, settings.registry_url, output_dir=place.folder)
    if not joins:
        return
    known = next((each.site for each in recorded.values()), None)
    try:
        content = SiteFile(known or secrets.token_hex(8))
        site = await asyncio.to_thread(mark_site, place.folder, content)
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
    await asyncio.to_thread(_require_same, settings, place, recorded, queues)
    new_queues = [each.queue_name for each in new]
    await asyncio.to_thread(_note_places, settings, place, site, queues, new_queues)
    await asyncio.to_thread(_enter_into_registry, settings, queues, site)
    moved = [each for each in entries if recorded.get(each.queue_name) != each]
    await backend.sites.enter(moved, moves=True)


async def take_queue(backend: Backend, settings: Settings) -> None:
    """Let the queues of the settings belong to their site: the main one, of stages, of batches."""
    if not isinstance(backend, PostgresBackend):
        return
    known = await backend.list_queues()
    queues = pipeline_queues(settings.queue_name, known)
    recorded = await backend.sites.of_queues(queues)
    if recorded is not None:
        await backend.sites.forget(queues)
    folder = settings.pipeline.paths.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    make_private(settings.pipeline.paths.state_dir)
    with closing(Database(settings.registry_url)) as database:
        served = site_of_queue(database, settings.queue_name)
    site = mark_site(folder, SiteFile(served or secrets.token_hex(8)))
    try:
        mark = read_site_file(folder) or SiteFile(site)
        new_queues = [queue for queue in queues if queue not in (recorded or {})]
        _require_same_places(settings, _Place.of(settings), mark, new_queues)
    except SettingError:  # another identity, so that the earlier registry or database has lost it
        site = secrets.token_hex(8)
    replace_site_file(folder, SiteFile(site))
    _enter_into_registry(settings, queues, site)
    await require_own_site(backend, settings, queues)


def require_registry_of_site(settings: Settings) -> None:
    """Raise `SettingError` if the site of the output folder has another registry.

    Asks no database: for what is to work also while that is away.
    """
    place = _Place.of(settings)
    if (mark := read_site_file(place.folder)) is not None:
        _require_same_places(settings, place, mark, [])


def require_only_registry(settings: Settings) -> None:
    """Raise `SettingError` if the site of the output folder has another registry on this host.

    A restoration would give it a second one.
    """
    place = _Place.of(settings)
    mark = read_site_file(place.folder)
    if mark is None or mark.registry is None:
        return
    if _is_copied_registry(settings.registry_url, place, mark.registry, mark.site):
        raise _second_site(place, "registry", mark.registry, place.registry)


def note_restored(settings: Settings, queues: Sequence[str]) -> None:
    """Let the output folder name registry and database as they are after a restoration."""
    place = _Place.of(settings)
    if (mark := read_site_file(place.folder)) is not None:
        databases = dict.fromkeys(queues, place.database)
        replace_site_file(place.folder, SiteFile(mark.site, place.registry, databases))


def _require_same(
    settings: Settings, place: _Place, recorded: dict[str, QueueSite], queues: Sequence[str]
) -> None:
    mark = read_site_file(place.folder)
    if mark is not None:
        _require_same_places(settings, place, mark, [q for q in queues if q not in recorded])
    for record in recorded.values():
        if mark is None and place.output_dir == record.output_dir:
            raise _lost_identity(place, record)
        if mark is None or mark.site != record.site or _is_copy(place.folder, record):
            raise _foreign("output folder", record.queue_name, record.output_dir, place.output_dir)
        if mark.registry is not None:
            _require_used_folder(settings.registry_url, place, record)
        if not _is_same_registry(settings.registry_url, place, record):
            raise _foreign("registry", record.queue_name, record.registry, place.registry)


def _require_joins_others(settings: Settings, place: _Place, others: Sequence[QueueSite]) -> None:
    """Raise `SettingError` if other queues of the output folder's site have another registry.

    What the folder itself says of it may be missing, and a further queue is recorded nowhere yet.
    """
    mark = read_site_file(place.folder)
    if mark is None:
        for each in others:
            if each.output_dir == place.output_dir:
                raise _lost_identity(place, each)
        return
    of_site = [each for each in others if each.site == mark.site]
    if of_site and not any(_is_same_registry(settings.registry_url, place, o) for o in of_site):
        raise _second_site(place, "registry", of_site[0].registry, place.registry)


def _require_same_places(
    settings: Settings, place: _Place, mark: SiteFile, new_queues: Sequence[str]
) -> None:
    """Raise `SettingError` if the output folder's site has another registry or database.

    A database that knows `new_queues` not yet may be the site's own, at the place where it was.
    """
    if mark.registry not in (None, place.registry) and (
        not _serves(settings.registry_url, mark.site)
        or _is_copied_registry(settings.registry_url, place, str(mark.registry), mark.site)
    ):
        raise _second_site(place, "registry", str(mark.registry), place.registry)
    for queue in new_queues:
        if mark.databases.get(queue, place.database) != place.database:
            raise _second_site(place, "database", mark.databases[queue], place.database)


def _serves(url: str, site: str) -> bool:
    if not exists(url):
        return False
    with closing(Database(url)) as database:
        return serves_site(database, site)


def _is_copied_registry(url: str, place: _Place, recorded: str, site: str) -> bool:
    """Whether the registry of the record is there as well, on this host, and is another one."""
    head, colon, tail = recorded.partition(":")
    host, file = (head, Path(tail)) if colon else ("", place.folder / head)
    if recorded == place.registry or host not in ("", host_name()) or not file.is_file():
        return False
    with suppress(OSError):
        if url.startswith(_SQLITE) and os.path.samefile(url.removeprefix(_SQLITE), file):
            return False
    with suppress(UserError):
        return _serves(f"{_SQLITE}{file}", site)
    return False


def _note_places(
    settings: Settings,
    place: _Place,
    site: str,
    queues: Sequence[str],
    new_queues: Sequence[str],
) -> None:
    """Enter registry and database into the output folder's identity.

    Raises `SettingError` in the second of two first processes with different settings: both had
    looked before either had entered anything.
    """
    Database(settings.registry_url).close()  # what is named is there, and serves no site yet
    with _one_at_a_time(place.folder):
        mark = read_site_file(place.folder)
        if mark is None or mark.site != site:
            return
        _require_same_places(settings, place, mark, new_queues)
        databases = {**mark.databases, **dict.fromkeys(queues, place.database)}
        content = replace(mark, registry=place.registry, databases=databases)
        try:
            replace_site_file(place.folder, content)
        except OSError as error:
            _log.warning("the output folder's identity is not complete: %s", error)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Lock a folder, where its file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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
    try:
        if not exists(url):
            return is_same_place  # it was lost
        with closing(Database(url)) as database:
            site = site_of_queue(database, record.queue_name)
    except AwayError:
        if is_same_place:
            return True
        raise
    if site == record.site:
        return not _is_copied_registry(url, place, record.registry, record.site)
    return site is None and is_same_place


def _require_used_folder(url: str, place: _Place, record: QueueSite) -> None:
    """Raise `SettingError` if the folder of the site's registry is empty, as a mount point is."""
    if not url.startswith(_SQLITE):
        return
    folder = Path(url.removeprefix(_SQLITE)).parent
    if exists(url) or place.registry != record.registry or any(folder.glob("*")):
        return
    raise SettingError(
        f"The folder {folder} of the site's registry is empty: its disk seems to be away.",
        "Mount it. If the registry is lost: contimg registry rebuild",
    )


def _enter_into_registry(settings: Settings, queues: Sequence[str], site: str) -> None:
    with closing(Database(settings.registry_url)) as database:
        missing = [queue for queue in queues if site_of_queue(database, queue) != site]
        if missing:
            enter_site(database, missing, site)


def _file_place(path: Path, folder: Path) -> str:
    is_inside = path.is_relative_to(folder)
    return _as_text(str(path.relative_to(folder)) if is_inside else _on_this_host(path))


def _server_place(url: str, setting: str) -> str:
    hosts, database = place_of(url, setting)
    return _as_text(f"{hosts}/{database}" if database else hosts)


def _on_this_host(path: Path) -> str:
    return _as_text(f"{host_name()}:{path}")


def _as_text(text: str) -> str:
    return text.encode(errors="replace").decode()


def _lost_identity(place: _Place, record: QueueSite) -> SettingError:
    return SettingError(
        f"The output folder {place.folder} has lost its identity {SITE_NAME}, which it had "
        f"as that of queue {record.queue_name!r}: its disk seems to be away.",
        "Mount it. If all products are lost, to begin with an empty folder: contimg db "
        "init --this-site",
    )


def _foreign(what: str, queue: str, theirs: str, ours: str) -> SettingError:
    settings = {
        "output folder": "PIPELINE_OUTPUT_DIR (--output-dir) to the folder of the site, mounted "
        "on this host",
        "registry": "PIPELINE_PRODUCTS_DB to the registry of the site, or PIPELINE_STATE_DIR "
        "(--state-dir) to its folder",
    }
    here = f"the {what} {ours}" if ours != theirs else "one of another site there"
    return SettingError(
        f"The queue {queue!r} belongs to a site with the {what} {theirs}; this process has "
        f"{here}. Both together would write products and registry in two places.",
        f"Set {settings[what]}. For a second site: a queue of its own (--queue NAME, contimg db "
        "init). If the site was moved here for good, stop its workers, then: contimg db init "
        "--this-site",
    )


def _second_site(place: _Place, what: str, theirs: str, ours: str) -> SettingError:
    return SettingError(
        f"The output folder {place.folder} belongs to a site with the {what} {theirs}; this "
        f"process has the {what} {ours}. Both would write products in one folder.",
        "Set PIPELINE_STATE_DIR (--state-dir), PIPELINE_PRODUCTS_DB and ABSURD_DATABASE_URL as the "
        "site has them, or give another output folder. If the site was moved here for good, stop "
        "its workers, then: contimg db init --this-site",
    )
