"""Those who are told of alerts: a webhook, and addresses by e-mail.

A receiver takes a message within a bounded time or raises `DeliveryError`, whose text holds neither
a password nor the URL of the webhook.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import smtplib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any, Protocol

from absurd_contimg.config.alerts import AlertsConfig
from absurd_contimg.core.evidence import named_reason
from absurd_contimg.errors import SettingError, UserError
from absurd_contimg.operations.alerts.records import Notice
from absurd_contimg.operations.console import one_line, printable_lines
from absurd_contimg.settings import Settings

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_SMTP_TLS_PORT = 465
_TEXT_LENGTH_MAX = 4000
"""Of a text in a message: Slack refuses much longer ones, and those behind would wait for ever."""


class DeliveryError(UserError):
    """A receiver has not taken a message; it is tried again."""


class Receiver(Protocol):
    """Somebody who is told of alerts."""

    @property
    def name(self) -> str:
        """What it is called in states and messages; no secret."""

    async def send(self, message_id: str, notice: Notice) -> None:
        """Deliver, or raise `DeliveryError`; the same id again is the same message."""


async def deliver(receiver: Receiver, message_id: str, notice: Notice) -> None:
    """`Receiver.send`, of which any error is a `DeliveryError`: it concerns this receiver alone."""
    try:
        await receiver.send(message_id, notice)
    except DeliveryError:
        raise
    except Exception as error:  # libraries raise more than they document
        reason = one_line(named_reason(error))
        raise DeliveryError(f"It has not taken the message ({reason}).") from error


def make_receivers(settings: Settings) -> tuple[Receiver, ...]:
    """All receivers of the settings; `SettingError` for those that cannot be used."""
    config = settings.pipeline.alerts
    receivers: list[Receiver] = []
    if settings.webhook_url:
        receivers.append(Webhook(settings.webhook_url, config.send_seconds))
    if settings.smtp_password and not config.smtp_tls and config.smtp_host not in _LOCAL_HOSTS:
        raise SettingError(
            f"The password for {config.smtp_host} would cross the network unencrypted.",
            "Set alerts.smtp_tls (ABSURD_SMTP_USE_TLS=true), or no password.",
        )
    mailer = Mailer(config, settings.smtp_password)
    receivers += [EmailAddress(address, mailer) for address in dict.fromkeys(config.email_to)]
    return tuple(receivers)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Takes JSON by POST; ``text`` is what Slack shows."""

    url: str = field(repr=False)
    seconds_max: float
    name: str = "webhook"

    async def send(self, message_id: str, notice: Notice) -> None:
        """As `Receiver.send`; the body of the answer is not read."""
        import httpx  # noqa: PLC0415 - an extra

        try:
            async with (
                asyncio.timeout(self.seconds_max),
                httpx.AsyncClient(timeout=self.seconds_max) as client,
                client.stream("POST", self.url, json=payload(message_id, notice)) as response,
            ):
                status = response.status_code
        except TimeoutError as error:
            raise DeliveryError(
                f"The webhook did not answer within {self.seconds_max:g} s."
            ) from error
        except Exception as error:  # httpx raises more than it documents, groups too
            reason = one_line(self._without_secrets(named_reason(error)))
            raise DeliveryError(f"The webhook cannot be reached ({reason}).") from error
        if not 200 <= status < 300:
            raise DeliveryError(f"The webhook answered with status {status}.")

    def _without_secrets(self, text: str) -> str:
        """All of the URL's path is secret, whatever part of it a text quotes."""
        parts = re.split(r"[/?#&=]", self.url.partition("://")[2].partition("/")[2])
        for secret in (self.url, *(part for part in parts if len(part) >= 4)):
            text = text.replace(secret, "***")
        return text


