"""Small stages for workers of several hosts: each says where it is at work, and who overlaps.

Control files are in the folder of the group's input: ``hold-STAGE-HOST`` keeps a stage waiting on a
host, ``fail-STAGE-HOST`` lets it fail once as on a full disk, and ``stage_log`` has a line for each
beginning and end.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from pathlib import Path

from absurd_contimg.core.records import Json
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import PipelineStage, Workspace


class HostStage(PipelineStage):
    """Makes one file from one file."""

    source: str

    def input_paths(self, context: PipelineContext) -> list[Path]:
        return [Path(str(context.outputs[self.source]))]

    def execute(self, context: PipelineContext, workspace: Workspace) -> dict[str, Json]:
        group, host = context.group_id, socket.gethostname()
        control = context.group_inputs.input_files[0].parent
        with (control / f"{group}-{self.name}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note(control, f"{group} {self.name} overlap {host}")
            note(control, f"{group} {self.name} begin {host}")
            (control / f"at-{self.name}-{host}").write_text(str(os.getpid()))
            while (control / f"hold-{self.name}-{host}").exists():
                time.sleep(0.02)
            (source,) = self.input_paths(context)
            failure = control / f"fail-{self.name}-{host}"
            if failure.exists():
                failure.unlink()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(workspace.product))
            target = workspace.product / self.name
            target.write_bytes(self.name.encode() + b" of " + source.read_bytes())
            note(control, f"{group} {self.name} end {host}")
        (output,) = self.provides
        return {output: str(workspace.final_path(target))}


def note(control: Path, line: str) -> None:
    """One line in the log of all stages, in order of time."""
    with (control / "stage_log").open("a") as log:
        log.write(line + "\n")


class Convert(HostStage):
    """From the first input file."""

    name = "convert"
    requires = frozenset({"input_files"})
    provides = frozenset({"converted"})
    product_folder = "converted"

    def input_paths(self, context: PipelineContext) -> list[Path]:
        return [context.group_inputs.input_files[0]]


class Image(HostStage):
    """From what `Convert` made."""

    name = "image"
    source = "converted"
    requires = frozenset({"converted"})
    provides = frozenset({"picture"})
    product_folder = "pictures"


STAGES: tuple[PipelineStage, ...] = (Convert(), Image())
