"""Windows: runs of neighbouring groups that one mosaic is made of.

Which groups form a window is decided in `ingest`; here windows are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import exists, select, update
from sqlalchemy.orm import Mapped, mapped_column

from absurd_contimg.errors import MissingInputError
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Base, row_values
from absurd_contimg.registry.mosaics import MosaicRow
from absurd_contimg.registry.stored_types import Mjd, StoredState
from absurd_contimg.similar_names import did_you_mean


class WindowState(StrEnum):
    """The state of a window."""

    OPEN = "open"
    CLOSED = "closed"
    """All members have ended or cannot come any more."""
    SUPERSEDED = "superseded"
    """Another window has taken its place."""


class WindowRow(Base):
    """A window; `members` has the fields of `WindowMember`."""

    __tablename__ = "windows"
    window_id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(StoredState(WindowState), index=True)
    start_mjd: Mapped[Mjd] = mapped_column(index=True)
    end_mjd: Mapped[Mjd]
    declination_deg: Mapped[float]
    members: Mapped[list[dict[str, Any]]]
    settings: Mapped[dict[str, Any]]
    closed_reason: Mapped[str | None]
    superseded_by: Mapped[str | None]
    task_id: Mapped[str | None]


@dataclass(frozen=True, slots=True)
class WindowMember:
    """A group of a window, and why it is not used if it is not."""

    group_id: str
    mid_mjd: float
    used: bool = True
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """Neighbouring groups of one declination, in the order of time."""

    window_id: str
    state: WindowState
    start_mjd: float
    end_mjd: float
    declination_deg: float
    members: tuple[WindowMember, ...]
    settings: dict[str, Any]
    closed_reason: str | None = None
    superseded_by: str | None = None
    task_id: str | None = None
    """Its mosaic task, noted after it was spawned."""


def list_windows(
    database: Database,
    state: WindowState | None = None,
    start_mjd: float | None = None,
    end_mjd: float | None = None,
) -> list[Window]:
    """The windows of a state that touch a span of time, in the order of time."""
    query = select(WindowRow).order_by(WindowRow.start_mjd, WindowRow.window_id)
    if state is not None:
        query = query.where(WindowRow.state == state.value)
    if start_mjd is not None:
        query = query.where(WindowRow.end_mjd >= start_mjd)
    if end_mjd is not None:
        query = query.where(WindowRow.start_mjd <= end_mjd)
    with database.reading() as session:
        return [_window(row) for row in session.scalars(query)]


def get_window(database: Database, window_id: str) -> Window:
    """One window; raises `MissingInputError` if it is not known."""
    with database.reading() as session:
        row = session.get(WindowRow, window_id)
        if row is None:
            names = session.scalars(select(WindowRow.window_id))
            raise MissingInputError(
                f"There is no window {window_id!r} in the registry.",
                did_you_mean(window_id, names, "contimg windows lists them."),
            )
        return _window(row)


def _window(row: WindowRow) -> Window:
    columns = {name: getattr(row, name) for name in Window.__slots__}
    columns["state"] = WindowState(row.state)
    columns["members"] = tuple(WindowMember(**member) for member in row.members)
    return Window(**columns)


def store_windows(database: Database, changes: Sequence[Window]) -> None:
    """Enter and change windows in one transaction; an open one without members goes away.

    What is recorded of a closed window stays: only its state and its successor change, and the
    task of one that was superseded and is formed again.
    """
    if not changes:
        return
    with database.writing() as session:
        for window in changes:
            row = session.get(WindowRow, window.window_id)
            if row is None and window.members:
                session.add(WindowRow(**row_values(window)))
            elif row is None:
                continue
            elif row.state == WindowState.OPEN and not window.members:
                session.delete(row)
            elif row.state == WindowState.OPEN:
                for name, value in row_values(replace(window, task_id=row.task_id)).items():
                    setattr(row, name, value)
            elif window.state is not WindowState.OPEN:
                if (row.state, window.state) == (WindowState.SUPERSEDED, WindowState.CLOSED):
                    row.task_id = window.task_id
                row.state, row.superseded_by = window.state.value, window.superseded_by


def windows_without_mosaic(database: Database) -> list[Window]:
    """The closed windows that have a task and no mosaic, in the order of time."""
    query = (
        select(WindowRow)
        .where(WindowRow.state == WindowState.CLOSED.value)
        .where(WindowRow.task_id.is_not(None))
        .where(~exists().where(MosaicRow.window_id == WindowRow.window_id))
        .order_by(WindowRow.start_mjd, WindowRow.window_id)
    )
    with database.reading() as session:
        return [_window(row) for row in session.scalars(query)]


def note_window_task(database: Database, window_id: str, task_id: str | None) -> None:
    """Note the mosaic task of a window; None: it has none any more."""
    with database.writing() as session:
        session.execute(
            update(WindowRow).where(WindowRow.window_id == window_id).values(task_id=task_id)
        )
