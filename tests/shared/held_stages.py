"""A worker as a process of its own, whose stage goes on as long as a file lies beside its input."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from group_stages import Apply, Convert, Image

from absurd_contimg.core.records import Json
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.operations.program import main
from absurd_contimg.operations.services import worker_service

HOLD = "hold"
"""The file."""


class HeldConvert(Convert):
    """Writes the id of its process beside its input, and ends when there is no `HOLD`."""

    def execute(self, context: PipelineContext, workspace: Workspace) -> Mapping[str, Json]:
        (source,) = self.input_paths(context)
        Path(f"{source}.pid").write_text(str(os.getpid()))
        while (source.parent / HOLD).exists():
            time.sleep(0.02)
        return super().execute(context, workspace)


STAGES: tuple[PipelineStage, ...] = (HeldConvert(), Apply(), Image())

if __name__ == "__main__":
    # The stage process imports the stages by the name of this module.
    import held_stages

    worker_service.pipeline_stages = lambda _registry: held_stages.STAGES
    main()
