"""The typed client against the real application on a real socket."""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from api_sites import TOKEN, api_of
from image_products import commit_tiles
from served_api import QUEUE, served_in_thread
from sqlalchemy import delete
from synthetic_tiles import TilePlan

from absurd_contimg.backends.memory import MemoryBackend, MemoryDatabase
from absurd_contimg.operations.api import AccessRules
from absurd_contimg.operations.client import ApiError, Client, all_items
from absurd_contimg.registry import Registry
from absurd_contimg.registry.models import ObservationGroup
from absurd_contimg.registry.windows import (
    Window,
    WindowMember,
    WindowRow,
    WindowState,
    store_windows,
)
from absurd_contimg.settings import load_settings

UNKNOWN = UUID("019a0000-0000-7000-8000-000000000000")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def registry(folder: Path) -> Registry:
    """With two image products."""
    output_dir = folder / "products"
    registry = Registry(folder / "registry.sqlite3", output_dir=output_dir)
    commit_tiles(output_dir, registry, [TilePlan(0.0, 54.6), TilePlan(1.0, 54.6)], [])
    with registry.database.writing() as session:
        for row in session.query(ObservationGroup):
            row.ingest_state = "closed"
    (folder / "catalog.csv").write_text("name\n")
    return registry


@pytest.fixture(scope="module")
def url(folder: Path, registry: Registry) -> Iterator[str]:
    @asynccontextmanager
    async def make() -> AsyncIterator[Any]:
        backend = MemoryBackend(MemoryDatabase())
        await backend.create_queue(QUEUE)
        settings = load_settings(
            {}, (), {"PIPELINE_OUTPUT_DIR": str(folder / "products"),
                     "PIPELINE_INPUT_DIR": str(folder),
                     "PIPELINE_PRODUCTS_DB": str(folder / "registry.sqlite3")},
        )  # fmt: skip
        yield api_of(backend, registry.database, AccessRules(TOKEN), settings=settings)

    with served_in_thread(make) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, TOKEN) as client:
        yield client


def test_every_operation_has_a_method(client: Client, url: str) -> None:
    """By method and path, as the source of the client writes them."""
    described = {
        (method.upper(), re.sub(r"{\w+}", "*", path))
        for path, methods in httpx.get(f"{url}/openapi.json").json()["paths"].items()
        for method in methods
    }
    asked: set[tuple[str, str]] = set()

    def note(request: httpx.Request) -> httpx.Response:
        path = re.sub(r"(?<=/)X+(?=/|$)", "*", request.url.path)
        asked.add((request.method, path.replace(str(UNKNOWN), "*")))
        return httpx.Response(418, text="")

    recorder = Client("http://x", transport=httpx.MockTransport(note))
    values = {"queue": "X", "task_id": UNKNOWN, "task_name": "t", "params": {}, "step": "s",
              "reason": "r", "event_name": "e", "batch_id": "X", "kind": "pipeline", "names": ["n"],
              "group_id": "X", "window_id": "X", "key": "X"}  # fmt: skip
    for name, method in inspect.getmembers(recorder, inspect.ismethod):
        if name.startswith("_") or name == "close":
            continue
        needed = [
            parameter.name
            for parameter in inspect.signature(method).parameters.values()
            if parameter.default is inspect.Parameter.empty
        ]
        with pytest.raises(ApiError):
            method(**{each: values[each] for each in needed})
    assert asked == described


