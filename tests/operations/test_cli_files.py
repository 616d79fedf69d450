"""`contimg inspect` and `contimg verify`: what files are, and whether their bytes are right."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import h5py
import pytest
from typer.testing import CliRunner

from absurd_contimg.operations.cli.main import app
from absurd_contimg.products.manifest import Manifest, file_entries, write_manifest

sys.path.append(str(Path(__file__).parents[1] / "shared"))
from raw_files import write_file


def test_a_raw_file_is_described(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", "--data", str(write_file(tmp_path))])
    assert result.exit_code == 0
    for text in ("the writer's", "3 of 12.884902 s", "XX, YY", "16.0000 deg", "0.00%", "accepted"):
        assert text in result.output


def test_a_file_that_is_refused_says_why_and_what_to_do(tmp_path: Path) -> None:
    path = write_file(tmp_path)
    with h5py.File(path, "r+") as file:
        file["Header/longitude"][()] = 118.2817
    healthy = write_file(tmp_path, subband=1)
    result = CliRunner().invoke(app, ["inspect", "--json", str(path), str(healthy)])
    assert result.exit_code == 1
    first, second = json.loads(result.output)
    assert "east and west are exchanged" in first["refused_for"][0]
    assert "site.latitude_deg" in first["refused_for"][0]
    assert second["refused_for"] == []
    assert second["traits"]["sub-band"] == "01"


@pytest.mark.parametrize("content", [b"", b"no HDF5"])
def test_something_else_is_refused_without_a_traceback(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "2025-01-14T23:46:00_sb00.hdf5"
    path.write_bytes(content)
    os.utime(path, (0, 0))
    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert result.exit_code == 1
    assert "not an HDF5 file" in result.output


def product(output_dir: Path, name: str) -> Path:
    """A committed product with one file."""
    folder = output_dir / "images" / name
    folder.mkdir(parents=True)
    (folder / "image.fits").write_bytes(bytes(1000))
    manifest = Manifest(
        stage="image",
        stage_version=1,
        key=name,
        location=f"images/{name}",
        output_dir=str(output_dir),
        group_id=name,
        parameters={},
        inputs=(),
        outputs={},
        files=file_entries(folder),
        software={},
        created_at="2025-01-15T10:00:00+00:00",
        attempt="1",
        host="here",
    )
    write_manifest(folder, manifest)
    return folder


def test_a_flipped_byte_in_a_product_is_found(tmp_path: Path) -> None:
    """Sizes and names are the same; only the digests tell."""
    spoilt, healthy = product(tmp_path, "a"), product(tmp_path, "b")
    with (spoilt / "image.fits").open("r+b") as file:
        file.seek(500)
        file.write(b"\x01")
    arguments = ["--output-dir", str(tmp_path), "verify"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "image.fits has other content" in result.output
    assert "2 products verified, 1 differ" in result.output
    assert CliRunner().invoke(app, [*arguments, str(healthy)]).exit_code == 0
