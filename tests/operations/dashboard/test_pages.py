"""Pages without a browser: every page over every source, with hostile texts, and who may act."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from dashboard_sites import DIED, HOSTILE, NIGHT, PENDING, QUEUE, TOKEN, LivelySite, lively_site

from absurd_contimg.operations.dashboard import snapshots
from absurd_contimg.operations.dashboard.frame import MENU
from absurd_contimg.operations.dashboard.nights import read_totals
from absurd_contimg.registry.operator_actions import list_actions

PAGES = ["/waiting", *(address for _, address, _ in MENU)]
OF_A_KIND_MAX = 4
FORM = {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> LivelySite:
    """Of tests that change nothing."""
    return asyncio.run(lively_site(tmp_path_factory.mktemp("site")))


@pytest.fixture
async def fresh(tmp_path: Path) -> LivelySite:
    """Of one test, without products."""
    return await lively_site(tmp_path, with_products=False)


@asynccontextmanager
async def client_of(lively: LivelySite) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(lively.app, raise_app_exceptions=True)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as reader:
        yield reader


@pytest.fixture
async def client(lively: LivelySite) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(lively) as reader:
        yield reader


@pytest.fixture
async def operator(fresh: LivelySite) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(fresh) as reader:
        yield reader


async def log_in(client: httpx.AsyncClient) -> None:
    response = await client.post("/login", data={"token": TOKEN, "next": "/tasks"}, headers=FORM)
    assert (response.status_code, response.headers["location"]) == (303, "/tasks")
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie


def addresses(text: str) -> set[str]:
    """The addresses of our own pages in a page."""
    texts = re.findall(r'(?:href|src|action)="([^"]*)"', text)
    return {address.replace("&amp;", "&") for address in texts}


def kind_of(address: str) -> str:
    """What addresses of one kind have in common: of each, a few are enough."""
    path, _, query = address.partition("?")
    parts = [part if part.isalpha() else "*" for part in path.split("/")]
    return "/".join(parts) + "?" + "&".join(item.partition("=")[0] for item in query.split("&"))


async def test_every_page_and_every_link_answers(
    client: httpx.AsyncClient, lively: LivelySite
) -> None:
    """Also the links of the pages; no hostile text is markup, and each page forbids scripts."""
    groups = (HOSTILE, DIED, f"{NIGHT}T10:10:00")
    tasks = [f"/tasks/{QUEUE}/{lively.tasks[group]}" for group in groups]
    wanted = {"/reports/2025-01-15", f"/nights/{NIGHT}"}
    waiting, seen = deque([*PAGES, *tasks]), set()
    kinds: Counter[str] = Counter()
    while waiting:
        address = waiting.popleft()
        if address in seen or not address.startswith("/"):
            continue
        kinds[kind_of(address)] += 1
        if address not in {*PAGES, *wanted} and kinds[kind_of(address)] > OF_A_KIND_MAX:
            continue
        seen.add(address)
        response = await client.get(address)
        assert response.status_code == 200, address
        if not response.headers["content-type"].startswith("text/html"):
            continue
        assert "<img src=x" not in response.text, address
        assert "\x1b" not in response.text, address
        if address.startswith("/reports/"):
            assert "sandbox" in response.headers["content-security-policy"]
            continue
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'")
        assert "unsafe" not in policy
        waiting += addresses(response.text.partition("<form")[0])
        waiting += addresses(response.text.rpartition("</form>")[2])
    assert wanted <= seen
    assert sum("/log?" in address for address in seen) == OF_A_KIND_MAX
    assert sum("/quicklook" in address for address in seen) == 2
    assert any(address.startswith("/sources/") for address in seen)


async def test_task_page_tells_why_it_waits_and_what_died(
    client: httpx.AsyncClient, lively: LivelySite
) -> None:
    async def page(group: str) -> str:
        return (await client.get(f"/tasks/{QUEUE}/{lively.tasks[group]}")).text

    died = await page(DIED)
    assert "its worker died" in died
    assert 'class="b b-died"' in died
    assert ">adopted<" in died
    full = await page(f"{NIGHT}T10:15:00")
    assert "disk-full" in full
    assert "Free space" in full
    failed = await page(f"{NIGHT}T10:10:00")
    assert "reset &lt;img src=x onerror=alert(1)&gt;" in failed
    assert "calibration" in await page(f"{NIGHT}T10:20:00")
    log = await client.get(
        f"/tasks/{QUEUE}/{lively.tasks[f'{NIGHT}T10:10:00']}/log?step=image&start=1"
    )
    assert "SEVERE\ttclean &lt;img" in log.text
    assert "the end of the process" in log.text
    assert "ConnectionError" in log.text


@pytest.mark.parametrize(
    ("query", "groups"),
    [
        ("state=failed", {f"{NIGHT}T10:10:00", "hostile"}),
        ("state=live&kind=connection", set()),
        ("kind=connection", {f"{NIGHT}T10:10:00", "hostile"}),
        (f"group={NIGHT}T10:05:00", {f"{NIGHT}T10:05:00"}),
        ('arguments={"flag": "wait"}', {f"{NIGHT}T10:20:00"}),
        ("night=1999-01-01", set()),
        ("name=nothing", set()),
        ("state=pending&name=pipeline", {PENDING}),
    ],
)
async def test_filters_in_the_address(
    client: httpx.AsyncClient, query: str, groups: set[str]
) -> None:
    text = (await client.get(f"/tasks?queue={QUEUE}&{query}")).text
    shown = set(re.findall(r'data-label="group"><span><a href="[^"]*">([^<]*)<', text))
    assert {"hostile" if "onerror" in name else name for name in shown} == groups


@pytest.mark.parametrize(
    "query",
    [
        *("state=no", "night=x", "arguments=[]", "arguments={", "declination=north", "product=x"),
        *("declination=16.1", "before=x", "queue=../x", f"group={'9' * 600}", "night=9999-12-31"),
    ],
)
async def test_odd_filters_are_explained(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/tasks?{query}")).status_code == 200


async def test_a_queue_that_is_not_of_the_site_is_not_replaced(
    fresh: LivelySite, operator: httpx.AsyncClient
) -> None:
    """Beside a button that cancels all that are shown."""
    await log_in(operator)
    await fresh.backend.create_queue("of another")
    for queue, problem in (
        ("nosuch", "There is no queue nosuch; there is"),
        ("of another", "contimg --queue &#39;of another&#39; status"),
    ):
        text = (await operator.get("/tasks", params={"queue": queue})).text
        assert problem in text
        assert f"<option selected>{queue}</option>" in text
        assert "Cancel live" not in text
        assert 'data-label="group"' not in text
        for answer in (
            await operator.get("/bulk", params={"queue": queue, "action": "cancel"}),
            await operator.post("/bulk", data={"queue": queue, "action": "cancel"}, headers=FORM),
        ):
            assert (answer.status_code, problem in answer.text) == (404, True)
    assert "Cancel live" in (await operator.get("/tasks?queue=")).text


@pytest.mark.parametrize(
    "address",
    [
        *("/tasks/no/01a22648-d0b0-7df7-bce3-02177d55bb9f", f"/tasks/{QUEUE}/x", "/nights/x"),
        *("/reports/..%2fregistry", "/reports/2025-01-16", "/products/..%2f..%2fx/quicklook"),
        *("/sources/no", "/bulk?action=drop", f"/tasks/{QUEUE}/x/log?step=..%2f..&start=1"),
    ],
)
async def test_what_is_not_there_is_a_page_of_404(client: httpx.AsyncClient, address: str) -> None:
    response = await client.get(address)
    assert response.status_code == 404
    if "%2f" not in address:
        assert "Not there" in response.text


async def test_every_page_answers_with_the_registry_in_postgres(
    tmp_path: Path, database_url: str
) -> None:
    """Its sums are decimals there."""
    lively = await lively_site(tmp_path, registry_url=database_url)
    async with client_of(lively) as client:
        for address in (*PAGES, f"/nights/{NIGHT}", "/sources/S1"):
            assert (await client.get(address)).status_code == 200, address
    totals = await asyncio.to_thread(read_totals, lively.registry.database)
    assert totals.product_bytes["2025-01-13"] > 0.0


async def test_without_the_token_nothing_changes(
    client: httpx.AsyncClient, lively: LivelySite
) -> None:
    """Nor with a form of another site, nor with a wrong token."""
    task = lively.tasks[f"{NIGHT}T10:10:00"]
    addresses_of_actions = [
        *(f"/tasks/{QUEUE}/{task}/{action}" for action in ("retry", "cancel", "fork")),
        *("/bulk", f"/queues/{QUEUE}/pause", "/schedules/nightly/run", "/logout"),
    ]
    for address in addresses_of_actions:
        assert (await client.post(address, headers=FORM)).status_code in (401, 403), address
    wrong = await client.post("/login", data={"token": "guess"}, headers=FORM)
    assert (wrong.status_code, "not the token" in wrong.text) == (403, True)
    await log_in(client)
    for headers in (
        {"Origin": "http://evil.test", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://evil.test"},
        {},
    ):
        for address in addresses_of_actions:
            assert (await client.post(address, headers=headers)).status_code == 403, address
    assert list_actions(lively.registry.database) == []


async def test_actions_are_done_and_recorded(
    operator: httpx.AsyncClient, fresh: LivelySite
) -> None:
    client, lively = operator, fresh
    await log_in(client)
    task = f"/tasks/{QUEUE}/{lively.tasks[f'{NIGHT}T10:10:00']}"
    page = (await client.get(task)).text
    assert f'action="{task}/retry"' in page

    async def post(address: str, **form: str) -> str:
        response = await client.post(address, data=form, headers=FORM)
        assert response.status_code == 303, response.text
        return (await client.get(response.headers["location"])).text

    assert "It is tried again" in await post(f"{task}/retry", reason="network <b>back</b>")
    assert "Nothing was done" in await post(f"{task}/retry")
    assert "is cancelled" in await post(f"{task}/cancel", reason="enough")
    forked = await post(f"{task}/fork", step="image", reason="again")
    assert "Forked from task" in forked
    assert "Nothing was done" in await post(f"{task}/fork", step="no such step")
    assert "is paused" in await post(f"/queues/{QUEUE}/pause", reason=HOSTILE)
    assert "needs a reason" not in (await client.get("/queues")).text
    waiting = (await client.get("/waiting")).text
    assert "is paused by" in waiting
    assert "claim from queue" in await post(f"/queues/{QUEUE}/resume")
    assert "Started by schedule nightly" in await post("/schedules/nightly/run")
    before = len(await lively.backend.list_tasks(QUEUE))
    assert "was started by hand before" in await post("/schedules/nightly/run")
    assert len(await lively.backend.list_tasks(QUEUE)) == before
    done = [(a.action, a.source) for a in list_actions(lively.registry.database)]
    assert done.count(("retry", "dashboard")) == 2
    assert ("fork", "dashboard") in done
    text = (await client.get(task)).text
    assert "network &lt;b&gt;back&lt;/b&gt;" in text


async def test_many_tasks_are_shown_before_they_are_changed(
    operator: httpx.AsyncClient, fresh: LivelySite
) -> None:
    """A task that fails after the list was shown is left alone; the list itself changes nothing."""
    client, lively = operator, fresh
    await log_in(client)
    dry = (await client.get(f"/bulk?queue={QUEUE}&action=retry")).text
    assert "Retry 2 tasks?" in dry
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', dry))
    counts = dict((await lively.backend.queue_stats(QUEUE)).tasks_by_state)
    assert counts["failed"] == 2
    later = await lively.backend.spawn_task(QUEUE, "pipeline", {"group_id": "later"})
    while True:
        claimed = (await lively.backend.claim_task(QUEUE, "w", 60))[0]
        if claimed.task_id == later.task_id:
            break
    await lively.backend.fail_run_permanently(QUEUE, claimed.run_id, {"name": "X"})
    response = await client.post("/bulk", data={**form, "reason": "all"}, headers=FORM)
    page = (await client.get(response.headers["location"])).text
    assert "retry: 2 tasks done, 0 refused" in page
    left = await lively.backend.list_tasks(QUEUE, states=["failed"])
    assert [task.task_id for task in left] == [later.task_id]


async def test_control_is_off_without_a_token_in_the_settings(tmp_path: Path) -> None:
    lively = await lively_site(tmp_path, token=None, with_products=False)
    async with client_of(lively) as client:
        assert "Control is off" in (await client.get("/")).text
        response = await client.post("/login", data={"token": ""}, headers=FORM)
        assert response.status_code == 403


async def test_a_next_page_of_another_host_is_not_followed(client: httpx.AsyncClient) -> None:
    for address in ("//evil.test", "http://evil.test", "/\\evil.test", "/a\r\nX: y"):
        form = {"token": TOKEN, "next": address}
        response = await client.post("/login", data=form, headers=FORM)
        assert response.headers["location"] == "/"


class Silent:
    """The reads of a database that does not answer: a frozen server, or its network is away."""

    def __getattr__(self, name: str) -> object:
        async def read(*_: object, **__: object) -> None:
            await asyncio.sleep(60)

        return read


async def test_pages_answer_at_once_while_the_database_does_not(
    fresh: LivelySite, operator: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waited for 15 to 30 s; they show what was read before, and what is away."""
    monkeypatch.setattr(snapshots, "ANSWER_SECONDS", 0.05)
    assert DIED in (await operator.get("/tasks")).text
    assert f"/nights/{NIGHT}" in (await operator.get("/")).text
    fresh.site.inspection = Silent()  # type: ignore[assignment]
    monkeypatch.setattr(snapshots, "READ_SECONDS", 0.0)
    task = f"/tasks/{QUEUE}/{fresh.tasks[DIED]}"
    for address in (*PAGES, task, f"{task}/log"):
        began = time.monotonic()
        page = await operator.get(address)
        assert time.monotonic() - began < 3.0, address
        assert page.status_code in (200, 503), address
    assert (await operator.get(task)).status_code == 503
    first = (await operator.get("/")).text
    assert f"/nights/{NIGHT}" in first
    assert "does not answer within 0.05 s" in first
