"""Retention among links, pipes and notes that somebody else has put there: nothing outside goes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from absurd_contimg.config.retention import REMOVED
from absurd_contimg.errors import UserError
from absurd_contimg.operations.maintenance.needs import Needs
from absurd_contimg.operations.maintenance.retention import plan_retention, run_retention
from absurd_contimg.registry import Registry

from .test_retention import CONFIG, after, site  # noqa: F401 - a fixture

Site = tuple[Registry, Path]


def run_in_time(site: Site) -> None:  # noqa: F811
    """Plan and remove within some seconds, or fail."""
    registry, output_dir = site
    raised: list[BaseException] = []

    def work() -> None:
        try:
            plan = plan_retention(registry, CONFIG, Needs(), after(1000))
            run_retention(registry, output_dir, plan, Needs, after(1000))
        except UserError:
            pass
        except BaseException as error:  # noqa: BLE001 - told by the test
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for ever"
    if raised:
        raise raised[0]


def old_folder(site: Site) -> Path:  # noqa: F811
    registry, _ = site
    return plan_retention(registry, CONFIG, Needs(), after(1000)).removed[0].folder


def victim(folder: Path) -> Path:
    outside = folder.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "data").write_text("precious")
    return outside


def link_inside(folder: Path, outside: Path) -> None:
    (folder / "link").symlink_to(outside)


def hard_link_inside(folder: Path, outside: Path) -> None:
    os.link(outside / "data", folder / "hard")


def pipe_inside(folder: Path, _: Path) -> None:
    os.mkfifo(folder / "pipe")


def socket_inside(folder: Path, _: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)
        try:
            server.bind("s")
        finally:
            os.chdir(here)


def deep_folders_inside(folder: Path, _: Path) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _level in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def odd_names_inside(folder: Path, _: Path) -> None:
    for name in (b"\xff\xfe", b"two\nlines", b"\x1b[2J", b"-rf", b" ", b"\\x41"):
        with open(os.path.join(os.fsencode(folder), name), "wb"):
            pass


def link_for_the_folder(folder: Path, outside: Path) -> None:
    folder.rename(outside / "moved")
    folder.symlink_to(outside / "moved")


def pipe_for_the_manifest(folder: Path, _: Path) -> None:
    (manifest,) = folder.glob("*manifest*")
    manifest.unlink()
    os.mkfifo(manifest)


def holding(folder: Path, name: str = "k") -> Path:
    output_dir = next(each for each in folder.parents if each.name == "products")
    held = output_dir / REMOVED / name
    held.mkdir(parents=True)
    return held


def pipe_for_a_note(folder: Path, _: Path) -> None:
    os.mkfifo(holding(folder) / "removal.json")


def deep_note(folder: Path, _: Path) -> None:
    (holding(folder) / "removal.json").write_text("[" * 100_000)


def endless_note(folder: Path, _: Path) -> None:
    (holding(folder) / "removal.json").symlink_to("/dev/zero")


def note_that_leads_out(folder: Path, outside: Path) -> None:
    held = holding(folder)
    (held / "product").mkdir()
    (held / "product" / "x").touch()
    note = {
        "key": "k", "stage": "image", "group_id": "g", "location": "../outside/new",
        "size_bytes": 1, "removed_at": "2026-01-01T00:00:00Z", "reason": "r",
    }  # fmt: skip
    (held / "removal.json").write_text(json.dumps(note))


def link_for_what_is_held(folder: Path, outside: Path) -> None:
    held = holding(folder)
    held.rmdir()
    held.symlink_to(outside)


def link_for_the_place(folder: Path, outside: Path) -> None:
    held = holding(folder)
    held.rmdir()
    held.parent.rmdir()
    held.parent.symlink_to(outside)


ATTACKS = (
    *(link_inside, hard_link_inside, pipe_inside, socket_inside, deep_folders_inside),
    *(odd_names_inside, link_for_the_folder, pipe_for_the_manifest, pipe_for_a_note, deep_note),
    *(endless_note, note_that_leads_out, link_for_what_is_held, link_for_the_place),
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_outside_goes_and_it_ends(
    site: Site,  # noqa: F811
    attack: Callable[[Path, Path], None],
) -> None:
    """Twice: what the first run left is made good by the second."""
    _, output_dir = site
    outside = victim(output_dir)
    attack(old_folder(site), outside)
    before = sorted(str(path) for path in outside.rglob("*"))
    try:
        for _ in range(2):
            run_in_time(site)
    finally:  # pytest cannot remove deep folders
        subprocess.run(["rm", "-rf", output_dir], check=True)
    assert (outside / "data").read_text() == "precious"
    assert sorted(str(path) for path in outside.rglob("*")) == before
