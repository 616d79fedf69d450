"""Pages in a real Chromium: looks, accessibility, live updates, keyboard, and without scripts.

``DASHBOARD_SCREENSHOTS`` names a folder in which the pictures are kept.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from chromium import chromium
from dashboard_sites import (
    DIED,
    HOSTILE,
    NIGHT,
    QUEUE,
    TOKEN,
    LivelySite,
    Server,
    lively_site,
    served,
)
from playwright.sync_api import Browser, BrowserContext, Page, expect

from absurd_contimg.operations.dashboard.frame import MENU

AXE_OPTIONS = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> LivelySite:
    return asyncio.run(lively_site(tmp_path_factory.mktemp("site")))


@pytest.fixture(scope="module")
def server(lively: LivelySite) -> Iterator[Server]:
    with served(lively.app) as running:
        yield running


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Browser]:
    """After the server: Playwright keeps an event loop in this thread."""
    assert server.url
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the screenshots."""
    folder = os.environ.get("DASHBOARD_SCREENSHOTS")
    path = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


class Watched:
    """Pages of one reader, and what must not happen in them."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context, self.url = context, url
        self.complaints: list[str] = []
        self.page = self.new_page()

    def new_page(self) -> Page:
        page = self.context.new_page()
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._check_host(request.url))
        return page

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def _check_host(self, url: str) -> None:
        if urlsplit(url).netloc != urlsplit(self.url).netloc:
            self.complaints.append(f"a request to {url}")

    def open(self, address: str) -> Page:
        response = self.page.goto(self.url + address)
        assert response is not None
        assert response.status == 200, address
        return self.page


@pytest.fixture
def reader(browser: Browser, server: Server) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    watched = Watched(context, server.url)
    yield watched
    context.close()
    assert watched.complaints == []


def addresses(lively: LivelySite) -> dict[str, str]:
    """Every kind of page."""
    task = f"/tasks/{QUEUE}/{lively.tasks[DIED]}"
    failed = f"/tasks/{QUEUE}/{lively.tasks[f'{NIGHT}T10:10:00']}"
    return {
        **{key: address for key, address, _ in MENU},
        "waiting": "/waiting",
        "night": f"/nights/{NIGHT}",
        "task": task,
        "failed": failed,
        "log": f"{failed}/log?step=image&start=1",
        "source": "/sources/S1",
        "bulk": f"/bulk?queue={QUEUE}&action=retry",
        "login": "/login",
    }


def check_accessibility(page: Page) -> None:
    """No rule of axe is broken."""
    broken = Axe().run(page, options=AXE_OPTIONS).response["violations"]
    assert [
        (rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in broken
    ] == []


def test_every_page_is_accessible_in_light_and_dark(
    browser: Browser, server: Server, lively: LivelySite, pictures: Path
) -> None:
    """On a wide screen in both schemes: axe, pictures, no request elsewhere, no console error."""
    for scheme in ("light", "dark"):
        context = browser.new_context(
            viewport={"width": 1280, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        watched = Watched(context, server.url)
        for name, address in addresses(lively).items():
            page = watched.open(address)
            check_accessibility(page)
            page.screenshot(path=pictures / f"{name}-{scheme}.png", full_page=True)
        context.close()
        assert watched.complaints == []


def test_no_page_is_wider_than_a_phone(
    browser: Browser, server: Server, lively: LivelySite, pictures: Path
) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    watched = Watched(context, server.url)
    for name, address in addresses(lively).items():
        page = watched.open(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, address
        page.screenshot(path=pictures / f"{name}-phone.png", full_page=True)
    context.close()
    assert watched.complaints == []


def test_hostile_text_is_text(reader: Watched, lively: LivelySite) -> None:
    """In a name of a group: it is read on the page, and makes no element."""
    page = reader.open(f"/tasks/{QUEUE}/{lively.tasks[HOSTILE]}")
    expect(page.locator("h1")).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("img[src=x]").count() == 0


def test_list_changes_by_itself_and_keeps_what_was_typed(
    reader: Watched, server: Server, lively: LivelySite
) -> None:
    """A task that is spawned appears; the open filter and an opened part stay as they are."""
    page = reader.open("/tasks")
    expect(page.locator("#live")).to_have_text("live")
    page.locator("#group").fill("half a na")
    assert page.get_by_text("appears by itself").count() == 0
    params = {"group_id": "appears by itself"}
    server.call(lively.backend.spawn_task(QUEUE, "pipeline", params))
    expect(page.get_by_role("link", name="appears by itself")).to_be_visible(timeout=15_000)
    assert page.locator("#group").input_value() == "half a na"
    task = reader.open(f"/tasks/{QUEUE}/{lively.tasks[DIED]}")
    task.get_by_text("Parameters").click()
    before = task.locator(".bar span").first.text_content()
    server.call(lively.backend.spawn_task(QUEUE, "pipeline", {"group_id": "another"}))
    expect(task.locator(".bar span").first).not_to_have_text(str(before), timeout=15_000)
    assert task.locator("#parameters").get_attribute("open") is not None


def test_why_is_one_key_away(reader: Watched) -> None:
    """By keyboard: the first link skips to the content, the third says why nothing runs."""
    page = reader.open("/tasks")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_contain_text("Why is it not running?")
    page.keyboard.press("Enter")
    expect(page).to_have_title(re.compile("Why is it not running"))
    expect(page.locator("main")).to_contain_text("calibration")


def log_in(page: Page, url: str) -> None:
    page.goto(f"{url}/login?next=/tasks")
    page.get_by_label("token").fill(TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page).to_have_title(re.compile("Tasks"))


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
def test_filter_and_actions(
    browser: Browser, server: Server, lively: LivelySite, scripts: bool
) -> None:
    """Log in, filter, cancel, pause, resume, change many: the same with scripts and without."""
    context = browser.new_context(java_script_enabled=scripts)
    watched = Watched(context, server.url)
    page = watched.page
    log_in(page, server.url)
    group = f"to be cancelled {scripts}"
    server.call(lively.backend.spawn_task(QUEUE, "pipeline", {"group_id": group}))
    page.goto(f"{server.url}/tasks")
    page.get_by_label("state").select_option("pending")
    page.get_by_label("arguments, JSON").fill(f'{{"group_id": "{group}"}}')
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_role("link", name=group).click()
    page.get_by_label("reason").fill("not <needed>")
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("cancelled")
    expect(page.locator("main")).to_contain_text("not <needed>")

    page.goto(f"{server.url}/queues")
    page.get_by_text("Pause", exact=True).click()
    page.get_by_label("reason").fill("maintenance")
    page.get_by_role("button", name=f"Pause {QUEUE}").click()
    expect(page.locator("main")).to_contain_text("maintenance")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("status")).to_contain_text("again")

    for number in range(2):
        params = {"group_id": f"many {number}", "set": f"{scripts}"}
        server.call(lively.backend.spawn_task(QUEUE, "pipeline", params))
    page.goto(f'{server.url}/tasks?arguments={{"set":"{scripts}"}}')
    page.get_by_role("button", name="Cancel live…").click()
    expect(page.locator("h1")).to_have_text("Cancel 2 tasks?")
    page.get_by_role("button", name="Cancel 2 tasks").click()
    expect(page.get_by_role("status")).to_contain_text("cancel: 2 tasks done, 0 refused")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("link", name="Log in to act")).to_be_visible()
    context.close()
    assert watched.complaints == []


def test_pictures_are_shown_beside_the_images(reader: Watched) -> None:
    page = reader.open("/science")
    picture = page.locator("ul.images img").first
    picture.scroll_into_view_if_needed()
    expect(picture).to_have_js_property("complete", True, timeout=30_000)
    assert picture.evaluate("image => image.naturalWidth") > 500
