"""Live pages: one poller for all readers says when something has changed.

Absurd sends no notice, so the site is read every few seconds while anybody looks, and each reader
is told once to load its page again. FastAPI's events keep the connection alive every 15 s.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.sse import EventSourceResponse, ServerSentEvent

from absurd_contimg.core.errors import BackendError
from absurd_contimg.errors import UserError
from absurd_contimg.operations.dashboard.snapshots import READ_SECONDS, Snapshots

_log = logging.getLogger(__name__)

REFRESH_SECONDS = 10.0
"""Pages are loaded again so often although nothing has changed: every value has an age."""
READERS_MAX = 200
"""More readers get pages that are not live."""
_GROWING = ("seconds", "seconds_ago", "seconds_left", "bytes", "share", "at", "to_full", "why")
"""Ends of the names of fields that change while nothing happens: sentences have durations."""


class LiveFeed:
    """The poller and its readers."""

    def __init__(self, snapshots: Snapshots, poll_seconds: float = READ_SECONDS) -> None:
        self._snapshots = snapshots
        self._poll_seconds = poll_seconds
        self._changed = asyncio.Condition()
        self._version = 0
        self._is_ended = False
        self._poller: asyncio.Task[None] | None = None
        self.readers = 0

    async def changes(self) -> AsyncIterator[int]:
        """A number whenever pages should be loaded again; ends at once with too many readers."""
        if self.readers >= READERS_MAX or self._is_ended:
            return
        self.readers += 1
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll(), name="live feed")
        version = self._version
        try:
            while True:
                async with self._changed:
                    while self._version == version and not self._is_ended:
                        await self._changed.wait()
                    if self._is_ended:
                        return
                    version = self._version
                yield version
        finally:
            self.readers -= 1
            if not self.readers:
                await self.close()

    async def end(self) -> None:
        """End all streams: the server stops, and would wait for them."""
        async with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    async def close(self) -> None:
        """Stop the poller."""
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.cancel()
            with suppress(asyncio.CancelledError):
                await poller

    async def _poll(self) -> None:
        last, told_at = "", time.monotonic()
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                state = digest_of(await self._snapshots.overview())
            except (UserError, BackendError) as error:
                _log.warning("the dashboard cannot read the site: %s", error)
                state = "away"
            now = time.monotonic()
            if (state != last and last) or now - told_at >= REFRESH_SECONDS:
                async with self._changed:
                    self._version += 1
                    self._changed.notify_all()
                told_at = now
            last = state


def digest_of(value: object) -> str:
    """A digest of what a reader would call a change; ages alone are none."""
    return hashlib.blake2b(repr(_lasting(value)).encode(), digest_size=16).hexdigest()


def _lasting(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in fields(value) if not f.name.endswith(_GROWING)]
        return [_lasting(getattr(value, name)) for name in names]
    if isinstance(value, Mapping):
        return sorted((str(key), _lasting(part)) for key, part in value.items())
    return [_lasting(part) for part in value] if isinstance(value, tuple | list) else value


def live_router(feed: LiveFeed) -> APIRouter:
    """``/live``: one stream for each open page."""
    router = APIRouter(include_in_schema=False)

    @router.get("/live", response_class=EventSourceResponse)
    async def live() -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(comment="contimg", retry=3000)
        async for version in feed.changes():
            yield ServerSentEvent(event="changed", data=version)

    return router
