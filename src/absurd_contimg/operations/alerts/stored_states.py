"""States of alerts and unsent messages as JSON, as the registry keeps them.

What an earlier or later version has written beside is passed over, and what cannot be read counts
as no alert: it is raised again if it still holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from absurd_contimg.operations.alerts.records import Alert, Key, Notice
from absurd_contimg.registry.alerts import StoredAlert

MESSAGES_MAX = 20
"""Unsent ones of one alert; the oldest are dropped: they say the least."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How far a message is on its way to one receiver."""

    attempts: int = 0
    next_at: float = 0.0
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class Message:
    """A notice that some receivers have not got yet."""

    message_id: str
    """Unique, so that a receiver can recognise a message that it gets twice."""
    notice: Notice
    unsent: Mapping[str, Attempt] = field(default_factory=dict)
    """By the name of the receiver."""


@dataclass(frozen=True, slots=True)
class SiteAlerts:
    """All states and all unsent messages of a site."""

    alerts: Mapping[Key, Alert] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    """In the order in which they were made."""

    def with_attempt(self, message_id: str, receiver: str, attempt: Attempt | None) -> SiteAlerts:
        """With another attempt of a message; None: the receiver has it, or is gone."""
        messages = []
        for message in self.messages:
            unsent = dict(message.unsent)
            if message.message_id == message_id and receiver in unsent:
                if attempt is None:
                    del unsent[receiver]
                else:
                    unsent[receiver] = attempt
            if unsent:
                messages.append(replace(message, unsent=unsent))
        return replace(self, messages=tuple(messages))


_ALERT = TypeAdapter(Alert)
_MESSAGE = TypeAdapter(Message)


def alert_to_json(alert: Alert) -> dict[str, Any]:
    """The state as JSON."""
    return asdict(alert)


def alert_from_json(state: object) -> Alert:
    """What `alert_to_json` has made; raises `ValidationError`."""
    return _ALERT.validate_python(state)


def to_rows(site: SiteAlerts) -> list[StoredAlert]:
    """A row for each alert that has a state or an unsent message."""
    keys = dict.fromkeys(
        [*site.alerts, *((each.notice.rule, each.notice.subject) for each in site.messages)]
    )
    rows = []
    for rule, subject in keys:
        alert = site.alerts.get((rule, subject))
        messages = [
            _MESSAGE.dump_python(message, mode="json")
            for message in site.messages
            if (message.notice.rule, message.notice.subject) == (rule, subject)
        ]
        state = {
            "alert": None if alert is None else alert_to_json(alert),
            "messages": messages[-MESSAGES_MAX:],
        }
        rows.append(StoredAlert(rule, subject, state))
    return rows


def from_rows(rows: Sequence[StoredAlert]) -> SiteAlerts:
    """What `to_rows` has made, without what cannot be read."""
    alerts: dict[Key, Alert] = {}
    messages: list[Message] = []
    for row in rows:
        saved = row.state.get("alert")
        if saved is not None:
            with suppress(ValidationError):
                alerts[row.rule, row.subject] = alert_from_json(saved)
        messages += _messages(row.state.get("messages"))
    messages.sort(key=_made_at)
    return SiteAlerts(alerts, tuple(messages))


def _messages(saved: object) -> Iterable[Message]:
    for each in saved if isinstance(saved, list) else ():
        try:
            yield _MESSAGE.validate_python(each)
        except ValidationError:
            continue


def _made_at(message: Message) -> datetime:
    return message.notice.at
