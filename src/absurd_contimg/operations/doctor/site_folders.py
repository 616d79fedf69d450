"""Whether the folders of a site are its own, or mount points whose disks are away."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from absurd_contimg.errors import AwayError, UserError
from absurd_contimg.operations.doctor.software import Finding
from absurd_contimg.products.publication import check_mounted
from absurd_contimg.registry.database import Database, exists
from absurd_contimg.registry.publications import Publications
from absurd_contimg.settings import Settings


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


def _published_copies(settings: Settings) -> list[Path]:
    url = settings.registry_url
    if not exists(url):
        return []
    with closing(Database(url, output_dir=settings.pipeline.paths.output_dir)) as database:
        return Publications(database).copies()
