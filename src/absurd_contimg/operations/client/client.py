"""`Client`: every operation of the API as a method, with the records of the API as answers.

    with Client("http://127.0.0.1:8000", token=token) as client:
        task = client.spawn("dsa110-pipeline", "pipeline", params, idempotency_key="night-7")
        client.cancel(task.queue, task.task_id, "wrong catalogue")

Needs httpx alone, which the extra ``web`` installs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast
from urllib.parse import quote
from uuid import UUID

import httpx

from absurd_contimg.core.records import State
from absurd_contimg.operations.client.records import (
    ActionEntry,
    BatchEntry,
    BatchItemEntry,
    GroupEntry,
    HealthEntry,
    HistoryEntry,
    Message,
    Page,
    PauseEntry,
    Problem,
    ProductEntry,
    QueueEntry,
    ServiceEntry,
    SpawnedEntry,
    TaskDetail,
    TaskEntry,
    WaitEntry,
    WindowEntry,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from absurd_contimg.operations.overview import SiteOverview

T = TypeVar("T")

_TIMEOUT_SECONDS = 30.0


class ApiError(Exception):
    """The API has refused: `problem` says what is wrong and what to do."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.detail} {problem.remedy}".strip())
        self.problem = problem

    @property
    def status(self) -> int:
        """The status of the response."""
        return self.problem.status


