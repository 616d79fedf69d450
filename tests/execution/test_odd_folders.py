"""Folders with unusual characters work, or are refused at the start with the character named."""

from __future__ import annotations

from pathlib import Path

import pytest

from absurd_contimg.config import PathsConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.runner import prepare_folders
from absurd_contimg.execution.scratch import ScratchOwner
from absurd_contimg.registry import Registry
from absurd_contimg.settings import load_settings

WORKING = [" ", "é", '"', ",", "#", "?", "%20", "*", "~", "\\", "{", ";", "&", "|"]
REFUSED = ["$HOME", "'", "(", ")", "[", "]", "\n", "\x1b", "\udcff", "\u202e"]


@pytest.mark.parametrize("text", REFUSED, ids=ascii)
@pytest.mark.parametrize("name", ["input_dir", "output_dir", "scratch_dir", "state_dir"])
def test_folders_that_cannot_work_are_refused(tmp_path: Path, name: str, text: str) -> None:
    """Before any work, with the setting and the character."""
    paths = PathsConfig.below(tmp_path).model_copy(update={name: tmp_path / f"a{text}b"})
    with pytest.raises(SettingError) as caught:
        prepare_folders(paths)
    assert name in str(caught.value)
    assert repr(text[0]) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", WORKING, ids=ascii)
def test_folders_that_work_hold_everything(tmp_path: Path, text: str) -> None:
    """Scratch, output and the registry are where the settings say, and nothing is elsewhere."""
    root = tmp_path / f"a{text}b"
    folders = {"input_dir": str(root / "in"), "output_dir": str(root / "out")}
    settings = load_settings(folders, environment={})
    prepare_folders(settings.pipeline.paths)
    with ScratchOwner(settings.pipeline.paths.scratch_dir, "worker-1"):
        Registry(settings.registry_url).close()
    assert (settings.pipeline.paths.state_dir / "registry.sqlite3").is_file()
    assert list(tmp_path.iterdir()) == [root]
