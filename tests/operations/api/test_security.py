"""What nobody may be able to do through the API."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_sites import AUTHORISED, TOKEN, api_of, client_of

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.operations.api import AccessRules, make_api
from absurd_contimg.operations.overview import Site
from absurd_contimg.operations.services import Actions, GivenTables
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.models import Product
from absurd_contimg.registry.operator_actions import list_actions
from absurd_contimg.secrets import remember_secret

QUEUE = "dsa110-pipeline"
TASKS = f"/v1/queues/{QUEUE}/tasks"
TASK_ID = "019a0000-0000-7000-8000-000000000000"
KEY = "0123456789abcdef0123456789abcdef01234567"
VALUES = {
    "queue": QUEUE,
    "task_id": TASK_ID,
    "batch_id": "batch",
    "group_id": "2025-01-02T03:04:05",
    "window_id": "window",
    "key": KEY,
}
BODIES: dict[str, dict[str, Any]] = {
    "spawn_task": {"task_name": "pipeline", "params": {}},
    "fork_task": {"step": "image"},
    "pause_queue": {"reason": "no"},
    "emit_event": {"event_name": "go"},
    "create_batch": {"kind": "pipeline", "names": ["G"]},
}


@pytest.fixture
def registry(tmp_path: Path) -> Database:
    return Database(tmp_path / "registry.sqlite3", output_dir=tmp_path / "products")


@pytest.fixture
async def backend() -> MemoryBackend:
    memory = MemoryBackend(MemoryDatabase())
    await memory.create_queue(QUEUE)
    return memory


@pytest.fixture
async def api(backend: MemoryBackend, registry: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(api_of(backend, registry), **AUTHORISED) as client:
        yield client


def operations(app: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path with values, and description of every operation."""
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path.format(**VALUES), operation


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_without_the_token_nothing_changes(
    backend: MemoryBackend, registry: Database, token: str | None
) -> None:
    """No operation, whatever the token that is configured and the one that is sent."""
    app = api_of(backend, registry, AccessRules(token, hosts=("api.test",)))
    sent = [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"},
            {"Cookie": "contimg-session=wrong"}]  # fmt: skip
    changing = 0
    async with client_of(app) as client:
        for method, path, operation in operations(app):
            if method == "GET":
                continue
            changing += 1
            body = next(
                (b for n, b in BODIES.items() if operation["operationId"].startswith(n)), {}
            )
            for headers in sent:
                answer = await client.request(method, path, json=body, headers=headers)
                cookie = "Cookie" in headers
                expected = 403 if token is None or cookie else 401
                assert answer.status_code == expected, (path, headers, answer.text)
                assert answer.headers["content-type"] == "application/problem+json"
    assert changing >= 12
    assert await backend.list_tasks(QUEUE) == []
    assert list_actions(registry) == []


