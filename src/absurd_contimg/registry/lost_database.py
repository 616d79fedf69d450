"""Whether the private database of a site is gone: by what is left of it, and by the registry.

A new one in its place would be empty, and hide that all tasks are lost.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from absurd_contimg.backends.postgres import EmbeddedPostgres
from absurd_contimg.errors import MissingInputError
from absurd_contimg.products.site_file import read_site_file
from absurd_contimg.settings import Settings

_QUERIES = (
    "select 1 from observation_groups where task_id is not null limit 1",
    "select 1 from windows where task_id is not null limit 1",
)


def lost_database(settings: Settings) -> MissingInputError | None:
    """Why the site's database in the embedded server counts as gone; None if it does not."""
    server = EmbeddedPostgres(settings.embedded_folder)
    registry = settings.registry_url.removeprefix("sqlite:///")
    if server.exists():
        return None
    if server.has_run():
        trace = "a server has run there"
    elif (place := _place_in_output(settings)) is not None:
        trace = f"the site of {settings.pipeline.paths.output_dir} has had its database at {place}"
    elif "://" not in registry and _knows_tasks(Path(registry)):
        trace = f"the registry {registry} knows tasks"
    else:
        return None
    if server.exists():  # another process has just made it
        return None
    return MissingInputError(
        f"The database of this site is gone: there is none in {server.folder}, but {trace}. "
        "Products on disk and registry are as they were.",
        _remedy(settings.pipeline.paths.state_dir),
    )


def _place_in_output(settings: Settings) -> str | None:
    """Where the database of the output folder's site is, for its queue or another one."""
    mark = read_site_file(settings.pipeline.paths.output_dir)
    if mark is None or not mark.databases:
        return None
    return mark.databases.get(settings.queue_name, next(iter(mark.databases.values())))


def require_own_database(settings: Settings) -> None:
    """Raise `MissingInputError` where the site's own database is gone."""
    if (lost := lost_database(settings)) is not None:
        raise lost


def _remedy(state_dir: Path) -> str:
    """What to do, with the newest backup in its default place."""
    folder = state_dir / "backups"
    backups = sorted(folder.iterdir()) if folder.is_dir() else []
    newest = f" (the newest here: {backups[-1]})" if backups else ""
    return (
        "If its disk is away, mount it. If the site has another state folder, set "
        f"PIPELINE_STATE_DIR to that one. With a backup{newest}: contimg restore DIR --force. If "
        "the tasks were in another database, set ABSURD_DATABASE_URL. To begin with an empty one: "
        "contimg db init --empty, then contimg spawn; products on disk are adopted."
    )


def _knows_tasks(registry_file: Path) -> bool:
    """Whether a group or window has been given a task; asked without changing the registry.

    False for a file that is not there or cannot be read: that is told elsewhere.
    """
    if not registry_file.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{registry_file.as_uri()}?mode=ro", uri=True)) as database:
            return any(database.execute(query).fetchone() for query in _QUERIES)
    except sqlite3.Error:
        return False