def payload(message_id: str, notice: Notice) -> dict[str, Any]:
    """The JSON for a webhook."""
    # In Slack's text these three are markup: a name with <!channel> would call everybody.
    text = _sendable(notice.text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    values = {
        "text": text,
        "id": message_id,
        "event": notice.event,
        "rule": notice.rule,
        "subject": notice.subject,
        "severity": notice.severity,
        "fact": notice.fact,
        "task": notice.task,
        "command": notice.command,
        "at": notice.at.isoformat(),
    }
    return {name: value and _sendable(value) for name, value in values.items()}


def _sendable(text: str) -> str:
    """Text with escapes for what UTF-8 or a terminal does not take, cut where it is long."""
    return printable_lines(text[:_TEXT_LENGTH_MAX])[:_TEXT_LENGTH_MAX]


@dataclass(frozen=True, slots=True)
class EmailAddress:
    """An address; each is a receiver of its own, so that one that is refused hinders no other."""

    address: str
    mailer: Mailer

    @property
    def name(self) -> str:
        """As `Receiver.name`."""
        return f"email {self.address}"

    async def send(self, message_id: str, notice: Notice) -> None:
        """As `Receiver.send`."""
        mail = EmailMessage()
        mail["Subject"] = one_line(f"[contimg] {notice.title}")
        mail["From"], mail["To"] = self.mailer.config.email_from, self.address
        mail["Date"] = format_datetime(notice.at)
        # The same for the same message: mail programs show a second copy of it once.
        digest = hashlib.blake2b(f"{message_id} {self.address}".encode(), digest_size=16)
        mail["Message-ID"] = f"<{digest.hexdigest()}@contimg>"
        mail.set_content(_sendable(notice.text) + "\n")
        await asyncio.to_thread(self.mailer.send, mail)


@dataclass(frozen=True, slots=True)
class Mailer:
    """A mail server; `send` blocks, for a bounded time."""

    config: AlertsConfig
    password: str = field(repr=False)

    def send(self, mail: EmailMessage) -> None:
        """Give the mail to the server, or raise `DeliveryError`."""
        config = self.config
        server = f"The mail server {config.smtp_host}:{config.smtp_port}"
        try:
            with self._session() as session:
                if config.smtp_tls and config.smtp_port != _SMTP_TLS_PORT:
                    session.starttls(context=ssl.create_default_context())
                if config.smtp_user:
                    session.login(config.smtp_user, self.password)
                session.send_message(mail)
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise DeliveryError(
                f"{server} has not taken the message "
                f"({one_line(self._without_login(named_reason(error)))})."
            ) from error

    def _without_login(self, text: str) -> str:
        """The text without the login: a server may quote the line that it refuses, or half of it.

        Of the methods of `smtplib.SMTP.login`, PLAIN and LOGIN send the password, in base64.
        """
        sent = [
            base64.b64encode(part.encode()).decode()
            for part in (f"\0{self.config.smtp_user}\0{self.password}", self.password)
        ]
        return re.sub(
            r"[A-Za-z0-9+/=]{4,}",
            lambda word: "***" if any(word[0] in line for line in sent) else word[0],
            text,
        )

    @contextmanager
    def _session(self) -> Iterator[smtplib.SMTP]:
        """A connection that is cut after a time in all: a server may answer byte by byte."""
        config, seconds = self.config, self.config.send_seconds
        if config.smtp_tls and config.smtp_port == _SMTP_TLS_PORT:
            context = ssl.create_default_context()
            session: smtplib.SMTP = smtplib.SMTP_SSL(timeout=seconds, context=context)
        else:
            session = smtplib.SMTP(timeout=seconds)
        cut = threading.Timer(seconds, _cut, [session])
        cut.daemon = True
        cut.start()
        try:
            # The name that a certificate must have. Only the constructor sets it, but that one
            # connects, and could not be cut.
            session._host = config.smtp_host  # type: ignore[attr-defined]
            session.connect(config.smtp_host, config.smtp_port)
            yield session
            with suppress(smtplib.SMTPException, OSError):
                session.quit()  # the message is accepted: what comes now changes nothing
        finally:
            cut.cancel()
            session.close()


def _cut(session: smtplib.SMTP) -> None:
    if session.sock is not None:
        with suppress(OSError):
            session.sock.shutdown(socket.SHUT_RDWR)
