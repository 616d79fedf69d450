"""Tasks through the API, on the emulator and on Postgres."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_sites import AUTHORISED, api_of, client_of
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.core.backend import Backend
from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.operations.services.repeated_requests import is_same_json
from absurd_contimg.registry.database import Database
from absurd_contimg.registry.operator_actions import list_actions

QUEUE = "dsa110-pipeline"
TASKS = f"/v1/queues/{QUEUE}/tasks"
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@pytest.fixture
def registry(tmp_path: Path) -> Database:
    return Database(tmp_path / "registry.sqlite3")


@pytest.fixture
async def api(backend: Backend, registry: Database) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(api_of(backend, registry), **AUTHORISED) as client:
        yield client


async def test_spawned_task_is_listed_shown_and_cancelled(
    api: httpx.AsyncClient, backend: Backend, registry: Database
) -> None:
    """And the record says who did it."""
    body = {"task_name": "pipeline", "params": {"group_id": "G1"}, "reason": "a test"}
    key = {"Idempotency-Key": "G1"}
    first = (await api.post(TASKS, json=body, headers=key)).json()
    again = (await api.post(TASKS, json=body, headers=key)).json()
    assert (first["created"], again["created"]) == (True, False)
    assert first["task_id"] == again["task_id"]

    listed = (await api.get(TASKS, params={"group": "G1"})).json()["items"]
    assert [(each["group"], each["state"]) for each in listed] == [("G1", "pending")]

    task = f"{TASKS}/{first['task_id']}"
    assert (await api.get(task)).json()["params"] == {"group_id": "G1"}
    cancelled = await api.post(f"{task}/cancel", json={"reason": "enough"})
    assert "is cancelled" in cancelled.json()["message"]
    assert (await api.get(task)).json()["task"]["state"] == "cancelled"

    records = [(a.action, a.by, a.source, a.reason, a.outcome) for a in list_actions(registry)]
    assert records == [
        ("cancel", "tester@here", "api", "enough", "done"),
        ("spawn", "tester@here", "api", "a test", "done"),
        ("spawn", "tester@here", "api", "a test", "done"),
    ]


async def test_a_key_of_another_request_is_refused(api: httpx.AsyncClient) -> None:
    """It answered 200, and the second group was never spawned."""
    key = {"Idempotency-Key": "K"}
    params = {"group_id": "G1", "n": [1e23, 1.0, True], "more": {"a": None, "b": "x"}}
    first = await api.post(TASKS, json={"task_name": "pipeline", "params": params}, headers=key)
    task = first.json()["task_id"]
    same = {"more": {"b": "x", "a": None}, "n": [1e23, 1, True], "group_id": "G1"}
    again = await api.post(TASKS, json={"task_name": "pipeline", "params": same}, headers=key)
    assert (again.status_code, again.json()["created"]) == (200, False)
    for name, other in (
        ("pipeline", {**params, "group_id": "G2"}),
        ("pipeline", {**params, "n": [1e23, 1, 1]}),
        ("pipeline", {"group_id": "G1"}),
        ("pipeline", {}),
        ("mosaic", params),
    ):
        refused = await api.post(TASKS, json={"task_name": name, "params": other}, headers=key)
        assert refused.status_code == 422
        assert f"The idempotency key 'K' belongs to task {task}, which has" in refused.text
    assert [each["task_id"] for each in (await api.get(TASKS)).json()["items"]] == [task]


async def test_a_key_of_another_fork_is_refused(api: httpx.AsyncClient, backend: Backend) -> None:
    """Also the key of a task that is no fork."""
    name, parents = "pipeline", []
    for group in ("G1", "G2"):
        params = {"group_id": group}
        task = await backend.spawn_task(QUEUE, name, params, SpawnOptions(idempotency_key=group))
        parents.append(f"{TASKS}/{task.task_id}/fork")
        (claimed,) = await backend.claim_task(QUEUE, "w", 60)
        for step in ("a", "b"):
            await backend.set_task_checkpoint_state(
                QUEUE, claimed.task_id, step, 1, claimed.run_id, 60
            )
        await backend.complete_run(QUEUE, claimed.run_id, None)

    async def fork(address: str, step: str, key: str) -> httpx.Response:
        return await api.post(address, json={"step": step}, headers={"Idempotency-Key": key})

    first = (await fork(parents[0], "a", "F")).json()
    await api.post(f"{TASKS}/{first['task_id']}/cancel", json={})
    assert (await fork(parents[0], "a", "F")).json()["created"] is False
    for address, step, key in (
        (parents[1], "a", "F"),
        (parents[0], "b", "F"),
        (parents[0], "a", "G1"),
    ):
        refused = await fork(address, step, key)
        assert refused.status_code == 422
        assert f"The idempotency key '{key}' belongs to task" in refused.text


@given(values)
def test_json_is_the_same_as_itself_read_again(value: Any) -> None:
    """And not as itself with something beside it."""
    assert is_same_json(json.loads(json.dumps(value)), value)
    assert not is_same_json([value], value)
    assert not is_same_json([value], [value, value])


async def test_pages_of_tasks_end_where_the_list_ends(api: httpx.AsyncClient) -> None:
    """Each task is on one page, the newest first."""
    for number in range(5):
        await api.post(TASKS, json={"task_name": "pipeline", "params": {"group_id": f"G{number}"}})
    groups, cursor = [], None
    for _ in range(3):
        page = await api.get(TASKS, params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        groups.append([each["group"] for each in page.json()["items"]])
        cursor = page.json()["next_cursor"]
    assert groups == [["G4", "G3"], ["G2", "G1"], ["G0"]]
    assert cursor is None


async def test_read_that_has_not_changed_is_not_sent_again(api: httpx.AsyncClient) -> None:
    """The ETag changes with the list."""
    first = await api.get(TASKS)
    known = {"If-None-Match": first.headers["etag"]}
    same = await api.get(TASKS, headers=known)
    assert (same.status_code, same.content) == (304, b"")
    await api.post(TASKS, json={"task_name": "pipeline"})
    assert (await api.get(TASKS, headers=known)).status_code == 200


async def test_a_cursor_of_another_list_is_refused(
    api: httpx.AsyncClient, backend: Backend
) -> None:
    """The answer was an empty list, as at the end of the tasks or groups."""
    await backend.create_queue("other")
    for _ in range(2):
        await api.post(TASKS, json={"task_name": "pipeline"})
    cursor = (await api.get(TASKS, params={"limit": 1})).json()["next_cursor"]
    lists = ("groups", "products", "windows", "actions", "batches", "queues/other/tasks")
    for path in lists:
        answer = await api.get(f"/v1/{path}", params={"cursor": cursor})
        assert (answer.status_code, answer.json()["remedy"]) == (422, "Begin without a cursor."), (
            path
        )
    assert len((await api.get(TASKS, params={"cursor": cursor})).json()["items"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", f"{TASKS}/019a0000-0000-7000-8000-000000000000", 404, "There is no task"),
        ("GET", "/v1/queues/nothing/tasks", 404, "nothing"),
        ("GET", "/nothing", 404, "Not Found"),
        ("DELETE", TASKS, 405, "Method Not Allowed"),
        ("GET", f"{TASKS}/no-id", 422, "path.task_id"),
        ("GET", f"{TASKS}?cursor=!", 422, "cursor"),
        ("GET", f"{TASKS}?limit=1000", 422, "query.limit"),
    ],
)
async def test_every_error_is_a_problem_document(
    api: httpx.AsyncClient, method: str, path: str, status: int, says: str
) -> None:
    """RFC 9457, whatever noticed it."""
    answer = await api.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert says in answer.json()["detail"]


async def test_a_queue_without_an_address_is_reached_by_the_command(api: httpx.AsyncClient) -> None:
    """Its slash is decoded before it is looked up, and the client takes the dots away."""
    for path in ("/v1/queues/a%2Fb/tasks", "/v1/queues/../tasks"):
        answer = await api.get(path)
        assert answer.status_code == 404
        assert "contimg --queue NAME status" in answer.json()["remedy"]


async def test_task_that_has_not_failed_cannot_be_retried(
    api: httpx.AsyncClient, registry: Database
) -> None:
    """A conflict, and the record has the refusal."""
    task = (await api.post(TASKS, json={"task_name": "pipeline"})).json()
    answer = await api.post(f"{TASKS}/{task['task_id']}/retry", json={})
    assert (answer.status_code, answer.json()["title"]) == (409, "Conflict")
    assert "is pending, not failed" in list_actions(registry)[0].outcome
