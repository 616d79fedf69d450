"""A site for the daemon."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from arriving_groups import DaemonSite


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """In memory where there is such a file system: a registry there waits for no disk."""
    parent = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=parent if parent.is_dir() else None, prefix="contimg-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def site(quick_folder: Path) -> DaemonSite:
    """An empty site."""
    site = DaemonSite(quick_folder)
    await site.begin()
    return site
