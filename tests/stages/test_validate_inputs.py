"""The first stages look at every input file before anything expensive starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from absurd_contimg.errors import CorruptInputError, InputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import PipelineStage
from absurd_contimg.stages.catalog_setup import CatalogSetupStage
from absurd_contimg.stages.convert import ConvertStage

Contexts = Callable[..., PipelineContext]
STAGES = pytest.mark.parametrize("stage", [CatalogSetupStage(), ConvertStage()])


@STAGES
def test_bad_file_is_named(stage: PipelineStage, context_for: Contexts, tmp_path: Path) -> None:
    """A group with a bad file fails in its first second."""
    bad = tmp_path / "2025-01-14T23:35:00_sb00.hdf5"
    bad.write_text("x")
    with pytest.raises(CorruptInputError, match=bad.name):
        stage.validate(context_for([bad]))


@STAGES
def test_group_without_files_is_refused(stage: PipelineStage, context_for: Contexts) -> None:
    with pytest.raises(InputError, match="input_files"):
        stage.validate(context_for([]))
