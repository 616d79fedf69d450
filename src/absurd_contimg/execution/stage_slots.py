"""Limits by resource: a stage takes a slot of its resource before it starts, on any host.

A stage that waits keeps its run and its lease, and its place in the order of arrival. A slot ends
when its stage does; that of a dead worker ends when its lease would.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from absurd_contimg.core.repeated_lines import RepeatedLines
from absurd_contimg.errors import RegistryAwayError
from absurd_contimg.execution.processes import InThread

_log = logging.getLogger(__name__)

_POLL_SECONDS = 5.0
_RENEWALS_PER_SLOT = 3
"""As often as a lease is extended in its length."""
_WITHOUT_LEASE_SECONDS = 60.0
"""The length of a slot where no lease is, as in the orchestrator without a database."""


class SlotStore(Protocol):
    """The part of the registry that hands out slots; called in a thread."""

    def take(self, resource: str, holder: str, limit: int, seconds: float) -> Sequence[str]:
        """Take a slot that ends after `seconds`; if there is none, who holds them.

        A holder without a slot waits from its first call on, as long as it calls again within
        `seconds`. With a slot, a call only moves the slot's end.
        """

    def release(self, resource: str, holder: str) -> None:
        """End the slot or the wait of a holder; none is no error."""


@dataclass(frozen=True, slots=True)
class StageSlots:
    """The limits of this installation; all its workers should have the same ones."""

    store: SlotStore | None
    """None: there are no limits."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """By resource; one that is not named has no limit."""
    poll_seconds: float = _POLL_SECONDS

    @asynccontextmanager
    async def held(
        self,
        resource: str,
        holder: str,
        fence: Callable[[], Awaitable[None]] | None,
        in_thread: InThread,
    ) -> AsyncIterator[None]:
        """Wait for a slot and hold it; `holder` is unique and says who works on what."""
        limit, store = self.limits.get(resource), self.store
        if store is None or limit is None:
            yield
            return
        seconds = float(getattr(fence, "seconds", _WITHOUT_LEASE_SECONDS))

        async def take() -> Sequence[str]:
            return await in_thread(store.take, resource, holder, limit, seconds)

        pause_seconds = seconds / _RENEWALS_PER_SLOT
        try:
            others: Sequence[str] = ()
            while holders := await take():
                if holders != others:
                    _log.info("%s waits for a slot of %s: %s", holder, resource, "; ".join(holders))
                others = holders
                await asyncio.sleep(min(self.poll_seconds, pause_seconds))
            renewal = asyncio.create_task(_renew(take, holder, pause_seconds))
            try:
                yield
            finally:
                renewal.cancel()
                await asyncio.wait({renewal})
        finally:
            with suppress(RegistryAwayError):  # then it ends by itself
                await in_thread(store.release, resource, holder)


NO_LIMITS = StageSlots(None)


async def _renew(
    take: Callable[[], Awaitable[Sequence[str]]], holder: str, pause_seconds: float
) -> None:
    """Move the slot's end, as the lease is extended.

    While the registry is away nobody else can take the slot, so the stage goes on.
    """
    lines, clock = RepeatedLines(), asyncio.get_running_loop().time
    while True:
        await asyncio.sleep(pause_seconds)
        try:
            await take()
        except RegistryAwayError as error:
            text = f"the slot of {holder} could not be renewed: {error}"
            _log.log(lines.level(holder, text, clock()), "%s", text)
        else:
            lines.ended(holder)