class Client:
    """The client; close it, or use it in a ``with`` statement.

    Methods raise `ApiError` for what the API refuses, and `httpx.TransportError` where there is no
    API. One that spawns can be repeated with the same idempotency key: it spawns once.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_seconds: float = _TIMEOUT_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Without a token the API can be read on the loopback interface.

        What is there needs no proxy: one of the environment would get the token.
        """
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(
            base_url=url,
            headers=headers,
            timeout=timeout_seconds,
            transport=transport,
            trust_env=not _is_loopback(httpx.URL(url).host),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # tasks

    def list_tasks(
        self,
        queue: str,
        *,
        state: Sequence[State] | None = None,
        task_name: str | None = None,
        group: str | None = None,
        id_suffix: str | None = None,
        failure: str | None = None,
        enqueued_from: datetime | None = None,
        enqueued_before: datetime | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[TaskEntry]:
        """A page of the tasks of a queue for which everything holds, the newest first."""
        parameters = {
            "state": state,
            "task_name": task_name,
            "group": group,
            "id_suffix": id_suffix,
            "failure": failure,
            "enqueued_from": enqueued_from and enqueued_from.isoformat(),
            "enqueued_before": enqueued_before and enqueued_before.isoformat(),
            "cursor": cursor,
            "limit": limit,
        }
        return self._page(TaskEntry, f"/v1/queues/{_part(queue)}/tasks", parameters)

    def get_task(self, queue: str, task_id: UUID) -> TaskDetail:
        """A task with what it has done."""
        return self._get(TaskDetail, _task(queue, task_id))

    def get_history(self, queue: str, task_id: UUID) -> HistoryEntry:
        """Everything that the database knows of a task."""
        return self._get(HistoryEntry, f"{_task(queue, task_id)}/history")

    def get_wait(self, queue: str, task_id: UUID) -> WaitEntry:
        """Why a task does nothing now."""
        return self._get(WaitEntry, f"{_task(queue, task_id)}/wait")

    def spawn(
        self,
        queue: str,
        task_name: str,
        params: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        reason: str = "",
    ) -> SpawnedEntry:
        """Spawn a task, or find the one that the same request with this key has spawned."""
        body = {"task_name": task_name, "params": params, "reason": reason}
        path = f"/v1/queues/{_part(queue)}/tasks"
        return self._post(SpawnedEntry, path, body, idempotency_key)

    def cancel(self, queue: str, task_id: UUID, reason: str = "") -> Message:
        """Cancel a task."""
        return self._post(Message, f"{_task(queue, task_id)}/cancel", {"reason": reason})

    def retry(self, queue: str, task_id: UUID, reason: str = "") -> SpawnedEntry:
        """Run a failed task again."""
        return self._post(SpawnedEntry, f"{_task(queue, task_id)}/retry", {"reason": reason})

    def fork(
        self,
        queue: str,
        task_id: UUID,
        step: str,
        *,
        idempotency_key: str | None = None,
        reason: str = "",
    ) -> SpawnedEntry:
        """A new task that begins at a step of one that has ended."""
        body = {"step": step, "reason": reason}
        return self._post(SpawnedEntry, f"{_task(queue, task_id)}/fork", body, idempotency_key)

    # queues

    def list_queues(self) -> Page[QueueEntry]:
        """All queues."""
        return self._page(QueueEntry, "/v1/queues", {})

    def get_queue(self, queue: str) -> QueueEntry:
        """One queue."""
        return self._get(QueueEntry, f"/v1/queues/{_part(queue)}")

    def pause_queue(self, queue: str, reason: str) -> PauseEntry:
        """Let workers claim nothing more from a queue."""
        return self._post(PauseEntry, f"/v1/queues/{_part(queue)}/pause", {"reason": reason})

    def resume_queue(self, queue: str, reason: str = "") -> PauseEntry:
        """Let workers claim from a queue again; the pause that has ended."""
        return self._post(PauseEntry, f"/v1/queues/{_part(queue)}/resume", {"reason": reason})

    def emit_event(
        self, queue: str, event_name: str, payload: Any = None, reason: str = ""
    ) -> Message:
        """Emit an event; the first payload of a name stays."""
        body = {"event_name": event_name, "payload": payload, "reason": reason}
        return self._post(Message, f"/v1/queues/{_part(queue)}/events", body)

    # batches

    def list_batches(self, *, cursor: str | None = None, limit: int = 100) -> Page[BatchEntry]:
        """A page of the batches, the newest first."""
        return self._page(BatchEntry, "/v1/batches", {"cursor": cursor, "limit": limit})

    def get_batch(self, batch_id: str) -> BatchEntry:
        """A batch."""
        return self._get(BatchEntry, f"/v1/batches/{_part(batch_id)}")

    def list_batch_items(
        self, batch_id: str, *, cursor: str | None = None, limit: int = 100
    ) -> Page[BatchItemEntry]:
        """A page of the items of a batch, in their order."""
        path = f"/v1/batches/{_part(batch_id)}/items"
        return self._page(BatchItemEntry, path, {"cursor": cursor, "limit": limit})

    def create_batch(
        self,
        kind: str,
        names: Sequence[str],
        *,
        ahead: int = 20,
        cap: int = 200,
        idempotency_key: str | None = None,
        reason: str = "",
    ) -> BatchEntry:
        """Make a batch of groups (``pipeline``) or windows (``mosaic``)."""
        body = {
            "kind": kind,
            "names": list(names),
            "ahead": ahead,
            "cap": cap,
            "reason": reason,
        }
        return self._post(BatchEntry, "/v1/batches", body, idempotency_key)

    def cancel_batch(self, batch_id: str, reason: str = "") -> BatchEntry:
        """Cancel a batch with its tasks."""
        return self._change_batch(batch_id, "cancel", reason)

    def pause_batch(self, batch_id: str, reason: str) -> BatchEntry:
        """Spawn nothing more of a batch."""
        return self._change_batch(batch_id, "pause", reason)

    def resume_batch(self, batch_id: str, reason: str = "") -> BatchEntry:
        """Go on with a paused batch."""
        return self._change_batch(batch_id, "resume", reason)

    def _change_batch(self, batch_id: str, change: str, reason: str) -> BatchEntry:
        path = f"/v1/batches/{_part(batch_id)}/{change}"
        return self._post(BatchEntry, path, {"reason": reason})

    # groups, windows, products

    def list_groups(
        self, *, status: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[GroupEntry]:
        """A page of the observation groups, the newest first."""
        parameters = {"status": status, "cursor": cursor, "limit": limit}
        return self._page(GroupEntry, "/v1/groups", parameters)

    def get_group(self, group_id: str) -> GroupEntry:
        """A group."""
        return self._get(GroupEntry, f"/v1/groups/{_part(group_id)}")

    def reopen_group(self, group_id: str, reason: str = "") -> GroupEntry:
        """Collect the files of a closed group again."""
        path = f"/v1/groups/{_part(group_id)}/reopen"
        return self._post(GroupEntry, path, {"reason": reason})

    def list_windows(self, *, cursor: str | None = None, limit: int = 100) -> Page[WindowEntry]:
        """A page of the windows."""
        return self._page(WindowEntry, "/v1/windows", {"cursor": cursor, "limit": limit})

    def get_window(self, window_id: str) -> WindowEntry:
        """A window."""
        return self._get(WindowEntry, f"/v1/windows/{_part(window_id)}")

    def list_products(
        self,
        *,
        stage: str | None = None,
        group: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[ProductEntry]:
        """A page of the products, the newest first."""
        parameters = {"stage": stage, "group": group, "cursor": cursor, "limit": limit}
        return self._page(ProductEntry, "/v1/products", parameters)

    def get_product(self, key: str) -> ProductEntry:
        """A product."""
        return self._get(ProductEntry, f"/v1/products/{_part(key)}")

    def get_quicklook(self, key: str) -> bytes:
        """The picture of an image or mosaic (PNG)."""
        return self._request("GET", f"/v1/products/{_part(key)}/quicklook").content

    # the site

    def get_overview(self) -> SiteOverview:
        """The site at one moment."""
        from absurd_contimg.operations.overview import (  # noqa: PLC0415 - slow
            SiteOverview,
        )

        return self._get(SiteOverview, "/v1/overview")

    def list_services(self) -> Page[ServiceEntry]:
        """Workers, daemons and APIs of all hosts."""
        return self._page(ServiceEntry, "/v1/services", {})

    def list_actions(
        self, *, target: str | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[ActionEntry]:
        """A page of what people did, the newest first."""
        parameters = {"target": target, "cursor": cursor, "limit": limit}
        return self._page(ActionEntry, "/v1/actions", parameters)

    def get_metrics(self) -> str:
        """All figures in the text format of Prometheus."""
        return self._request("GET", "/metrics").text

    def get_live(self) -> HealthEntry:
        """Whether the API answers."""
        return self._get(HealthEntry, "/health/live")

    def get_ready(self) -> HealthEntry:
        """Whether its database answers too; raises `ApiError` with status 503 if not."""
        return self._get(HealthEntry, "/health/ready")

    def _get(self, kind: type[T], path: str) -> T:
        return decode(kind, self._request("GET", path).json())

    def _page(self, kind: type[T], path: str, parameters: Mapping[str, Any]) -> Page[T]:
        given = {name: value for name, value in parameters.items() if value is not None}
        body = self._request("GET", path, parameters=given).json()
        return Page(tuple(decode(kind, item) for item in body["items"]), body["next_cursor"])

    def _post(
        self,
        kind: type[T],
        path: str,
        body: Mapping[str, Any],
        idempotency_key: str | None = None,
    ) -> T:
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return decode(kind, self._request("POST", path, body=body, headers=headers).json())

    def _request(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        response = self._http.request(method, path, params=parameters, json=body, headers=headers)
        if response.is_error:
            raise ApiError(_problem(response))
        return response


def all_items(ask: Callable[[str | None], Page[T]]) -> Iterator[T]:
    """The items of all pages: ``all_items(lambda c: client.list_groups(cursor=c))``."""
    cursor: str | None = None
    while True:
        page = ask(cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def decode(kind: type[T], value: Any) -> T:
    """The record in JSON; `ValueError` if it is none."""
    from pydantic import TypeAdapter  # noqa: PLC0415 - takes a moment

    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return cast(T, _adapters[kind].validate_python(value))


_adapters: dict[type, TypeAdapter[Any]] = {}
"""Made once for each record."""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _problem(response: httpx.Response) -> Problem:
    try:
        return decode(Problem, response.json())
    except ValueError:  # not from the API: a proxy before it, say
        return Problem(response.reason_phrase, response.status_code, response.text[:500])


def _task(queue: str, task_id: UUID) -> str:
    return f"/v1/queues/{_part(queue)}/tasks/{task_id}"


def _part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")
