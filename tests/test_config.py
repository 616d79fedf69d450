"""Settings of the pipeline are checked when they are read."""

from __future__ import annotations

import pytest

from absurd_contimg.config import ConversionConfig, PathsConfig, PipelineConfig


def test_settings_are_checked(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An unknown name, a value out of bounds and a contradiction are refused by name."""
    paths = PathsConfig.below(tmp_path_factory.getbasetemp())
    with pytest.raises(ValueError, match="nitre"):
        PipelineConfig.model_validate({"paths": paths, "imaging": {"nitre": 5}})
    with pytest.raises(ValueError, match="cell_arcsec"):
        PipelineConfig.model_validate({"paths": paths, "imaging": {"cell_arcsec": -1}})
    with pytest.raises(ValueError, match="subbands_min 17 exceeds"):
        PipelineConfig(paths=paths, conversion=ConversionConfig(subbands_min=17))
    assert PipelineConfig.tiny(paths).digest() != PipelineConfig(paths=paths).digest()
