"""Which groups new sub-band files belong to: many files at once, in one transaction."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable

from sqlalchemy import delete, func, insert, inspect, select, update
from sqlalchemy.orm import Session

from absurd_contimg.registry.database import chunks
from absurd_contimg.registry.grouping import group_name
from absurd_contimg.registry.models import (
    GroupStatus,
    IngestState,
    ObservationGroup,
    Product,
    SubbandFile,
)


def assign_groups(session: Session, times: Iterable[int], tolerance_seconds: int) -> dict[int, str]:
    """The group for a file of each time (Unix seconds), before the rows of these files are there.

    A file joins the group of the nearest file within the tolerance, or begins one, which is then
    collecting. A group takes the name of an earlier file until it is closed, work has begun or a
    product exists.
    """
    new_times = sorted(set(times))
    if not new_times:
        return {}
    index = _TimeIndex(session, new_times[0], new_times[-1], tolerance_seconds)
    begun = []
    for time in new_times:
        name, group_id = group_name(time), index.nearest_group(time)
        if group_id is None:
            group_id = name
            begun.append(name)
        elif name < group_id and _may_be_renamed(session, group_id):
            _rename(session, group_id, name)
            index.rename(group_id, name)
            group_id = name
        index.add(time, group_id)
    _begin(session, begun)
    return {time: index.groups[time] for time in new_times}


class _TimeIndex:
    """The times of the files in and around a span, and their groups."""

    def __init__(self, session: Session, first: int, last: int, tolerance_seconds: int) -> None:
        self._tolerance_seconds = tolerance_seconds
        self._times: list[int] = []
        """In order."""
        self._members: defaultdict[str, list[int]] = defaultdict(list)
        self.groups: dict[int, str] = {}
        span = (first - tolerance_seconds, last + tolerance_seconds)
        query = (
            select(SubbandFile.timestamp_seconds, SubbandFile.group_id)
            .where(SubbandFile.timestamp_seconds.between(*span))
            .order_by(SubbandFile.timestamp_seconds, SubbandFile.group_id)
        )
        for time, group_id in session.execute(query):
            self.add(time, group_id)

    def add(self, time: int, group_id: str) -> None:
        if time not in self.groups:
            bisect.insort(self._times, time)
            self.groups[time] = group_id
            self._members[group_id].append(time)

    def rename(self, old: str, new: str) -> None:
        for time in self._members[old]:
            self.groups[time] = new
        self._members[new] += self._members.pop(old)

    def nearest_group(self, time: int) -> str | None:
        """The group of the nearest file within the tolerance.

        Of two files as near, the earlier group's counts: so the order does not matter.
        """
        begin = bisect.bisect_left(self._times, time - self._tolerance_seconds)
        end = bisect.bisect_right(self._times, time + self._tolerance_seconds)
        near = [(abs(other - time), self.groups[other]) for other in self._times[begin:end]]
        return min(near)[1] if near else None


def _begin(session: Session, names: list[str]) -> None:
    """Enter the groups that are not known; one that has had no file, but a product, collects."""
    known: set[str] = set()
    for part in chunks(names):
        query = select(ObservationGroup.group_id).where(ObservationGroup.group_id.in_(part))
        known.update(session.scalars(query))
    for part in chunks(sorted(known)):
        session.execute(
            update(ObservationGroup)
            .where(ObservationGroup.group_id.in_(part), ObservationGroup.closed_at.is_(None))
            .values(ingest_state=IngestState.COLLECTING.value)
        )
    rows = [
        {
            "group_id": name,
            "status": GroupStatus.DISCOVERED.value,
            "ingest_state": IngestState.COLLECTING.value,
        }
        for name in names
        if name not in known
    ]
    if rows:
        session.execute(insert(ObservationGroup), rows)


def _may_be_renamed(session: Session, group_id: str) -> bool:
    """Whether it is not closed, no work has begun and no product exists under the name."""
    row = session.get_one(ObservationGroup, group_id)
    if row.files_version > 1:  # it was closed under its name
        return False
    products = session.scalar(select(func.count()).where(Product.group_id == group_id))
    return row.status == GroupStatus.DISCOVERED and row.closed_at is None and not products


def _rename(session: Session, old: str, new: str) -> None:
    """Move the files to a group that has the attributes of the old one, unless it is known."""
    row = session.get_one(ObservationGroup, old)
    if session.get(ObservationGroup, new) is None:
        names = inspect(ObservationGroup).columns.keys()
        columns = {name: getattr(row, name) for name in names}
        session.add(ObservationGroup(**columns | {"group_id": new}))
        session.flush()
    session.execute(update(SubbandFile).where(SubbandFile.group_id == old).values(group_id=new))
    session.execute(delete(ObservationGroup).where(ObservationGroup.group_id == old))
