"""The registry on both of its databases."""

from __future__ import annotations

from pathlib import Path

import pytest

from absurd_contimg.registry import Registry


@pytest.fixture(params=["sqlite", "postgres"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    """An empty registry."""
    if request.param == "sqlite":
        return Registry(tmp_path / "registry.sqlite3")
    return Registry(request.getfixturevalue("database_url"))
