"""Whether the state folder, and what is in it, is for this process and its site alone to write."""

from __future__ import annotations

from pathlib import Path

from absurd_contimg.config.variables import other_folder
from absurd_contimg.errors import SettingError
from absurd_contimg.settings import Settings
from absurd_contimg.state_owners import Exposure, Owners, find_exposure, registry_places

_SQLITE = "sqlite:///"


def exposed_state(settings: Settings) -> Exposure | None:
    """What of the state somebody else owns or may write to; None if nobody does.

    Asked of the state folder and, where they are used, of the private database's folder and of a
    registry in SQLite.
    """
    paths = settings.pipeline.paths
    places = [paths.state_dir]
    if settings.database_url is None:
        places.append(settings.embedded_folder)
    if settings.registry_url.startswith(_SQLITE):
        places += registry_places(Path(settings.registry_url.removeprefix(_SQLITE)))
    return find_exposure(places, Owners.of(paths.output_dir), other_folder("state_dir"))


def require_own_state(settings: Settings) -> None:
    """Raise `SettingError` where somebody else could read or replace the state."""
    if (exposure := exposed_state(settings)) is not None:
        raise SettingError(exposure.problem, exposure.remedy)
