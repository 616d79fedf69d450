"""The members of a closed window as they are now: a group may be repaired after it was closed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from absurd_contimg.products.mosaic_outputs import TileTable
from absurd_contimg.products.outputs import from_json
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import GroupStatus, ObservationGroup
from absurd_contimg.registry.mosaics import list_mosaics, mosaic_members
from absurd_contimg.registry.windows import Window, WindowMember, WindowState
from absurd_contimg.regular_files import read_json

NOT_USED = "not used"
"""Why a member is left out if the window says nothing."""
_ENDED_BADLY = (GroupStatus.FAILED, GroupStatus.QUARANTINED)


def with_members_now(database: Database, window: Window) -> Window:
    """The window with what has become of the groups that were left out when it was closed."""
    left_out = [member.group_id for member in window.members if not member.used]
    if window.state is not WindowState.CLOSED or not left_out:
        return window
    imaged = {tile.group_id for tile in mosaic_members(database, left_out).tiles}
    table = _newest_table(database, window.window_id) if imaged else TileTable((), ())
    tiles = {tile.group_id for tile in table.used}
    refusals = {member.group_id: member.reason for member in table.refused}

    def as_now(member: WindowMember) -> WindowMember:
        group, reason = member.group_id, member.reason or NOT_USED
        if member.used:
            return member
        if group in imaged & tiles:
            return replace(member, used=True, reason="imaged after the window was closed")
        if group in imaged and refusals.get(group, reason) != reason:
            return replace(member, reason=f"its mosaic leaves it out: {refusals[group]}")
        if group in imaged:
            command = f"contimg mosaic make {window.window_id} --again"
            return replace(member, reason=f"imaged after the window was closed; {command} takes it")
        status = _status(database, group)
        if status is None or status in _ENDED_BADLY:
            return member
        return replace(member, reason=f"{reason}; it is {status} now")

    return replace(window, members=tuple(map(as_now, window.members)))


def _newest_table(database: Database, window_id: str) -> TileTable:
    """Which groups the newest mosaic has; none if there is none, or its table cannot be read."""
    mosaics = list_mosaics(database, window_id=window_id)
    if not mosaics:
        return TileTable((), ())
    try:
        content = read_json(Path(mosaics[-1].details["mosaic"]["tiles_path"]))
        return from_json(TileTable, content)
    except (OSError, ValueError):
        return TileTable((), ())


def _status(database: Database, group_id: str) -> GroupStatus | None:
    with database.reading() as session:
        group = session.get(ObservationGroup, group_id)
        return None if group is None else GroupStatus(group.status)
