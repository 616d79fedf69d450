"""The products of groups and windows, the newest of each stage: what reports are made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from absurd_contimg.registry.database import Database, chunks
from absurd_contimg.registry.models import Product


@dataclass(frozen=True, slots=True)
class RegisteredProduct:
    """A product as the registry knows it."""

    key: str
    stage: str
    group_id: str
    """A group, or the window of a mosaic."""
    folder: Path
    outputs: Mapping[str, Any]
    created_at: str


def newest_products(
    database: Database, names: Collection[str]
) -> dict[tuple[str, str], RegisteredProduct]:
    """The newest product of each of these groups or windows and each stage, by both."""
    newest: dict[tuple[str, str], RegisteredProduct] = {}
    with database.reading() as session:
        for part in chunks(sorted(names)):
            query = (
                select(Product)
                .where(Product.group_id.in_(part))
                .order_by(Product.created_at, Product.key)
            )
            for row in session.scalars(query):
                newest[row.group_id, row.stage] = _registered(database, row)
    return newest


def products_of(database: Database, name: str) -> list[RegisteredProduct]:
    """All products of a group or window, the oldest first."""
    query = (
        select(Product).where(Product.group_id == name).order_by(Product.created_at, Product.key)
    )
    with database.reading() as session:
        return [_registered(database, row) for row in session.scalars(query)]


def _registered(database: Database, row: Product) -> RegisteredProduct:
    return RegisteredProduct(
        row.key,
        row.stage,
        row.group_id,
        Path(database.resolved(row.folder)),
        database.resolved(row.outputs),
        row.created_at,
    )
