"""The demo and the synthesis remove and overwrite nothing that is not theirs."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from absurd_contimg.config import PathsConfig
from absurd_contimg.errors import SettingError
from absurd_contimg.execution.runner import prepare_folders
from absurd_contimg.operations import demo
from absurd_contimg.operations.report import write_report
from absurd_contimg.owned_folders import ForeignFolderError, read_mark
from absurd_contimg.synthesis import SynthesisConfig, SynthesisResult, synthesize


class StoppedError(Exception):
    """The demo got past its folders."""


def _demo(folder: Path, monkeypatch: pytest.MonkeyPatch, *, force: bool = False) -> str:
    def stop(*_arguments: object) -> None:
        raise StoppedError

    monkeypatch.setattr(demo, "synthesize", stop)
    text = io.StringIO()
    with pytest.raises(StoppedError):
        asyncio.run(demo.run_demo(folder, Console(file=text, width=500), force=force))
    return text.getvalue()


@pytest.mark.parametrize("name", ["incoming", "products", "scratch", "state"])
@pytest.mark.parametrize("force", [False, True])
def test_demo_refuses_folders_of_others(
    tmp_path: Path, name: str, force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``contimg demo /data`` would remove the telescope's files."""
    raw = tmp_path / name / "2026-01-01T00:00:00_sb00.hdf5"
    raw.parent.mkdir()
    raw.write_text("raw")
    with pytest.raises(ForeignFolderError, match=name):
        asyncio.run(demo.run_demo(tmp_path, Console(quiet=True), force=force))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [raw]


def test_demo_removes_an_earlier_demo_when_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused without --force; with it, every folder is named before it goes."""
    _demo(tmp_path, monkeypatch)
    folders = list(PathsConfig.below(tmp_path).model_dump(exclude_none=True).values())
    (folders[1] / "images").mkdir()
    with pytest.raises(SettingError, match="--force"):
        asyncio.run(demo.run_demo(tmp_path, Console(quiet=True)))
    assert (folders[1] / "images").is_dir()
    text = _demo(tmp_path, monkeypatch, force=True)
    assert all(f"Removes {folder}" in text for folder in folders)
    assert not (folders[1] / "images").exists()
    assert {read_mark(folder) for folder in folders} == {demo._MARK}


def test_synthesis_overwrites_no_observation(tmp_path: Path) -> None:
    """The telescope's catalogue or a raw file without our truth.npz: nothing is written."""
    for name in ("catalog.csv", "2026-01-01T00:00:00_sb00.hdf5"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("telescope")
        with pytest.raises(SettingError, match="not synthetic"):
            synthesize(folder, SynthesisConfig.tiny())
        assert [path.name for path in folder.iterdir()] == [name]


def test_two_skies_are_not_mixed_in_one_folder(tmp_path: Path, tiny: SynthesisResult) -> None:
    """They would have one catalogue; the demo's folder is removed first."""
    with pytest.raises(SettingError, match="two skies"):
        synthesize(tiny.output_dir, SynthesisConfig.tiny(seed=7))
    with pytest.raises(SettingError, match="cannot be made"):
        synthesize(Path("/proc/x"), SynthesisConfig.tiny())


def test_report_overwrites_only_a_report(tmp_path: Path) -> None:
    """A name that is taken by something else is refused."""
    target = tmp_path / "notes.html"
    write_report(target, [])
    write_report(target, [])
    target.write_text("<p>thesis</p>")
    with pytest.raises(SettingError, match="no report"):
        write_report(target, [])
    assert target.read_text() == "<p>thesis</p>"


@pytest.mark.parametrize("name", ["input_dir", "output_dir", "state_dir"])
@pytest.mark.parametrize("below", ["", "inner"])
def test_folders_in_scratch_are_refused(tmp_path: Path, name: str, below: str) -> None:
    """A worker that is called ``images`` would own the folder of the images."""
    paths = PathsConfig.below(tmp_path)
    link = tmp_path / "link"
    paths.scratch_dir.mkdir()
    link.symlink_to(paths.scratch_dir)
    with pytest.raises(SettingError, match=name):
        prepare_folders(paths.model_copy(update={name: link / below}))
    prepare_folders(paths.model_copy(update={"scratch_dir": paths.output_dir / "scratch"}))
