"""What every page has: its frame, its headers, its errors; and who may act.

A page may load from this server alone, run no script of its own text, and be framed by nobody.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse

from absurd_contimg.errors import AwayError, UserError
from absurd_contimg.ingest.schedule_times import format_lst, sidereal_seconds
from absurd_contimg.operations.api import AccessRules
from absurd_contimg.operations.dashboard.charts import FaultMark
from absurd_contimg.operations.dashboard.files import Quicklooks
from absurd_contimg.operations.dashboard.rendering import make_environment
from absurd_contimg.operations.dashboard.snapshots import Snapshots
from absurd_contimg.operations.overview import Site
from absurd_contimg.operations.services import Actions
from absurd_contimg.registry.database import Database

_MESSAGES_KEPT = 200
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
PICTURE_HEADERS = {**_HEADERS, "Cache-Control": "private, max-age=86400"}
"""Of a product's picture, which never changes."""
MENU = (
    ("pipeline", "/", "Pipeline"),
    ("telescope", "/telescope", "Telescope"),
    ("tasks", "/tasks", "Tasks"),
    ("failures", "/failures", "Failures"),
    ("workers", "/workers", "Workers"),
    ("queues", "/queues", "Queues"),
    ("schedules", "/schedules", "Schedules"),
    ("science", "/science", "Science"),
    ("reports", "/reports", "Reports"),
)


class RefusedError(UserError):
    """Who asks may not act: without the token."""


class UnusableValueError(UserError):
    """An address or a form has a value that no text of a database can be."""


def require_texts(place: str, values: Iterable[tuple[str, str]]) -> None:
    """Raise `UnusableValueError` for a value (after its name) that holds NUL."""
    for name, value in values:
        if "\0" in value:
            raise UnusableValueError(
                f"The value of {name} in the {place} holds the character NUL, which no text here "
                "has.",
                "Leave it out.",
            )


@dataclass(frozen=True, slots=True)
class Message:
    """What came of an action; the address of the next page names it."""

    text: str
    css: str = ""
    """``failure`` if it was not done."""


@dataclass(slots=True)
class Frame:
    """A site's dashboard: what its pages share."""

    site: Site
    snapshots: Snapshots
    actions: Actions | None = None
    """None: nothing can be changed here."""
    rules: AccessRules = field(default_factory=AccessRules)
    """Who may act; without a token in them control is off."""
    faults: Sequence[FaultMark] = ()
    """Of a simulated run."""
    live: bool = True
    """Whether the site goes on changing."""
    quicklooks: Quicklooks = field(default_factory=lambda: Quicklooks(None))
    _environment: Any = field(default_factory=make_environment)
    _messages: OrderedDict[str, Message] = field(default_factory=OrderedDict)

    async def database(self) -> Database | None:
        """The registry's tables; None without any, and while they are away."""
        try:
            return await asyncio.to_thread(self.site.registry)
        except AwayError:
            return None

    # -- pages -----------------------------------------------------------------------------

    async def page(
        self,
        request: Request,
        template: str,
        page: str,
        title: str,
        *,
        status: int = 200,
        **values: Any,
    ) -> HTMLResponse:
        """A page with its frame; `page` is its place in the menu."""
        overview = await self.snapshots.overview()
        longitude = self.longitude_deg
        lst = None if longitude is None else format_lst(sidereal_seconds(overview.at, longitude))
        failed = sum(queue.failed_recently for queue in overview.queues)
        values = {
            "lst": lst,
            "now": overview.at,
            "source": overview.source,
            "waiting_count": sum(queue.depth for queue in overview.queues),
            "menu_counts": {"failures": failed},
            **values,
        }
        return self._response(request, template, page, title, status, values)

    def error_page(self, request: Request, title: str, text: str, status: int) -> HTMLResponse:
        """A page that says what is wrong; it asks no database."""
        return self.bare_page(request, "error.html.jinja", title, status, text=text)

    def bare_page(
        self, request: Request, template: str, title: str, status: int, **values: Any
    ) -> HTMLResponse:
        """A page that asks no database."""
        values = {
            "lst": None,
            "now": datetime.now(UTC),
            "source": self.site.source,
            "waiting_count": 0,
            "menu_counts": {},
            **values,
        }
        return self._response(request, template, "", title, status, values)

    def _response(
        self,
        request: Request,
        template: str,
        page: str,
        title: str,
        status: int,
        values: Mapping[str, Any],
    ) -> HTMLResponse:
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        message = self._messages.get(request.query_params.get("message", ""))
        text = self._environment.get_template(template).render(
            title=title,
            page=page,
            here=here if request.method == "GET" else "/",
            live=self.live,
            menu=MENU,
            control=self.control_of(request),
            control_note=self.control_note,
            can_act=self.may_act(request),
            messages=[] if message is None else [message],
            **values,
        )
        return HTMLResponse(text, status, _HEADERS)

    @property
    def longitude_deg(self) -> float | None:
        """East of Greenwich; None if the site has no settings."""
        settings = self.site.settings
        return None if settings is None else settings.pipeline.site.longitude_deg

    # -- who may act -------------------------------------------------------------------------

    @property
    def control_note(self) -> str:
        """Why nobody can act here."""
        if self.actions is None:
            return "A recorded state: nothing can be changed."
        return "Control is off: the settings have no token."

    def control_of(self, request: Request) -> str:
        """``on``, ``login`` or ``off``."""
        if self.actions is None or self.rules.token is None:
            return "off"
        return "on" if self.may_act(request) else "login"

    def may_act(self, request: Request) -> bool:
        """Whether the request has the token."""
        return self.actions is not None and self.rules.is_authorised(request.headers)

    def require_actions(self, request: Request) -> Actions:
        """The actions of who asks; `RefusedError` without the token.

        That a form is one of our own pages is for the API's `Guard`, which sees it first.
        """
        if self.actions is None or not self.may_act(request):
            raise RefusedError("Nothing was done: you are not logged in.", self.control_note)
        host = "unknown host" if request.client is None else request.client.host
        return self.actions.by_way_of("dashboard", f"token holder at {host}")

    def done(self, address: str, text: str, css: str = "") -> RedirectResponse:
        """Back to a page, with a message."""
        self.snapshots.forget()
        key = secrets.token_urlsafe(9)
        self._messages[key] = Message(text, css)
        while len(self._messages) > _MESSAGES_KEPT:
            self._messages.popitem(last=False)
        joint = "&" if "?" in address else "?"
        return RedirectResponse(f"{address}{joint}message={key}", 303, _HEADERS)


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form; its length is for the API's `Guard`."""
    text = (await request.body()).decode("utf-8", "replace")
    try:
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=100)
    except ValueError as error:
        raise RefusedError("Nothing was done: the form has too many fields.") from error
    require_texts("form", fields)
    return dict(fields)
