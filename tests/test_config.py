"""Settings of the pipeline are checked when they are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from absurd_contimg.config import ConversionConfig, PathsConfig, PipelineConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.settings import load_settings


def test_settings_are_checked(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An unknown name, a value out of bounds and a contradiction are refused by name."""
    paths = PathsConfig.below(tmp_path_factory.getbasetemp())
    with pytest.raises(ValueError, match="nitre"):
        PipelineConfig.model_validate({"paths": paths, "imaging": {"nitre": 5}})
    with pytest.raises(ValueError, match="cell_arcsec"):
        PipelineConfig.model_validate({"paths": paths, "imaging": {"cell_arcsec": -1}})
    with pytest.raises(ValueError, match="subbands_min is 17: it must be at most"):
        PipelineConfig(paths=paths, conversion=ConversionConfig(subbands_min=17))
    assert PipelineConfig.tiny(paths).digest() != PipelineConfig(paths=paths).digest()


@pytest.mark.parametrize(
    "text",
    [
        "[imaging]\nniter=1" + "0" * 5000,
        "[imaging]\nniter=" + "[" * 5000,
        "[retention]\ntasks_days=1e300",
        "[retention]\nevents_days=30000",
        "[alerts]\nlook_seconds=1e10",
        "a = '\0'",
    ],
)
def test_settings_that_nothing_can_hold_are_refused_where_they_are_read(
    text: str, tmp_path: Path
) -> None:
    """A number of 5,000 digits gave a traceback, a time of 1e300 days one in the first clean-up."""
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(SettingError):
        load_settings({"config_file": tmp_path / "c.toml"}, environment={})


def test_a_number_that_is_too_long_is_refused_on_the_command_line() -> None:
    with pytest.raises(SettingError, match="niter"):
        load_settings(assignments=["imaging.niter=" + "9" * 5000], environment={})
