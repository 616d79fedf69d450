"""Looks at a site again and again, keeps the states of its alerts, and delivers messages.

One process of a site does this at a time: it holds a lease in the registry, the others are on
standby. A message is delivered at least once: its attempt is noted before it is sent, and its
success after it, so it is sent again only if the process dies, or loses the registry and its lease,
between the two. The receivers are served beside the looks: one that hangs delays nothing else.

While the registry is away, the process that held the lease last goes on from what it remembers.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.errors import AwayError
from absurd_contimg.operations.alerts.evaluator import evaluate
from absurd_contimg.operations.alerts.receivers import DeliveryError, Receiver, deliver
from absurd_contimg.operations.alerts.records import Look, Notice, Rule
from absurd_contimg.operations.alerts.rules import REGISTRY_AWAY
from absurd_contimg.operations.alerts.stored_states import (
    Attempt,
    Message,
    SiteAlerts,
    from_rows,
    to_rows,
)
from absurd_contimg.registry.alerts import StoredAlert, change_alerts, release_evaluator
from absurd_contimg.registry.database import Database

_log = logging.getLogger(__name__)

_LEASES_OF_LOOKS = 3.0
"""A lease lasts for three looks: another process takes over when so many are missing."""

Change = Callable[[SiteAlerts], SiteAlerts]


def holder_name() -> str:
    """This process, among all that may evaluate."""
    return f"{socket.gethostname()}:{os.getpid()}:{time.monotonic_ns()}"


@dataclass(slots=True)
class AlertService:
    """Evaluates the rules of a site in one process."""

    look: Callable[[], Awaitable[Look]]
    open_registry: Callable[[], Database]
    """Opened when it is first needed, and again after it was away."""
    rules: Sequence[Rule]
    receivers: Sequence[Receiver]
    config: AlertsConfig
    now: Callable[[], float] = time.time
    holder: str = field(default_factory=holder_name)
    _database: Database | None = None
    _site: SiteAlerts = field(default_factory=SiteAlerts)
    """What this process has read or written last."""
    registry_error: AwayError | None = None
    """Why the last change is not saved; None: it is."""
    _unsaved: bool = False
    _standby: bool = False
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _deliveries: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def look_once(self) -> tuple[Notice, ...] | None:
        """Look, keep the new states, begin to deliver; what was raised and cleared.

        None while another process of the site does this.
        """
        look = await self.look()
        now = self.now()
        notices: tuple[Notice, ...] = ()
        names = [receiver.name for receiver in self.receivers]

        def change(site: SiteAlerts, seen: Look = look) -> SiteAlerts:
            nonlocal notices
            evaluation = evaluate(self.rules, site.alerts, seen, now)
            notices = evaluation.notices
            waiting = [_for_receivers(message, names) for message in site.messages]
            new = [_message(notice, names) for notice in evaluation.notices]
            messages = tuple(each for each in (*waiting, *new) if each.unsent)
            return SiteAlerts(evaluation.alerts, messages)

        def change_alone(site: SiteAlerts) -> SiteAlerts:
            away = {**look.away, "registry": look.away.get("registry", "It does not answer.")}
            return change(site, replace(look, away=away))

        if not await self._change(change, change_alone):
            return None
        for notice in notices:
            level = logging.INFO if notice.event == "cleared" else logging.WARNING
            _log.log(level, "alert %s", notice.text.replace("\n", "; "))
        self.deliver()
        return notices

    def deliver(self) -> None:
        """Begin to deliver to each receiver for which a message is due and none is on its way."""
        for receiver in self.receivers:
            running = self._deliveries.get(receiver.name)
            if (running is None or running.done()) and self._due(receiver.name) is not None:
                task = asyncio.create_task(self._deliver(receiver))
                self._deliveries[receiver.name] = task

    async def wait_for_deliveries(self) -> None:
        """Wait until the deliveries that go on have ended, well or not; they are bounded."""
        for task in self._deliveries.values():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({task})

    async def close(self) -> None:
        """End deliveries, and the lease, so that another process need not wait for its end."""
        for task in self._deliveries.values():
            task.cancel()
        await self.wait_for_deliveries()
        if self._database is not None:
            if not self._standby:
                with suppress(AwayError):
                    await asyncio.to_thread(release_evaluator, self._database, self.holder)
            self._database.close()
            self._database = None

    @property
    def site(self) -> SiteAlerts:
        """The states and messages after the last look."""
        return self._site

    async def _deliver(self, receiver: Receiver) -> None:
        """Deliver what is due, one message after the other, until an attempt fails."""
        name = receiver.name
        while (message := self._due(receiver.name)) is not None:
            number = message.unsent[name].attempts + 1
            pause = self.config.retry_seconds * 2.0 ** min(number - 1, 30)
            pause = min(pause, self.config.retry_seconds_max)
            attempt = Attempt(number, self.now() + pause)
            if not await self._change(_noting(message, name, attempt)):
                return
            try:
                await deliver(receiver, message.message_id, message.notice)
            except DeliveryError as error:
                _log.warning("alert not delivered to %s, attempt %d: %s", name, number, error)
                return
            await self._change(_noting(message, name, None))

    def _due(self, name: str) -> Message | None:
        """The oldest message for a receiver, if it is due; those after it wait for it."""
        for message in self._site.messages:
            if name in message.unsent:
                wait = message.unsent[name].next_at - self.now()
                # One that waits longer than any wait: the clock was set back.
                return message if not 0 < wait <= self.config.retry_seconds_max else None
        return None

    async def _change(self, change: Change, change_alone: Change | None = None) -> bool:
        """Change the site's alerts; False while another process holds the lease.

        `change_alone` is for what this process remembers while the registry is away.
        """

        def apply(rows: Sequence[StoredAlert], held: bool) -> list[StoredAlert]:
            known = from_rows(rows)
            if self._unsaved and held:  # nobody else has changed anything meanwhile
                known = self._site
            elif self._unsaved:
                outage = {k: a for k, a in self._site.alerts.items() if k[0] == REGISTRY_AWAY}
                known = replace(known, alerts={**outage, **known.alerts})
            return to_rows(change(known))

        async with self._lock:
            try:
                rows = await asyncio.to_thread(self._write, apply)
            except AwayError as error:
                _log.debug("alerts are not saved: %s", error)
                self.registry_error = error
                if self._standby:
                    return False
                self._site = (change_alone or change)(self._site)
                self._unsaved = True
                return True
            self.registry_error = None
            self._standby, self._unsaved = rows is None, False
            self._site = SiteAlerts() if rows is None else from_rows(rows)
            return rows is not None

    def _write(
        self, apply: Callable[[Sequence[StoredAlert], bool], Sequence[StoredAlert]]
    ) -> list[StoredAlert] | None:
        if self._database is None:
            self._database = self.open_registry()
        seconds = _LEASES_OF_LOOKS * self.config.look_seconds
        return change_alerts(self._database, self.holder, seconds, apply)


def _for_receivers(message: Message, names: Sequence[str]) -> Message:
    """The message without receivers that are no longer in the settings."""
    unsent = {name: attempt for name, attempt in message.unsent.items() if name in names}
    return replace(message, unsent=unsent)


def _message(notice: Notice, names: Sequence[str]) -> Message:
    text = f"{notice.rule}\0{notice.subject}\0{notice.event}\0{notice.at.isoformat()}"
    message_id = hashlib.blake2b(text.encode(errors="replace"), digest_size=10).hexdigest()
    return Message(message_id, notice, {name: Attempt() for name in names})


def _noting(message: Message, receiver: str, attempt: Attempt | None) -> Change:
    return lambda site: site.with_attempt(message.message_id, receiver, attempt)
