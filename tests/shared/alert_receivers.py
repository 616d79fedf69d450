"""Receivers of alerts on this machine: a webhook and a mail server, well and not."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass
class WebhookServer:
    """Takes POSTs; answers with the next of `statuses`, then with 200; 0: it never answers."""

    statuses: list[int] = field(default_factory=list)
    received: list[dict[str, Any]] = field(default_factory=list)
    """The bodies to which it answered with 200."""
    requests: int = 0
    url: str = ""
    free: threading.Event = field(default_factory=threading.Event)


@contextmanager
def webhook_server(*statuses: int) -> Iterator[WebhookServer]:
    """A webhook until the end of the block."""
    state = WebhookServer(list(statuses))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            state.requests += 1
            status = state.statuses.pop(0) if state.statuses else 200
            if status == 0:
                state.free.wait(20)
                return
            if status == 200:
                state.received.append(json.loads(body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - of the base class
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/services/T0/B0/s3cr3t-t0ken-of-the-hook"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        state.free.set()
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class MailServer:
    """Takes mail, but for the addresses in `refused`."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)

    async def handle_RCPT(  # noqa: N802 - the name that aiosmtpd calls
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: Any
    ) -> str:
        if address in self.refused:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        mail = message_from_bytes(content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 accepted"


CERTIFICATE = Path(__file__).with_name("mail_certificate.pem")
"""Of localhost, with its key: signed by itself, and of no use but here."""


@asynccontextmanager
async def mail_server(*refused: str, password: str = "") -> AsyncIterator[MailServer]:
    """A mail server until the end of the block.

    With a password it takes mail only over TLS, by STARTTLS, from the user ``contimg``.
    """
    state = MailServer(refused=set(refused))
    options: dict[str, Any] = {}
    if password:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)

        def authenticate(*arguments: Any) -> AuthResult:
            right = LoginPassword(b"contimg", password.encode())
            return AuthResult(success=arguments[-1] == right, handled=False)

        options = {
            "tls_context": context,
            "require_starttls": True,
            "auth_required": True,
            "authenticator": authenticate,
        }
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(state, hostname="test", **options), "127.0.0.1", 0
    )
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        await server.wait_closed()
