"""Pages of the registry's tables: each reads no more rows than it shows.

A page goes from the newest row to older ones; its cursor is the key of its last row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, select

from absurd_contimg.errors import MissingInputError
from absurd_contimg.operations.api.responses import decode_cursor, encode_cursor, no_cursor
from absurd_contimg.operations.client import (
    ActionEntry,
    GroupEntry,
    Page,
    ProductEntry,
    WindowEntry,
    WindowMemberEntry,
)
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import ObservationGroup, Product
from absurd_contimg.registry.operator_actions import OperatorActionRow
from absurd_contimg.registry.windows import WindowRow

T = TypeVar("T")

QUICKLOOK_STAGES = ("image", "mosaic")
"""Stages whose products have a quick-look."""


def group_page(
    database: Database | None, status: str | None, cursor: str | None, limit: int
) -> Page[GroupEntry]:
    """The groups, the newest first."""
    last = decode_cursor("groups", cursor)
    if database is None:
        return Page((), None)
    query = select(ObservationGroup).order_by(ObservationGroup.group_id.desc())
    if status is not None:
        query = query.where(ObservationGroup.status == status)
    if last is not None:
        query = query.where(ObservationGroup.group_id < last)
    rows = _rows(database, query, limit)
    entries = [_group(row) for row in rows]
    return _page("groups", entries, [entry.group_id for entry in entries], limit)


def get_group(database: Database | None, group_id: str) -> GroupEntry:
    """One group, or `MissingInputError`."""
    rows = _chosen(database, ObservationGroup, ObservationGroup.group_id == group_id)
    if not rows:
        raise MissingInputError(f"There is no group {group_id!r}.", "contimg groups lists them.")
    return _group(rows[0])


def window_page(database: Database | None, cursor: str | None, limit: int) -> Page[WindowEntry]:
    """The windows, by their names, the last first."""
    last = decode_cursor("windows", cursor)
    if database is None:
        return Page((), None)
    query = select(WindowRow).order_by(WindowRow.window_id.desc())
    if last is not None:
        query = query.where(WindowRow.window_id < last)
    entries = [_window(row) for row in _rows(database, query, limit)]
    return _page("windows", entries, [entry.window_id for entry in entries], limit)


def get_window(database: Database | None, window_id: str) -> WindowEntry:
    """One window, or `MissingInputError`."""
    rows = _chosen(database, WindowRow, WindowRow.window_id == window_id)
    if not rows:
        raise MissingInputError(f"There is no window {window_id!r}.", "contimg windows lists them.")
    return _window(rows[0])


def product_page(
    database: Database | None,
    stage: str | None,
    group_id: str | None,
    cursor: str | None,
    limit: int,
) -> Page[ProductEntry]:
    """The products, the newest first."""
    last = decode_cursor("products", cursor)
    if database is None:
        return Page((), None)
    query = select(Product).order_by(Product.created_at.desc(), Product.key.desc())
    if stage is not None:
        query = query.where(Product.stage == stage)
    if group_id is not None:
        query = query.where(Product.group_id == group_id)
    if last is not None:
        made, _, key = last.partition(" ")
        if not key:
            raise no_cursor()
        older = Product.created_at < made
        query = query.where(older | ((Product.created_at == made) & (Product.key < key)))
    entries = [_product(database, row) for row in _rows(database, query, limit)]
    return _page(
        "products", entries, [f"{entry.created_at} {entry.key}" for entry in entries], limit
    )


def get_product(database: Database | None, key: str) -> ProductEntry:
    """One product, or `MissingInputError`."""
    rows = _chosen(database, Product, Product.key == key)
    if not rows or database is None:
        raise MissingInputError(f"There is no product {key!r}.", "GET /v1/products lists them.")
    return _product(database, rows[0])


def action_page(
    database: Database | None, target: str | None, cursor: str | None, limit: int
) -> Page[ActionEntry]:
    """What people did, the newest first."""
    last = decode_cursor("actions", cursor)
    if last is not None and not (last.isascii() and last.isdecimal() and len(last) < 19):
        raise no_cursor()
    if database is None:
        return Page((), None)
    query = select(OperatorActionRow).order_by(OperatorActionRow.action_id.desc())
    if target is not None:
        query = query.where(OperatorActionRow.target == target)
    if last is not None:
        query = query.where(OperatorActionRow.action_id < int(last))
    entries = [
        ActionEntry(**{name: getattr(row, name) for name in ActionEntry.__slots__})
        for row in _rows(database, query, limit)
    ]
    return _page("actions", entries, [str(entry.action_id) for entry in entries], limit)


def _rows(database: Database, query: Select[Any], limit: int) -> Sequence[Any]:
    """One row more than the page has: then there is a next one."""
    with database.reading() as session:
        return session.scalars(query.limit(limit + 1)).all()


def _chosen(database: Database | None, table: type[T], is_meant: ColumnElement[bool]) -> list[T]:
    if database is None:
        return []
    with database.reading() as session:
        return list(session.scalars(select(table).where(is_meant)))


def _page(of_list: str, entries: Sequence[T], keys: Sequence[str], limit: int) -> Page[T]:
    more = len(entries) > limit
    cursor = encode_cursor(of_list, keys[limit - 1]) if more else None
    return Page(tuple(entries[:limit]), cursor)


def _group(row: ObservationGroup) -> GroupEntry:
    return GroupEntry(
        group_id=row.group_id,
        status=row.status,
        reason=row.reason,
        mid_mjd=row.mid_mjd,
        declination_deg=row.declination_deg,
        ingest_state=row.ingest_state,
        closed_reason=row.closed_reason,
        subbands=row.n_subbands,
        files_version=row.files_version,
        task_id=row.task_id,
    )


def _window(row: WindowRow) -> WindowEntry:
    members: list[dict[str, Any]] = row.members
    return WindowEntry(
        window_id=row.window_id,
        state=row.state,
        start_mjd=row.start_mjd,
        end_mjd=row.end_mjd,
        declination_deg=row.declination_deg,
        members=tuple(
            WindowMemberEntry(str(each["group_id"]), bool(each["used"]), each.get("reason"))
            for each in members
        ),
        closed_reason=row.closed_reason,
        superseded_by=row.superseded_by,
        task_id=row.task_id,
    )


def _product(database: Database, row: Product) -> ProductEntry:
    folder = str(database.resolved(row.folder))
    below = database.output_dir
    if below is not None and Path(folder).is_relative_to(below):
        folder = str(Path(folder).relative_to(below))
    return ProductEntry(
        key=row.key,
        stage=row.stage,
        stage_version=row.stage_version,
        group_id=row.group_id,
        folder=folder,
        created_at=row.created_at,
        host=row.host,
        size_bytes=row.size_bytes,
        has_quicklook=row.stage in QUICKLOOK_STAGES,
    )
