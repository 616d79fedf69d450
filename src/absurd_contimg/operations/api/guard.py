"""The middleware before the API: access, bounds of requests, time limits, security headers.

It answers before any route sees the request. Knows no route.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import accumulate

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from absurd_contimg.operations.api.access import AccessRules
from absurd_contimg.operations.api.problems import problem, problem_response
from absurd_contimg.operations.client import Problem

SECURITY_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # with "no-referrer" the browser says that our own forms are from nowhere
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""On every response that does not set them itself."""

_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_WHOLE_URL = re.compile(r"https?://(?P<host>[^/]*)(?P<path>/.*)?", re.DOTALL | re.IGNORECASE)


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a request may have."""

    body_bytes: int = 1_000_000
    json_depth: int = 32
    url_bytes: int = 4_000
    header_bytes: int = 16_000
    body_seconds: float = 10.0
    """For all of the body to arrive."""
    answer_seconds: float = 30.0
    """Until the response begins."""


class Guard:
    """See the module."""

    def __init__(self, app: ASGIApp, rules: AccessRules, bounds: Bounds) -> None:
        self._app = app
        self._rules = rules
        self._bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_security_headers(send)
        scope = _in_origin_form(scope)
        headers = Headers(scope=scope)
        refused = self._too_long(scope) or self._rules.refusal(
            scope["method"], scope["path"], headers
        )
        if refused is not None:
            await self._refuse(refused, scope, receive, send)
            return
        body = await self._body(headers, receive)
        if isinstance(body, Problem):
            await self._refuse(body, scope, receive, send)
            return
        if scope["method"] == "HEAD":
            # every route that answers GET: only the headers are sent
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        await self._answer(scope, _received(body, receive), receive, send)

    async def _answer(self, scope: Scope, body: Receive, receive: Receive, send: Send) -> None:
        """Let the application answer; a request that takes too long, or breaks it, is a problem."""
        started = False

        async def note(message: Message) -> None:
            nonlocal started
            started = True
            deadline.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(self._bounds.answer_seconds) as deadline:
                await self._app(scope, body, note)
        except TimeoutError:
            if started:
                raise
            document = problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"There was no answer within {self._bounds.answer_seconds:g} s; what was asked "
                "for may have been done.",
            )
        except Exception:
            _log.exception("%s %s", scope["method"], scope["path"])
            if started:
                raise
            document = problem(HTTPStatus.INTERNAL_SERVER_ERROR, "The log of the API says more.")
        else:
            return
        await self._refuse(document, scope, receive, send)

    def _too_long(self, scope: Scope) -> Problem | None:
        url_bytes = len(scope.get("raw_path", b"")) + len(scope["query_string"])
        if url_bytes > self._bounds.url_bytes:
            return problem(
                HTTPStatus.REQUEST_URI_TOO_LONG,
                f"The address has {url_bytes} bytes, at most {self._bounds.url_bytes} are read.",
            )
        header_bytes = sum(len(name) + len(value) for name, value in scope["headers"])
        if header_bytes > self._bounds.header_bytes:
            return problem(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"The headers have {header_bytes} bytes, at most {self._bounds.header_bytes} are "
                "read.",
            )
        return None

    async def _body(self, headers: Headers, receive: Receive) -> bytes | Problem:
        """The whole body, or why it is refused."""
        limit = self._bounds.body_bytes
        too_large = problem(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A body has at most {limit} bytes."
        )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > limit:
            return too_large
        parts = bytearray()
        try:
            async with asyncio.timeout(self._bounds.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        break
                    parts += message.get("body", b"")
                    if len(parts) > limit:
                        return too_large
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            return problem(
                HTTPStatus.REQUEST_TIMEOUT,
                f"The body did not arrive within {self._bounds.body_seconds:g} s.",
            )
        if (
            "json" in headers.get("content-type", "")
            and _depth(parts, self._bounds.json_depth) > self._bounds.json_depth
        ):
            return problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                f"The body has more than {self._bounds.json_depth} levels.",
            )
        return bytes(parts)

    async def _refuse(self, document: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {}
        if document.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Bearer realm="contimg"'
        if document.status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT):
            headers["Connection"] = "close"  # what is left of the body is not read
        await problem_response(document, headers)(scope, receive, send)


def _with_security_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers


def _in_origin_form(scope: Scope) -> Scope:
    """The request as if its target were a path.

    A client that takes us for a proxy sends the whole URL, whose host goes before the header's
    (RFC 9112, 3.2.2).
    """
    whole = _WHOLE_URL.match(scope["path"])
    if whole is None:
        return scope
    others = [header for header in scope["headers"] if header[0] != b"host"]
    host = (b"host", whole["host"].encode("latin-1", "replace"))
    raw_path = scope.get("raw_path", b"")[whole.end("host") :] or b"/"
    return {
        **scope,
        "path": whole["path"] or "/",
        "raw_path": raw_path,
        "headers": [host, *others],
    }


def _without_body(send: Send) -> Send:
    async def send_headers(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_headers


def _received(body: bytes, receive: Receive) -> Receive:
    """What the application receives: the body at once, then what comes after it."""
    is_read = False

    async def receive_body() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_body


def _depth(body: bytes | bytearray, limit: int) -> int:
    """The levels of lists and objects in JSON, without reading it; 0 where there cannot be more."""
    if body.count(b"[") + body.count(b"{") <= limit:
        return 0
    brackets = _BRACKETS.findall(_TEXT.sub(b"", body))
    return max(accumulate(1 if each in b"[{" else -1 for each in brackets), default=0)
