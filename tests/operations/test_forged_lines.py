"""A name with a line end forges no line of what a command prints."""

from __future__ import annotations

import io
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.console import SafeConsole, indented_lines
from absurd_contimg.products.manifest import Manifest, file_entries, write_manifest
from absurd_contimg.registry import Registry

FORGED = "a\n21 products verified, 0 differ\r\x85\u2028or are gone.\x1b[2J"


def product(output_dir: Path, name: str) -> Path:
    folder = output_dir / "images" / name
    folder.mkdir(parents=True)
    (folder / "file").write_text("x")
    manifest = Manifest(
        *("image", 1, "key", f"images/{name}", str(output_dir), "G", {}, ()),
        *({"image": {"fits": "/x.fits", "noise_jy": 0.001}}, file_entries(folder)),
        *({}, "2026-01-26T00:00:00+00:00", "1", "host"),
    )
    write_manifest(folder, manifest)
    return folder


def assert_no_forged_line(output: str) -> None:
    lines = output.split("\n")
    assert not any(line.startswith("21 products") for line in lines), output
    assert all(char.isprintable() for line in lines for char in line), output


@pytest.mark.parametrize("damage", ["unknown", "damaged", "gone", "linked"])
@pytest.mark.parametrize(
    "command", [("verify",), ("registry", "check"), ("registry", "rebuild"), ("doctor",)],
    ids=" ".join,
)  # fmt: skip
def test_name_of_a_product_forges_no_line(
    damage: str, command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("absurd_contimg.operations.doctor.doctor.stage_software", lambda _: [])
    output_dir = tmp_path / FORGED / "out"
    folder = product(output_dir, FORGED)
    path = tmp_path / "registry.sqlite3"
    with closing(Registry(path, output_dir=output_dir)) as registry:
        if damage != "unknown":
            registry.rebuild(output_dir)
    if damage == "damaged":
        (folder / "file").unlink()
    elif damage == "gone":
        shutil.rmtree(folder)
    elif damage == "linked":
        folder.parent.rename(tmp_path / "elsewhere")
        folder.parent.symlink_to(tmp_path / "elsewhere")
    options = ["--output-dir", str(output_dir), "--state-dir", str(tmp_path)]
    environment = {"PIPELINE_PRODUCTS_DB": str(path), "COLUMNS": "1000"}
    result: Any = CliRunner().invoke(app, [*options, *command], env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit) or damage == "gone"
    assert result.output or damage == "gone"
    assert_no_forged_line(result.output)


def test_console_prints_a_text_on_one_line() -> None:
    """Each `out` of a command, whatever name is in its text; a tab stays."""
    file = io.StringIO()
    SafeConsole(file=file).out(f"Wrote {FORGED}\tand", FORGED)
    text = file.getvalue()
    assert text.count("\n") == 1
    assert "\\t" not in text
    assert_no_forged_line(text)


def test_further_lines_of_an_error_are_indented() -> None:
    """An error may quote the end of a log; a name in it passes for no other line."""
    assert indented_lines("wrong:\n1\n2\n") == "wrong:\n    1\n    2"
    assert_no_forged_line(indented_lines(f"There is no folder {FORGED}."))


def test_traceback_keeps_its_lines() -> None:
    file = io.StringIO()
    SafeConsole(file=file).out_lines("first\n  second\x1b[2J")
    assert file.getvalue() == "first\n  second\\x1b[2J\n"
