"""Histories as no worker of ours writes them: every page answers, and shows them as text."""

from __future__ import annotations

import asyncio
import re
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from absurd_contimg.core.records import INFINITY, Checkpoint, History, Run, Task, Wait
from absurd_contimg.history.history_file import write_histories
from absurd_contimg.operations.dashboard import add_dashboard, history_source
from absurd_contimg.operations.dashboard.frame import MENU

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
texts = st.text(max_size=12) | st.sampled_from(
    ["<b>", "\x1b[2J", "2025-01-15T10:00:00", "W2025-01-15T10:00:00-ab", "a/b", "..", "\x00", "é"]
)
times = st.sampled_from([datetime.min.replace(tzinfo=UTC), INFINITY]) | st.integers(
    -100_000, 100_000
).map(lambda seconds: EPOCH + timedelta(seconds=seconds))
optional_times = st.none() | times
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
states = st.sampled_from(["pending", "running", "sleeping", "completed", "failed", "cancelled"])
outcomes = (
    st.none()
    | values
    | st.builds(
        lambda action, kind, message: {"action": action, "kind": kind, "message": message},
        st.sampled_from(["retry", "waiting", "failed", "lost", "poison", "odd"]),
        texts,
        texts,
    )
)
reasons = values | st.fixed_dictionaries(
    {"name": texts, "message": texts, "kind": values, "rule": values, "action": values},
    optional={"logs": values, "traceback": texts, "path": values, "step": values},
)
results = values | st.fixed_dictionaries(
    {"verdict": values, "outputs": values | st.fixed_dictionaries({"image": values})}
)


@st.composite
def histories(draw: st.DrawFn) -> list[History]:
    tasks = []
    for number in range(draw(st.integers(1, 3))):
        task_id = UUID(int=(7 << 76) | (2 << 62) | number)
        run_ids = [UUID(int=(7 << 76) | (2 << 62) | 1000 + 10 * number + n) for n in range(2)]
        runs = tuple(
            Run(
                *(run_id, task_id, attempt, draw(states), draw(st.none() | texts)),
                *(draw(optional_times), draw(times), draw(st.none() | texts), draw(values)),
                *(draw(optional_times), draw(optional_times), draw(optional_times)),
                *(draw(values), draw(reasons), draw(times)),
            )
            for attempt, run_id in enumerate(run_ids[: draw(st.integers(0, 2))], 1)
        )
        params = draw(values | st.fixed_dictionaries({"group_id": texts}, optional={"x": values}))
        task = Task(
            *(task_id, draw(texts), params, draw(values), draw(values), None, draw(values)),
            *(draw(times), draw(optional_times), draw(states), draw(st.integers(0, 9))),
            *(run_ids[0] if runs else None, draw(results), draw(optional_times), None),
        )
        checkpoints = []
        for step in draw(st.lists(texts, max_size=2, unique=True)):
            starts = [
                {
                    "start": n,
                    "attempt": 1,
                    "run_id": str(run_ids[0]),
                    "worker": draw(texts),
                    "started_at": (EPOCH + timedelta(seconds=draw(st.integers(0, 99)))).isoformat(),
                    "outcome": draw(outcomes),
                }
                for n in range(1, draw(st.integers(1, 3)))
            ]
            state = draw(st.just({"starts": starts, "waits": {}}) | values)
            checkpoints.append(Checkpoint(f"$start:{step}", state, "committed", None, draw(times)))
            if draw(st.booleans()):
                saved = draw(
                    values | st.fixed_dictionaries({"product": values, "outputs": results})
                )
                checkpoints.append(Checkpoint(step, saved, "committed", None, draw(times)))
        waits = ()
        if runs and draw(st.booleans()):
            waits = (
                Wait(task_id, run_ids[0], draw(texts), draw(texts), draw(optional_times), EPOCH),
            )
        tasks.append(History("q<1>", task, runs, tuple(checkpoints), waits))
    return tasks


async def read_all_pages(path: Path) -> None:
    app = FastAPI()
    add_dashboard(app, history_source(path).site, live=False)
    transport = httpx.ASGITransport(app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        pages = ["/waiting", *(address for _, address, _ in MENU), "/workers?hours=48"]

        while pages:
            address = pages.pop()
            response = await client.get(address)
            assert response.status_code == 200, address
            assert "<b>" not in response.text
            assert "\x1b" not in response.text
            if address in ("/", "/tasks", "/waiting"):
                links = re.findall(r'href="(/(?:tasks/|nights/)[^"?]*)"', response.text)
                pages += sorted(set(links))[:4]
            if address.startswith("/tasks/") and "/log" not in address:
                logs = re.findall(r'href="(/tasks/[^"]*/log[^"]*)"', response.text)
                pages += [log.replace("&amp;", "&") for log in logs[:1]]


@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(histories())
def test_every_page_answers(drawn: list[History]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "histories.gz"
        write_histories(path, drawn, read_at=EPOCH)
        asyncio.run(read_all_pages(path))
