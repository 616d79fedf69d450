"""Whether the folders of a site are its own, or mount points whose disks are away."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

from absurd_contimg.backends.postgres import PostgresBackend
from absurd_contimg.config import PathsConfig
from absurd_contimg.core.errors import BackendError
from absurd_contimg.errors import AwayError, MissingInputError, SettingError, UserError
from absurd_contimg.execution.runner import check_folder_names
from absurd_contimg.operations.doctor.software import Finding
from absurd_contimg.operations.services import exposed_state, removed_queue, require_own_site
from absurd_contimg.products.publication import check_mounted
from absurd_contimg.products.store import unread_links
from absurd_contimg.registry.database import Database, exists
from absurd_contimg.registry.publications import Publications
from absurd_contimg.settings import Settings
from absurd_contimg.state_owners import Owners, exposed_parent


def folder_names(paths: PathsConfig) -> list[Finding]:
    """The first name of a folder that CASA cannot have, if there is one."""
    try:
        check_folder_names(paths)
    except SettingError as error:
        return [Finding(False, "folder names", error.problem, error.remedy)]
    return []


def state_owners(settings: Settings) -> list[Finding]:
    """Where somebody else could read or replace what the site keeps, if he could."""
    paths = settings.pipeline.paths
    exposure = exposed_state(settings) or exposed_parent(
        paths.state_dir, Owners.of(paths.output_dir)
    )
    if exposure is None:
        return []
    return [Finding(False, "state_dir", exposure.problem, exposure.remedy)]


def folders_of_products(output_dir: Path) -> list[Finding]:
    """Each linked folder below the output folder that has products behind it."""
    links = unread_links(output_dir).values()
    return [Finding(False, "folders of products", problem, remedy) for problem, remedy in links]


def publish_folder(settings: Settings) -> list[Finding]:
    """The folder for publications, once something was published."""
    name, paths = "publish_dir", settings.pipeline.paths
    try:
        copies = _published_copies(settings)
        if not copies:
            return []
        check_mounted(paths.published, lambda: copies)
    except AwayError as error:
        return [Finding(False, name, error.problem, error.remedy)]
    except UserError:
        return []  # of the registry's URL: every command says so
    return [Finding(True, name, f"{paths.published} is the folder of {len(copies)} publications.")]


def own_site(settings: Settings, url: str) -> list[Finding]:
    """Whether folders, registry and queue are there and belong together; none is a mount point."""

    async def ask() -> None:
        async with PostgresBackend(url, pool_max_size=1) as backend:
            await require_own_site(backend, settings, [settings.queue_name], joins=False)
            if removed := removed_queue(settings.queue_name, await backend.list_queues()):
                raise MissingInputError(*removed)

    try:
        asyncio.run(ask())
    except (UserError, BackendError) as error:
        remedy = error.remedy if isinstance(error, UserError) else "Try again."
        problem = error.problem if isinstance(error, UserError) else str(error)
        return [Finding(False, "site", problem, remedy)]
    return [Finding(True, "site", "Output folder, registry and queue belong together.")]


def _published_copies(settings: Settings) -> list[Path]:
    url = settings.registry_url
    if not exists(url):
        return []
    with closing(Database(url, output_dir=settings.pipeline.paths.output_dir)) as database:
        return Publications(database).copies()
