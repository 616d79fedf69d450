"""Pages in a real Chromium: looks, accessibility, live updates, keyboard, and without scripts.

``DASHBOARD_SCREENSHOTS`` names a folder in which the pictures are kept.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
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
CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
CHANGE_MS = 120_000
"""How long a page may take to show a change, on a machine that has much else to do."""


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
    expect.set_options(timeout=CHANGE_MS)
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def pictures() -> Path | None:
    """The folder of the screenshots, if they are wanted."""
    folder = os.environ.get("DASHBOARD_SCREENSHOTS")
    if folder is None:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


class Watched:
    """Pages of one reader, and what must not happen in them."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context, self.url = context, url
        self.complaints: list[str] = []
        self.page = self.new_page()

    def new_page(self) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(CHANGE_MS)
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


def broken_rules(page: Page, options: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The rules of axe that are broken, with some of the elements."""
    broken = Axe().run(page, options=options).response["violations"]
    return [(rule["id"], [node["html"][:200] for node in rule["nodes"][:3]]) for rule in broken]


def test_every_page_is_accessible_in_light_and_dark_and_fits_a_phone(
    browser: Browser, server: Server, lively: LivelySite, pictures: Path | None
) -> None:
    """No rule of axe is broken, no request goes elsewhere, nothing is wider than a phone."""
    context = browser.new_context(reduced_motion="reduce")
    watched = Watched(context, server.url)
    problems: dict[str, object] = {}

    def take_picture(name: str) -> None:
        if pictures is not None:
            watched.page.screenshot(path=pictures / f"{name}.png", full_page=True)

    for name, address in addresses(lively).items():
        watched.page.set_viewport_size({"width": 1280, "height": 900})
        watched.page.emulate_media(color_scheme="light")
        page = watched.open(address)
        problems[f"{name}, light"] = broken_rules(page, AXE_OPTIONS)
        take_picture(f"{name}-light")
        page.emulate_media(color_scheme="dark")
        problems[f"{name}, dark"] = broken_rules(page, CONTRAST)
        take_picture(f"{name}-dark")
        page.set_viewport_size({"width": 360, "height": 740})
        width = page.evaluate("document.documentElement.scrollWidth")
        problems[f"{name}, phone"] = f"{width} px" if width > 360 else ""
        take_picture(f"{name}-phone")
    context.close()
    assert {place: problem for place, problem in problems.items() if problem} == {}
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
    expect(page.get_by_role("link", name="appears by itself")).to_be_visible(timeout=CHANGE_MS)
    assert page.locator("#group").input_value() == "half a na"
    task = reader.open(f"/tasks/{QUEUE}/{lively.tasks[DIED]}")
    task.get_by_text("Parameters").click()
    before = task.locator(".bar span").first.text_content()
    server.call(lively.backend.spawn_task(QUEUE, "pipeline", {"group_id": "another"}))
    expect(task.locator(".bar span").first).not_to_have_text(str(before), timeout=CHANGE_MS)
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
    expect(picture).to_have_js_property("complete", True, timeout=CHANGE_MS)
    assert picture.evaluate("image => image.naturalWidth") > 500
