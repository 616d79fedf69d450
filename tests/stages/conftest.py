"""The contexts and folders that stages get."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import Workspace
from absurd_contimg.synthesis import SynthesisResult


@pytest.fixture
def context_for(tiny: SynthesisResult, tmp_path: Path) -> Callable[..., PipelineContext]:
    """Makes the context of the calibrator group, or of any list of files."""

    def make(files: list[Path] | None = None, **changes: object) -> PipelineContext:
        config = PipelineConfig.tiny(PathsConfig.below(tmp_path))
        if changes:
            config = PipelineConfig.model_validate({**config.model_dump(), **changes})
        chosen = list(tiny.groups[0].files) if files is None else files
        return PipelineContext(
            config,
            {
                "group_id": tiny.groups[0].group_id,
                "input_files": [str(f) for f in chosen],
                "catalog_path": str(tiny.catalog),
                "calibrator": "auto",
            },
        )

    return make


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Empty folders of one attempt."""
    folders = Workspace(
        tmp_path / "attempt/product",
        tmp_path / "attempt/tmp",
        tmp_path / "casa.log",
        tmp_path / "c",
    )
    folders.product.mkdir(parents=True)
    folders.temporary.mkdir()
    return folders
