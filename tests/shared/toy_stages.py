"""Small stages that behave well or badly on request, for tests of how stages are run.

What to do comes in ``inputs["do"]``; how long, in ``inputs["seconds"]``. They import nothing
large, so that their stage processes take a fraction of a second.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from small_disk import make_read_only

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.core.records import Json
from absurd_contimg.errors import CorruptInputError, OutputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.executor import StageRequest
from absurd_contimg.execution.scratch import KIND
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.owned_folders import Mark, take_folder

TOYS_FOLDER = str(Path(__file__).parent)
"""For the module path of processes that tests start."""

_IMPORTED_BY = os.getpid()
_calls: list[str] = []


class Make(PipelineStage):
    """Makes a product of two files from one input file."""

    name = "make"
    requires = frozenset({"source"})
    provides = frozenset({"made"})
    product_folder = "made"

    def parameters(self, context: PipelineContext) -> Mapping[str, Json]:
        return {"factor": context.inputs.get("factor", 1)}

    def input_paths(self, context: PipelineContext) -> list[Path]:
        return [Path(str(context.inputs["source"]))]

    def validate(self, context: PipelineContext) -> None:
        if not Path(str(context.inputs["source"])).stat().st_size:
            raise CorruptInputError(f"{context.inputs['source']} is empty.", "Fetch it again.")

    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        seconds = float(str(context.inputs.get("seconds", 0.0)))
        data = Path(str(context.inputs["source"])).read_bytes()
        table = workspace.product / "table"
        table.mkdir()
        (table / "part").write_bytes(data)
        (workspace.temporary / "rubbish").write_bytes(b"rubbish")
        misbehave(str(context.inputs.get("do", "work")), workspace)
        time.sleep(seconds)
        (workspace.product / "whole").write_bytes(data * int(str(context.inputs.get("factor", 1))))
        return {"made": str(workspace.final_path(workspace.product / "whole"))}

    def validate_outputs(
        self, context: PipelineContext, workspace: Workspace, outputs: Mapping[str, Json]
    ) -> None:
        if context.inputs.get("do") == "spoil":
            raise OutputError("The product is spoilt.", "Try again.")

    def cleanup(self, context: PipelineContext, workspace: Workspace) -> None:
        if "cleanup_mark" in context.inputs:
            Path(str(context.inputs["cleanup_mark"])).touch()
        if context.inputs.get("do") == "fail twice":
            raise RuntimeError("cleanup is broken")


class Refine(PipelineStage):
    """Makes a product from the product of `Make`."""

    name = "refine"
    requires = frozenset({"made"})
    provides = frozenset({"refined", "bytes"})
    product_folder = "refined"

    def input_paths(self, context: PipelineContext) -> list[Path]:
        return [Path(str(context.outputs["made"]))]

    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        source = Path(str(context.outputs["made"]))
        data = source.read_bytes()
        if context.inputs.get("do") == "write into input":
            source.write_bytes(data)  # as CASA does: in place, same size
        (workspace.product / "refined").write_bytes(data[::-1])
        return {
            "refined": str(workspace.final_path(workspace.product / "refined")),
            "bytes": len(data),
        }


class Ask(PipelineStage):
    """Asks something and makes nothing."""

    name = "ask"
    requires = frozenset({"made"})
    provides = frozenset({"answer"})
    product_folder = None
    isolated = False

    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        return {"answer": f"{os.getpid()}"}


class Liar(Make):
    """Returns other outputs than it says."""

    name = "liar"

    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        return {"something": 1}


def request_for(
    tmp_path: Path, do: str = "work", *, deadline: float = 60.0, seconds: float = 0.0
) -> StageRequest:
    """One attempt of `Make` in folders of its own."""
    config = PipelineConfig(paths=PathsConfig.below(tmp_path))
    source = tmp_path / "source"
    source.write_bytes(b"data")
    number = len(list(tmp_path.glob("scratch*")))
    scratch = tmp_path / f"scratch{number}" / "attempt"
    take_folder(scratch.parent, Mark(KIND, "test"))
    scratch.mkdir()
    context = PipelineContext(
        config, {"group_id": "G", "source": str(source), "do": do, "seconds": seconds}
    )
    return StageRequest(
        stage=f"{Make.__module__}:{Make.__name__}",
        stage_name="make",
        context=context,
        attempt="1",
        scratch=scratch,
        casa_log=tmp_path / "logs" / f"{number}.casa.log",
        output_log=tmp_path / "logs" / f"{number}.out.log",
        deadline_seconds=deadline,
    )


def misbehave(how: str, workspace: Workspace) -> None:  # noqa: PLR0912
    """Do the wrong thing by its name."""
    if how == "raise from errno":
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("Error in Calibrater::solve.") from error
    elif how in {"raise", "fail twice"}:
        raise RuntimeError("it broke")
    elif how == "severe":
        workspace.casa_log.write_text(
            "2026-01-01 00:00:00\tINFO\ttask::x\tfine\n"
            "2026-01-01 00:00:01\tSEVERE\ttask::x\tTable x.ms does not exist\n"
        )
        raise RuntimeError("Error in Calibrater::solve.")
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "abort":
        print("terminate called after throwing an instance of 'casacore::AipsError'", flush=True)
        os.abort()
    elif how.endswith("on full disk"):
        with suppress(OSError), (workspace.product / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))
        if how.startswith("exit"):
            os._exit(1)
        if how.startswith("error"):
            raise RuntimeError("Error in Calibrater::solve.")
        os.kill(os.getpid(), signal.SIGABRT if how.startswith("abort") else signal.SIGBUS)
    elif how == "abort on read-only disk":
        make_read_only(workspace.product.parents[1])
        os.abort()
    elif how == "use up descriptors":
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
    elif how in {"move scratch", "replace scratch", "link scratch", "forge a result"}:
        owner = workspace.product.parents[1]
        moved = owner.rename(owner.with_name("moved"))
        if how == "forge a result":
            (owner / "attempt").mkdir(parents=True)
            (owner / "attempt/result.json").write_text(
                '{"succeeded": true, "outputs": {}, "committed": null, "adopted": true}'
            )
            os._exit(0)
        elif how == "replace scratch":
            owner.mkdir()
        elif how == "link scratch":
            owner.symlink_to(moved.parent)
        raise RuntimeError("TSM: no array in row 0")
    elif how == "leave with 0":
        os._exit(0)
    elif how == "sys.exit":
        sys.exit(0)
    elif how == "hang":
        say(workspace, os.getpid())
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    elif how == "flood":
        print("first line", flush=True)
        block, give_up = b"x" * 100 + b"\n", time.monotonic() + 1.5
        while time.monotonic() < give_up:
            os.write(1, block * 600)
        print("last line", flush=True)
    elif how.endswith("daemon"):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                say(workspace, os.getpid())
                late = str(workspace.product / "late")
                script = 'while :; do echo x >> "$0"; sleep 0.02; done'
                environment = {} if how.startswith("bare") else dict(os.environ)
                os.execve("/bin/sh", ["sh", "-c", script, late], environment)
            os._exit(0)
        while not (workspace.product / "late").exists():
            time.sleep(0.01)
        if "hang" in how:
            time.sleep(600)
        if "crash" in how:
            os.abort()
    elif how == "stop":
        say(workspace, os.getpid())
        os.kill(os.getpid(), signal.SIGSTOP)
    elif how == "hang with helper":
        helper = subprocess.Popen(["sleep", "600"])
        say(workspace, os.getpid(), helper.pid)
        time.sleep(600)
    elif how == "hang with heavy helper":
        code = "b = b'x' * (500 << 20); print('ready', flush=True); input()"
        helper = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert helper.stdout is not None
        helper.stdout.readline()
        say(workspace, os.getpid(), helper.pid)
        time.sleep(600)
    elif how == "leave helper":
        helper = subprocess.Popen(["sleep", "600"])
        say(workspace, helper.pid)
    elif how == "talk":
        for number in range(20_000):
            print(f"line {number} of a stage that says far too much")
    elif how == "link":
        (workspace.product / "link").symlink_to("/etc/hostname")
    elif how == "say threads":
        print(f"threads {os.environ['OMP_NUM_THREADS']}")
    elif how == "say process":
        _calls.append(how)
        descriptors = len(os.listdir("/proc/self/fd")) - 1  # without that of this listing
        print(f"cwd {Path.cwd()}\ntmp {os.environ['TMPDIR']}\ncalls {len(_calls)}")
        print(f"descriptors {descriptors}\nimported by {os.getpid() == _IMPORTED_BY}")
    elif how == "eat memory":
        _ = bytearray(1 << 40)


def say(workspace: Workspace, *pids: int) -> None:
    """Tell the test which processes there are, beside the log."""
    path = workspace.casa_log.with_suffix(".pids")
    partial = path.with_suffix(".partial")
    partial.write_text(" ".join(map(str, pids)))
    os.rename(partial, path)
