"""A small pipeline whose stages announce their work and fail once where a test plans it.

What each stage does is real: a process of its own, files, a product with a manifest. The faults
are real too: signals, limits, a full file system. `Convert` reads an input file, and each later
stage reads the product before it.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from absurd_contimg.core.records import Json
from absurd_contimg.errors import CorruptInputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import PipelineStage, Workspace

PRODUCT_BYTES = 300_000
MAGIC = b"UVH5"
SECONDS = 0.15
"""How long a stage works after it has announced itself, unless a test wants longer."""


class Link(PipelineStage):
    """One stage of the chain."""

    before: ClassVar[str]

    def input_paths(self, context: PipelineContext) -> list[Path]:
        return [Path(str({**context.inputs, **context.outputs}[self.before]))]

    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        control = Path(str(context.inputs["control"]))
        with (control / f"{self.name}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note(control, f"{self.name} overlap")
            note(control, f"{self.name} begin")
            (source,) = self.input_paths(context)
            data = source.read_bytes()
            if not data.startswith(MAGIC):
                raise CorruptInputError(f"{source} is damaged.", "Fetch it again.")
            self.announce(control)
            inject_planned_fault(control, self.name)
            time.sleep(float(str(context.inputs["seconds"])))
            target = workspace.product / f"{self.name}.data"
            target.write_bytes(data[:8] + self.name.encode() * (PRODUCT_BYTES // len(self.name)))
            note(control, f"{self.name} end")
        return {self.name: str(workspace.final_path(target))}

    def announce(self, control: Path) -> None:
        """Say that the stage is in the middle of its work, and which process it is."""
        partial = control / f"{self.name}.partial"
        partial.write_text(str(os.getpid()))
        partial.rename(control / f"at-{self.name}")


class Convert(Link):
    """The first, from a file that arrived."""

    name = "convert"
    before = "source"
    requires = frozenset({"source"})
    provides = frozenset({"convert"})
    product_folder = "ms"


class Solve(Link):
    """The second."""

    name = "solve"
    before = "convert"
    requires = frozenset({"convert"})
    provides = frozenset({"solve"})
    product_folder = "caltables"


class Apply(Link):
    """The third."""

    name = "apply"
    before = "solve"
    requires = frozenset({"solve"})
    provides = frozenset({"apply"})
    product_folder = "calibrated"


class Image(Link):
    """The last."""

    name = "image"
    before = "apply"
    requires = frozenset({"apply"})
    provides = frozenset({"image"})
    product_folder = "images"


STAGES: tuple[Link, ...] = (Convert(), Solve(), Apply(), Image())


def note(control: Path, line: str) -> None:
    """One line in the stage_log of all stages, in order of time."""
    with (control / "stage_log").open("a") as stage_log:
        stage_log.write(line + "\n")


def inject_planned_fault(control: Path, stage: str) -> None:
    """Inject the fault that a test has planned for this stage; each plan is used once."""
    plan = control / f"plan-{stage}"
    try:
        what = plan.read_text()
        plan.unlink()
    except FileNotFoundError:
        return
    note(control, f"{stage} fault")
    if what == "segfault":
        ctypes.string_at(0)
    elif what == "hang":
        time.sleep(3600)
    elif what == "memory":
        _ = bytearray(1 << 40)
    elif what == "import":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (1 << 16)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        importlib.import_module("unicodedata")
    elif what == "files":
        _ = [open("/dev/null") for _ in range(10_000)]  # noqa: SIM115 - too many is the point
    else:
        raise AssertionError(what)


def parameters(root: Path, seconds: float) -> Mapping[str, Json]:
    """The parameters of the task."""
    return {
        "source": str(root / "source.hdf5"),
        "control": str(root / "control"),
        "seconds": seconds,
    }
