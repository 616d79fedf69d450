"""Who may do what: token, same origin, the Host header.

Without a token nothing can be changed. Reads need none on the loopback interface, where only users
of this machine can ask; on any other interface they need it too.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie

from absurd_contimg.operations.api.problems import problem
from absurd_contimg.operations.client import Problem

SESSION_COOKIE = "contimg-session"
"""The cookie that stands for the token in a browser: `AccessRules.session`."""

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names under which a browser of this machine reaches the loopback interface."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OPEN_PATHS = frozenset({"/health/live"})
"""Can be read without a token wherever the API listens: for a load balancer."""

TOKEN_CHARACTERS_MIN = 16


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host in ("localhost", ""):
        return host == "localhost"
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The rules of one server."""

    token: str | None = field(default=None, repr=False)
    """None: nothing can be changed."""
    protects_reads: bool = False
    hosts: tuple[str, ...] = LOOPBACK_HOSTS
    """What the Host header may name, without the port, beside addresses."""
    open_posts: frozenset[str] = frozenset()
    """Paths that take a form without a token, from the same origin: a page to sign in."""

    @property
    def session(self) -> str | None:
        """The value of `SESSION_COOKIE`, from which the token cannot be computed."""
        if self.token is None:
            return None
        return hmac.digest(self.token.encode(), b"contimg session", hashlib.sha256).hex()

    def accepts_token(self, given: str) -> bool:
        """Whether it is the token; compared in constant time."""
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def is_authorised(self, headers: Mapping[str, str]) -> bool:
        """Whether the request has the token, as a Bearer or by the cookie of a session."""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self.accepts_token(given.strip())
        session, cookie = self.session, _cookie(headers.get("cookie", ""))
        return session is not None and hmac.compare_digest(cookie.encode(), session.encode())

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> Problem | None:
        """Why a request is refused; None if it is not. Names of headers are in lower case."""
        if not self._knows_host(_host(headers.get("host", ""))):
            return problem(
                HTTPStatus.MISDIRECTED_REQUEST,
                "The Host header names another site than this one.",
                "Use one of its own names, or add the name: contimg api --allow-host NAME",
            )
        if method in _SAFE_METHODS:
            if self.protects_reads and path not in _OPEN_PATHS and path not in self.open_posts:
                return self._without_token(headers)
            return None
        if not _is_same_origin(headers):
            return problem(
                HTTPStatus.FORBIDDEN, "The request comes from a page of another site.", "Reload."
            )
        return None if path in self.open_posts else self._without_token(headers)

    def _knows_host(self, name: str) -> bool:
        """Whether it is ours; a page of another site reaches us by a name only, not an address."""
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _without_token(self, headers: Mapping[str, str]) -> Problem | None:
        if self.token is None:
            return problem(
                HTTPStatus.FORBIDDEN,
                "Nothing can be changed here: no token is configured.",
                "Set CONTIMG_API_TOKEN or CONTIMG_API_TOKEN_FILE for the API and start it again.",
            )
        if not self.is_authorised(headers):
            return problem(
                HTTPStatus.UNAUTHORIZED,
                "The token is missing or wrong.",
                "Send it in the header Authorization: Bearer TOKEN.",
            )
        return None


def _host(header: str) -> str:
    """The name in a Host header, without the port."""
    name, colon, port = header.rpartition(":")
    return (name if colon and port.isdecimal() else header).lower()


def _cookie(header: str) -> str:
    try:
        cookie = SimpleCookie(header).get(SESSION_COOKIE)
    except CookieError:
        return ""
    return "" if cookie is None else cookie.value


def _is_same_origin(headers: Mapping[str, str]) -> bool:
    """Whether a request that changes something comes from our own pages, or from no browser.

    Browsers send at least one of the two headers with every form and every script.
    """
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return "cookie" not in headers or "sec-fetch-site" in headers
    return origin.partition("://")[2] == headers.get("host", "")
