"""Earlier releases of Absurd's schema and SDK: installed as packages, beside today's.

As a program it is a client of such a release, and imports nothing of ours: run with the folder of
the release first in the module path, ``earlier_absurd.py VERSION URL FOLDER WHAT``.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib.metadata
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import absurd_sdk
from absurd_sdk import AsyncAbsurd

QUEUE, CHILDREN, DYING, LIVING = "earlier", "children", "dying", "living"
CALIBRATED = "calibrated"
LEASE_SECONDS = 2
WAIT_SECONDS = 2
_EXTENSION = 'create extension if not exists "uuid-ossp";'


def earlier_release(version: str) -> Path:
    """The folder with both packages of a release; installed at the first use, and kept."""
    folder = Path(sys.prefix, "earlier-absurd", version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_name(f"{version}.partial")
            packages = (f"absurdctl=={version}", f"absurd-sdk=={version}")
            pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade")
            done = subprocess.run(
                [*pip, "--target", str(partial), *packages],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"PyPI is needed for {packages}: {done.stderr[-300:]}"
            partial.rename(folder)
    return folder


def note(params: Mapping[str, Any], step: str) -> None:
    """One line for each step that was carried out to its end."""
    with Path(params["folder"], "effects").open("a") as file:
        file.write(f"{params['what']} {step}\n")


async def process(params: Any, ctx: Any) -> Any:
    """A handler that runs on the SDK of any release and on our worker."""
    what = params["what"]

    async def convert() -> Any:
        note(params, "convert")
        return {"ms": f"{what}.ms"}

    async def image() -> str:
        if what == "dying" and not (Path(params["folder"]) / "died").exists():
            (Path(params["folder"]) / "died").touch()
            os._exit(9)
        if what in ("failing", "flaky") and not (Path(params["folder"]) / "mended").exists():
            raise RuntimeError("the imager is not installed")
        while what == "living" and not (Path(params["folder"]) / "mended").exists():
            await asyncio.sleep(0.02)
        note(params, "image")
        return "fits"

    converted = await ctx.step("convert", convert)
    got: Any = None
    if what == "sleeping":
        await ctx.sleep_for("cooling", WAIT_SECONDS)
    if what == "waiting":
        got = await ctx.await_event(CALIBRATED)
    if what == "impatient":
        try:
            await ctx.await_event("never", timeout=WAIT_SECONDS)
        except absurd_sdk.TimeoutError:
            got = "timed out"
    if what == "parent":
        child = await ctx.await_task_result(params["child"], queue_name=CHILDREN)
        got = child.result
    return [converted, got, await ctx.step("image", image)]


async def child(params: Any, ctx: Any) -> str:
    """What the parent waits for."""
    return "child done"


def install_earlier_schema(url: str) -> None:
    """With the extension that the earlier schemas use, or its one function where there is none.

    The embedded server comes without extensions.
    """
    import absurdctl  # noqa: PLC0415 - the earlier one
    import psycopg  # noqa: PLC0415

    schema = absurdctl.BUNDLED_SCHEMA_SQL
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            connection.execute(_EXTENSION.encode())
        except psycopg.errors.FeatureNotSupported:
            connection.execute(
                "create function public.uuid_generate_v4() returns uuid language sql"
                " as 'select gen_random_uuid()'"
            )
            assert _EXTENSION in schema
            schema = schema.replace(_EXTENSION, "")
        connection.execute(schema.encode())


async def leave_tasks(url: str, folder: Path) -> None:
    """A task in each state, on a queue that nobody serves any more."""
    client = AsyncAbsurd(url, queue_name=QUEUE)
    client.register_task("process")(process)
    children = AsyncAbsurd(url, queue_name=CHILDREN)
    for each in (client, children):
        await each.create_queue()
    spawned_child = await children.spawn("child", {}, queue=CHILDREN)

    async def spawn(what: str, **options: Any) -> Any:
        params = {"what": what, "folder": str(folder), "child": str(spawned_child["task_id"])}
        return await client.spawn("process", params, **options)

    for what in ("sleeping", "waiting", "impatient", "done"):
        await spawn(what)
    later = {"kind": "fixed", "base_seconds": WAIT_SECONDS}
    await spawn("flaky", max_attempts=3, retry_strategy=later)
    await spawn("failing", max_attempts=1)
    with suppress(Exception):  # what 0.3 and 0.4 do after a failure differs
        await client.work_batch("earlier", 60, 20)
    cancelled = await spawn("cancelled")
    await client.cancel_task(str(cancelled["task_id"]))
    await spawn("parent")
    await spawn("pending", idempotency_key="group-1")
    await client.close()
    await children.close()


async def work(url: str, folder: Path, what: str, seconds: int) -> None:
    """Claim one task of a queue of its own, with a lease of that length, and run it."""
    client = AsyncAbsurd(url, queue_name=what)
    client.register_task("process")(process)
    await client.create_queue()
    await client.spawn("process", {"what": what, "folder": str(folder)})
    await client.work_batch("earlier", seconds, 1)
    await client.close()


def main(version: str, url: str, folder: Path, what: str) -> None:
    """One of the earlier release's programs."""
    for package in ("absurdctl", "absurd-sdk"):
        assert importlib.metadata.version(package) == version
    if what == "install":
        install_earlier_schema(url)
        asyncio.run(leave_tasks(url, folder))
    elif what == DYING:
        asyncio.run(work(url, folder, what, LEASE_SECONDS))
    else:
        asyncio.run(work(url, folder, what, 60))


def start_program(version: str, url: str, folder: Path, what: str) -> subprocess.Popen[bytes]:
    """Start the program with the packages of a release."""
    environment = {**os.environ, "PYTHONPATH": str(earlier_release(version))}
    command = [sys.executable, __file__, version, url, str(folder), what]
    return subprocess.Popen(command, env=environment)


def wait_for(path: Path, patience_seconds: float = 30.0) -> None:
    """Until a file is there."""
    give_up = time.monotonic() + patience_seconds
    while not path.exists():
        assert time.monotonic() < give_up, f"{path} does not come"
        time.sleep(0.02)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
