"""What is said of a file that the operating system refuses: whose it is, and what harms nobody."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from other_user import NOBODY, as_user, open_for_others
from small_disk import mounted

from absurd_contimg.file_owners import SITE_NAME, explain_refusal

DAEMON = 1
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def give(user: int, *paths: Path) -> None:
    for path in paths:
        os.chown(path, user, user)


def state_given_away(state: Path) -> str:
    """The known slip: ``chown -R`` of the state folder to another user."""
    give(NOBODY, state.parent)
    give(DAEMON, state, state / "registry.sqlite3")
    return f"{state} belongs to the user daemon, .* Run as daemon, or: sudo chown -R nobody {state}"


def file_of_root(state: Path) -> str:
    give(NOBODY, state.parent, state)
    file = state / "registry.sqlite3"
    return f"{file} belongs to the user root, .* Run as root, or: sudo chown -R nobody {file}"


def site_of_another_user(state: Path) -> str:
    """To follow the advice took the site's files from its services."""
    give(DAEMON, state.parent, state, state / "registry.sqlite3")
    return f"{state} belongs to the user daemon, and this process runs as nobody. Run as daemon."


def site_of_another_user_in_own_folder(state: Path) -> str:
    give(NOBODY, state.parent.parent)
    return site_of_another_user(state)


def private_site_in_own_folder(state: Path) -> str:
    """What it is cannot be seen."""
    site_of_another_user_in_own_folder(state)
    state.parent.chmod(0o700)
    return f"{state.parent} belongs to the user daemon, .* Run as daemon."


def mode_without_rights(state: Path) -> str:
    give(NOBODY, state.parent, state, state / "registry.sqlite3")
    state.chmod(0)
    return rf"{state} .* its mode forbids it. Run: chmod u\+rwX {state}"


@pytest.mark.parametrize("mark", [SITE_NAME, f"products/{SITE_NAME}"])
@pytest.mark.parametrize(
    "case",
    [
        *(state_given_away, file_of_root, site_of_another_user),
        *(site_of_another_user_in_own_folder, private_site_in_own_folder, mode_without_rights),
    ],
)
def test_files_are_given_away_only_in_a_folder_of_this_user(
    tmp_path: Path, case: Callable[[Path], str], mark: str
) -> None:
    state = tmp_path / "own" / "site" / "state"
    state.mkdir(0o700, parents=True)
    (state.parent / "products").mkdir()
    registry = state / "registry.sqlite3"
    for path in (state.parent / mark, registry):
        path.touch(0o600)
    open_for_others(tmp_path)
    words = case(state)
    text = as_user(partial(explain_refusal, registry))
    assert re.fullmatch(words, text), text


def test_an_attribute_is_named_where_the_owner_is_refused(tmp_path: Path) -> None:
    """It said: belongs to the user root, and this process runs as root. Run as root."""
    with mounted(tmp_path / "disk") as disk:
        folder = disk / "product"
        folder.mkdir()
        subprocess.run(["chattr", "+i", folder], check=True)
        with pytest.raises(PermissionError) as caught:
            folder.rename(disk / "other")
        assert caught.value.errno == errno.EPERM
        assert f"lsattr -d {folder}" in explain_refusal(folder, caught.value.errno)
        subprocess.run(["chattr", "-i", folder], check=True)