def test_task_from_its_spawn_to_its_fork(client: Client) -> None:
    """Each answer is a record with types."""
    task = client.spawn(QUEUE, "pipeline", {"group_id": "G/1 ?#"}, idempotency_key="k")
    assert task.created
    assert not client.spawn(QUEUE, "pipeline", {"group_id": "G/1 ?#"}, idempotency_key="k").created
    assert client.list_tasks(QUEUE, state=["pending"], group="G/1 ?#").items[0].task_id == (
        task.task_id
    )
    detail = client.get_task(QUEUE, task.task_id)
    assert (detail.task.state, detail.params) == ("pending", {"group_id": "G/1 ?#"})
    assert client.get_wait(QUEUE, task.task_id).why
    assert client.get_history(QUEUE, task.task_id).runs[0].attempt == 1
    assert "cancelled" in client.cancel(QUEUE, task.task_id, "a test").message
    assert client.get_task(QUEUE, task.task_id).ended_at is not None
    with pytest.raises(ApiError, match="has no step 'image'; there are: none") as refused:
        client.fork(QUEUE, task.task_id, "image")
    assert refused.value.status == 409
    with pytest.raises(ApiError, match="cancelled, not failed"):
        client.retry(QUEUE, task.task_id)
    assert client.list_actions(target=str(task.task_id)).items[0].outcome.startswith("Task")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_gets_the_token_of_an_api_on_this_host(
    url: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with Client(url.replace("127.0.0.1", host), TOKEN) as client:
        assert client.list_queues()


def test_queues_and_events(client: Client) -> None:
    """A pause has a reason and an author."""
    pause = client.pause_queue(QUEUE, "disk is full")
    assert (pause.reason, pause.by) == ("disk is full", "tester@here")
    assert client.get_queue(QUEUE).pause == pause
    with pytest.raises(ApiError, match="Nothing to do"):
        client.pause_queue(QUEUE, "again")
    assert client.resume_queue(QUEUE) == pause
    assert [queue.pause for queue in client.list_queues().items if queue.queue == QUEUE] == [None]
    assert "emitted" in client.emit_event(QUEUE, "go", {"n": 1}).message


def test_batches(client: Client, registry: Registry) -> None:
    """The idempotency key is the id of the batch."""
    groups = [group.group_id for group in registry.groups()]
    with pytest.raises(ApiError, match="no group with files called 'nothing'"):
        client.create_batch("pipeline", ["nothing"])
    with pytest.raises(ApiError) as refused:
        client.create_batch("mosaic", groups)
    assert refused.value.status == 404
    with pytest.raises(ApiError, match="There is no batch"):
        client.cancel_batch("nothing")
    assert client.list_batches().items == ()


def test_a_batch_from_its_plan_to_its_end(client: Client, registry: Registry) -> None:
    """Made once for a key, shown with its items, paused, resumed, and cancelled as a whole."""
    groups = [group.group_id for group in registry.groups()]
    members = tuple(WindowMember(group, 61000.0) for group in groups)
    window = Window("W1", WindowState.CLOSED, 61000.0, 61000.1, 54.6, members, {})
    store_windows(registry.database, [window])
    batch = client.create_batch("mosaic", ["W1"], ahead=1, idempotency_key="b1", reason="new gates")
    assert (batch.batch_id, batch.state, batch.items_by_state["waiting"]) == ("b1", "active", 1)
    assert client.create_batch("mosaic", ["W1"], ahead=1, idempotency_key="b1") == batch
    for other in (
        partial(client.create_batch, "mosaic", ["W2"], ahead=1),
        partial(client.create_batch, "pipeline", ["W1"], ahead=1),
        partial(client.create_batch, "mosaic", ["W1"]),
    ):
        with pytest.raises(ApiError, match="'b1' belongs to batch b1, which has") as refused:
            other(idempotency_key="b1")
        assert refused.value.status == 422
    assert client.get_batch("b1") == batch == client.list_batches().items[0]
    (item,) = client.list_batch_items("b1").items
    assert (item.name, item.state, item.task_id) == ("W1", "waiting", None)
    assert client.pause_batch("b1", "maintenance").state == "paused"
    assert client.resume_batch("b1").state == "active"
    cancelled = client.cancel_batch("b1", "wrong gates")
    assert (cancelled.state, cancelled.items_by_state["cancelled"]) == ("cancelled", 1)
    with pytest.raises(ApiError):
        client.resume_batch("b1")
    actions = [each.action for each in client.list_actions(target="b1").items]
    assert {"pause batch", "resume batch", "cancel batch"} <= set(actions)
    with registry.database.writing() as session:
        session.execute(delete(WindowRow))


def test_groups_products_and_pictures(client: Client) -> None:
    """A picture is a PNG, and the same again costs nothing."""
    groups = list(all_items(lambda cursor: client.list_groups(cursor=cursor, limit=1)))
    assert len(groups) == 2
    assert client.get_group(groups[0].group_id) == groups[0]
    products = list(all_items(lambda cursor: client.list_products(cursor=cursor, limit=1)))
    assert len(products) == len({product.key for product in products}) >= 2
    image = client.list_products(stage="image").items[0]
    assert client.get_product(image.key) == image
    assert client.get_quicklook(image.key).startswith(b"\x89PNG")
    assert client.reopen_group(groups[0].group_id, "more files").files_version == 2


def test_the_site(client: Client) -> None:
    """Overview, metrics, health, services."""
    assert client.get_overview().source == "emulator"
    assert "# HELP" in client.get_metrics()
    assert (client.get_live().status, client.get_ready().status) == ("live", "ready")
    assert client.list_services().items == ()
    assert client.list_windows().items == ()
