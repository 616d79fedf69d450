"""A Chromium for tests: one that is installed, else Playwright's, else Debian's package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--disable-default-apps", "--no-first-run", "--no-pings"),
    *("--disable-dev-shm-usage", "--disable-extensions"),
]
_INSTALL_SECONDS = 240


def installed_chromium() -> str | None:
    """The path of a Chromium of this machine."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


def _is_debian() -> bool:
    return Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None


def _run(*command: str) -> None:
    subprocess.run(command, check=False, capture_output=True, timeout=_INSTALL_SECONDS)


def find_chromium(playwright: Playwright) -> str:
    """Its path; fails with an advice where none can be had."""
    if (path := installed_chromium()) is not None:
        return path
    own = playwright.chromium.executable_path
    if not Path(own).exists():
        _run(sys.executable, "-m", "playwright", "install", "chromium")
    if Path(own).exists():
        return own
    if os.geteuid() == 0 and _is_debian():
        _run("apt-get", "install", "-y", "--no-install-recommends", "chromium")
    if (path := installed_chromium()) is not None:
        return path
    pytest.fail("No Chromium: install the package chromium, or run: playwright install chromium")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser, which writes nothing into the home folder."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
        sync_playwright() as playwright,
    ):
        folders = {"HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home}
        browser = playwright.chromium.launch(
            executable_path=find_chromium(playwright),
            args=_ARGUMENTS,
            env={**os.environ, **folders},
        )
        try:
            yield browser
        finally:
            browser.close()