async def test_reads_need_the_token_where_others_can_ask(
    backend: MemoryBackend, registry: Database
) -> None:
    """Only the sign of life needs none."""
    rules = AccessRules(TOKEN, protects_reads=True, hosts=("api.test",))
    app = api_of(backend, registry, rules)
    async with client_of(app) as client:
        for method, path, _ in operations(app):
            if method == "GET":
                expected = 200 if path == "/health/live" else 401
                assert (await client.get(path)).status_code == expected, path
        assert (await client.get("/openapi.json")).status_code == 401
        assert (await client.get("/v1/queues", headers=AUTHORISED)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://api.test"}, 200),
        ({"Host": "evil.test"}, 421),
        ({"Host": "api.test.evil.test:8000"}, 421),
        ({"Host": "127.0.0.1:8000"}, 200),
    ],
)
async def test_pages_of_other_sites_change_nothing(
    api: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    """Neither with a token that the browser has, nor by a name that leads here (rebinding)."""
    answer = await api.post(TASKS, json={"task_name": "pipeline"}, headers=headers)
    assert answer.status_code == status, answer.text


TRAVERSALS = ("../../../../etc/passwd", "..", "%2e%2e%2fetc%2fpasswd", "/etc/passwd", "a\x00b",
              "....//etc/passwd", "file:///etc/passwd", "..\\..\\etc\\passwd")  # fmt: skip


async def test_no_parameter_leads_out_of_the_output_folder(
    api: httpx.AsyncClient, backend: MemoryBackend, registry: Database
) -> None:
    """Every parameter of every read, in the path and in the query."""
    app = api_of(backend, registry)
    for path, methods in app.openapi()["paths"].items():
        for parameter in methods.get("get", {}).get("parameters", []):
            if parameter["in"] == "header":
                continue
            for text in TRAVERSALS:
                values = dict(VALUES)
                query = {}
                if parameter["in"] == "path":
                    values[parameter["name"]] = str(httpx.QueryParams(x=text))[2:]
                else:
                    query[parameter["name"]] = text
                answer = await api.get(path.format(**values), params=query)
                assert answer.status_code in (200, 404, 422), (path, text, answer.text)
                assert "root:" not in answer.text


async def test_product_that_names_a_file_elsewhere_has_no_picture(
    api: httpx.AsyncClient, registry: Database, tmp_path: Path
) -> None:
    """Whatever stands in the registry, links included."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "manifest.json").write_text("{}")
    (tmp_path / "products").mkdir()
    (tmp_path / "products" / "link").symlink_to(outside)
    for number, folder in enumerate(("../outside", str(outside), "link", "/etc")):
        key = f"{number:040x}"
        with registry.writing() as session:
            session.add(
                Product(
                    key=key, stage="image", stage_version=1, group_id="G", folder=folder,
                    outputs={}, created_at="2026-03-01", attempt="a", host="h", size_bytes=1,
                )
            )  # fmt: skip
        answer = await api.get(f"/v1/products/{key}/quicklook")
        assert answer.status_code in (404, 409), (folder, answer.text)
        assert "image/png" not in answer.headers["content-type"]


async def test_html_in_names_stays_text(api: httpx.AsyncClient) -> None:
    """JSON is never taken for a page."""
    name = "<script>alert(1)</script>"
    task = (await api.post(TASKS, json={"task_name": name, "params": {"group_id": name}})).json()
    for path in (TASKS, f"{TASKS}/{task['task_id']}", "/v1/actions", f"/v1/groups/{name}x"):
        answer = await api.get(path)
        kind = answer.headers["content-type"]
        assert kind in ("application/json", "application/problem+json"), path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in answer.headers["content-security-policy"]


async def test_secrets_are_in_no_response_and_no_log(
    api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, registry: Database
) -> None:
    """Neither the token nor a password that somebody has put into parameters or reasons."""
    remember_secret(TOKEN)
    caplog.set_level(logging.DEBUG)
    url = "postgresql://user:hidden-word-7@host/db"
    body = {"task_name": "pipeline", "params": {"url": url, "t": TOKEN}, "reason": f"{url} {TOKEN}"}
    task = (await api.post(TASKS, json=body)).json()
    await api.post(f"{TASKS}/{task['task_id']}/retry", json={"reason": TOKEN})
    pages = [TASKS, f"{TASKS}/{task['task_id']}", f"{TASKS}/{task['task_id']}/history",
             "/v1/actions", f"/v1/queues/{TOKEN}"]  # fmt: skip
    ours = [each for each in caplog.records if not each.name.startswith(("httpx", "httpcore"))]
    logged = "".join(each.getMessage() for each in ours)
    shown = "".join([(await api.get(path)).text for path in pages])
    shown += logged + repr(list_actions(registry)) + repr(AccessRules(TOKEN))
    assert TOKEN not in shown
    assert "hidden-word-7" not in shown


@pytest.mark.parametrize("path", [f"/v1/queues/{QUEUE}/pause", f"/v1/queues/{QUEUE}/resume"])
@pytest.mark.parametrize("reason", ["a\x00b", "\x00", " \x00 "])
async def test_a_reason_with_nul_is_refused(
    api: httpx.AsyncClient, registry: Database, path: str, reason: str
) -> None:
    """Postgres has no text with it."""
    answer = await api.post(path, json={"reason": reason})
    assert answer.status_code == 422, answer.text
    assert list_actions(registry) == []


async def test_a_reason_may_have_lines(api: httpx.AsyncClient) -> None:
    answer = await api.post(f"/v1/queues/{QUEUE}/pause", json={"reason": "\ndisk\nfull\n"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b" " * 1_000_001, {}, 413),
        (b'{"task_name": "t", "params": ' + b'{"a":' * 40 + b"1" + b"}" * 41, {}, 422),
        (b"[" * 200_000, {}, 422),
        (b"{", {}, 422),
        (b'{"task_name": "t", "params": {"a": NaN}}', {}, 422),
        (b'{"task_name": "t\\u0000", "params": {}}', {}, 422),
        (b'{"task_name": "t", "params": {"a": "\\u0000"}}', {}, 422),
        (b'{"task_name": "t", "params": {"a": "\\ud800"}}', {}, 422),
        (b'{"task_name": "t", "params": {"a": ' + b"9" * 5000 + b"}}", {}, 400),
        (b"\xff", {}, 400),
        (b"{}", {"X-Long": "x" * 17_000}, 431),
        (b"{}", {"Idempotency-Key": "x" * 201}, 422),
    ],
)
async def test_bodies_and_headers_are_bounded(
    api: httpx.AsyncClient, body: bytes, headers: dict[str, str], status: int
) -> None:
    """Each is refused before anything is done with it."""
    kind = {"Content-Type": "application/json", **headers}
    answer = await api.post(TASKS, content=body, headers=kind)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["remedy"].endswith(".")
    assert (await api.get(TASKS)).json()["items"] == []


async def test_addresses_and_results_are_bounded(api: httpx.AsyncClient) -> None:
    """A page has at most 500 items, an address 4000 bytes."""
    assert (await api.get(f"{TASKS}?group={'x' * 4000}")).status_code == 414
    assert (await api.get(f"{TASKS}?limit=501")).status_code == 422


async def test_what_breaks_the_api_is_a_problem_too(
    backend: MemoryBackend, registry: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the traceback, the client has not."""

    async def breaks() -> Any:
        raise ZeroDivisionError("inner matters")

    site = Site("emulator", backend, registry)
    actions = Actions(backend, GivenTables(registry), "tester", "api")
    rules = AccessRules(TOKEN, hosts=("api.test",))
    app = make_api(site, actions, rules, read_overview=breaks)
    async with client_of(app) as client:
        answer = await client.get("/v1/overview")
    assert (answer.status_code, answer.json()["status"]) == (500, 500)
    assert "log of its service" in answer.json()["remedy"]
    assert "inner matters" not in answer.text
    assert "inner matters" in caplog.text


async def test_record_of_the_past_can_only_be_read(backend: MemoryBackend) -> None:
    """A finished simulation, say; with the right token too."""
    site = Site("emulator", backend)
    rules = AccessRules(TOKEN, hosts=("api.test",))
    app = make_api(site, None, rules)
    async with client_of(app, **AUTHORISED) as client:
        answer = await client.post(TASKS, json={"task_name": "pipeline"})
        assert (answer.status_code, json.loads(answer.text)["title"]) == (403, "Forbidden")
        assert (await client.get("/v1/groups")).json() == {"items": [], "next_cursor": None}
