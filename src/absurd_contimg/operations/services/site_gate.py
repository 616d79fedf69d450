"""The gate before claims while the disk of the output folder is away and its mount point is there.

The mount point can be written to, and would be filled.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path

from absurd_contimg.file_owners import SITE_NAME
from absurd_contimg.products.site_file import read_site

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class SiteGate:
    """Lets a worker claim as long as the output folder has the identity that it had at first."""

    output_dir: Path
    site: str | None = field(init=False)
    """None: the folder has none, and nothing is checked."""
    _reason: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.site = read_site(self.output_dir)

    def problem(self) -> str:
        """Why nothing is claimed; empty if it is."""
        return self._reason

    async def ready_to_claim(self) -> bool:
        """For `Worker.ready_to_claim`; logs each change."""
        present = self.site and await asyncio.to_thread(read_site, self.output_dir)
        reason = ""
        if present != self.site:
            reason = (
                f"{self.output_dir} is not the output folder of this site any more "
                f"({SITE_NAME} is missing or another one): workers claim nothing until it is back. "
                "Mount its disk."
            )
        if reason != self._reason:
            self._reason = reason
            _log.warning("%s", reason or f"{self.output_dir} is the site's output folder again")
        return not reason
