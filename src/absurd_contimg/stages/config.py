"""`PipelineConfig`: every number the stages use, as a named default with its unit and source.

Values come from outside (files, environment, command line), so this is pydantic: an unknown
setting or a value out of bounds is refused with its name.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from absurd_contimg.core.records import Json


class _Section(BaseModel):
    """A group of settings: immutable, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PathsConfig(_Section):
    """The folders the pipeline may use. It writes nowhere else.

    Scratch must lie on the file system of the output folder, because a product is handed over
    by renaming it.
    """

    input_dir: Path
    output_dir: Path
    scratch_dir: Path
    state_dir: Path

    @classmethod
    def below(cls, root: Path) -> Self:
        """All four folders inside one, as the demo and the tests use them."""
        root = root.absolute()
        return cls(
            input_dir=root / "incoming",
            output_dir=root / "products",
            scratch_dir=root / "scratch",
            state_dir=root / "state",
        )


class ExecutionConfig(_Section):
    """How stages are run."""

    deadline_seconds: float = Field(3600.0, gt=0)
    """A stage's child process is killed after this long (conversion and tasks: 3600 s)."""
    threads: int = Field(2, ge=1)
    """OMP_NUM_THREADS of a stage's child process."""


class PipelineConfig(_Section):
    """All settings of a pipeline."""

    paths: PathsConfig
    execution: ExecutionConfig = ExecutionConfig()

    def digest(self) -> str:
        """Twelve hex digits that change with any setting but the folders."""
        text = json.dumps(self.model_dump(mode="json", exclude={"paths"}), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def reference(self) -> dict[str, Json]:
        """What a checkpoint holds in place of the configuration: the folders and the digest."""
        paths: dict[str, Json] = {k: str(v) for k, v in self.paths.model_dump().items()}
        return {"digest": self.digest(), "paths": paths}
