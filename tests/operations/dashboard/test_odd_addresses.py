"""Addresses that no page of ours writes: each answers with a page, and names what it refuses."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote, quote_from_bytes

import httpx
import pytest
from dashboard_sites import QUEUE, TOKEN, LivelySite, lively_site
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from absurd_contimg.operations.dashboard.task_filters import PageFilter

FORM = {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}
HOSTILE = ("\0", "a\0b", "\ud800", "x" * 3000, "9" * 400, "nan", "-inf", "1e999", "%", "../..", "é")
NAMES = (*PageFilter.__slots__, "before", "hours", "until", "step", "start", "action", "newest")
ESCAPED = ({"a": "\0"}, {"\0": 1}, {"a": ["\ud800"]}, {"a": 10**400})
PAGES = (
    *("/", "/tasks", "/bulk", "/workers", "/queues", "/failures", "/waiting", "/science"),
    *("/telescope", "/schedules", "/reports", "/login", "/nights/{}", "/sources/{}", "/reports/{}"),
    *("/products/{}/quicklook", "/tasks/{}/x", f"/tasks/{QUEUE}/{{}}", f"/tasks/{QUEUE}/{{}}/log"),
)
texts = (
    st.sampled_from(HOSTILE)
    | st.sampled_from(ESCAPED).map(json.dumps)
    | st.text(st.characters(codec=None), max_size=20)
)
utf8 = texts.map(lambda text: text.encode("utf-8", "surrogatepass"))
encoded = (utf8 | st.binary(max_size=6)).map(partial(quote_from_bytes, safe=""))
queries = st.dictionaries(st.sampled_from(NAMES), encoded, min_size=1, max_size=4)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def lively(request: pytest.FixtureRequest, new_database: Callable[[], str]) -> Iterator[LivelySite]:
    """Of tests that change nothing; its registry is in the database that the name says."""
    url = new_database() if request.param == "postgres" else None
    with tempfile.TemporaryDirectory() as folder:
        yield asyncio.run(lively_site(Path(folder), with_products=False, registry_url=url))


async def asked(lively: LivelySite, *addresses: str) -> list[httpx.Response]:
    transport = httpx.ASGITransport(lively.app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return [await client.get(address) for address in addresses]


def require_page(response: httpx.Response) -> None:
    assert response.status_code in (200, 303, 404, 409, 414, 422), response.text
    for name in ("wanted", "count_tasks", "find_tasks", "params", "Traceback", "id_suffix"):
        assert f"{name}." not in response.text
        assert f"{name}:" not in response.text


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PAGES) | st.just("/tasks"), encoded, queries)
def test_every_address_is_answered_by_a_page(
    lively: LivelySite, page: str, part: str, query: dict[str, str]
) -> None:
    address = page.format(part) + "?" + "&".join(f"{name}={query[name]}" for name in query)
    (response,) = asyncio.run(asked(lively, address))
    require_page(response)


@pytest.mark.parametrize("value", ["%00", "a%00b"])
def test_a_filter_with_nul_is_refused_by_its_name(lively: LivelySite, value: str) -> None:
    """It was 502: The site cannot be read now - count_tasks: wanted.params holds NUL."""
    addresses = [
        f"{page}{name}={value}" for page in ("/tasks?", "/bulk?action=retry&") for name in NAMES
    ]
    for address, response in zip(addresses, asyncio.run(asked(lively, *addresses)), strict=True):
        assert response.status_code == 422, address
        name = address.rpartition("=")[0].rpartition("&" if "&" in address else "?")[2]
        assert f"The value of {name} in the address holds the character NUL" in response.text
        require_page(response)


@pytest.mark.parametrize("value", ESCAPED)
def test_arguments_that_no_database_holds_are_explained(
    lively: LivelySite, value: dict[str, object]
) -> None:
    text = quote(json.dumps(value))
    shown, refused = asyncio.run(
        asked(lively, f"/tasks?arguments={text}", f"/bulk?action=retry&arguments={text}")
    )
    assert (shown.status_code, refused.status_code) == (200, 409)
    for response in (shown, refused):
        assert "The JSON of the arguments" in response.text
        require_page(response)


def test_a_form_with_nul_changes_nothing(lively: LivelySite) -> None:
    async def sent() -> list[httpx.Response]:
        transport = httpx.ASGITransport(lively.app, raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            await client.post("/login", data={"token": TOKEN, "next": "/tasks"}, headers=FORM)
            paths = (f"/queues/{QUEUE}/pause", "/bulk", "/schedules/%00/run", "/queues/%00/pause")
            data = {"reason": "a\0b", "action": "retry", "queue": QUEUE}
            return [await client.post(path, data=data, headers=FORM) for path in paths]

    for response in asyncio.run(sent()):
        assert response.status_code == 422
        assert "holds the character NUL" in response.text
