"""`contimg inspect` and `contimg verify`: what files are, and whether their bytes are right."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from absurd_contimg.operations import terminal
from absurd_contimg.operations.cli.main import app
from absurd_contimg.products.manifest import InputEntry, Manifest, file_entries, write_manifest
from absurd_contimg.products.publication import publish_copy
from absurd_contimg.products.store import load_committed
from absurd_contimg.registry import Registry
from absurd_contimg.registry.consistency import enter_publications

sys.path.append(str(Path(__file__).parents[1] / "shared"))
from raw_files import write_file


def test_a_raw_file_is_described(tmp_path: Path) -> None:
    path = write_file(tmp_path)
    with h5py.File(path, "r+") as file:
        visibilities = file["Data/visdata"]
        noise = np.random.default_rng(1).normal(size=visibilities.shape)
        visibilities[...] = noise.astype(np.complex64)
    result = CliRunner().invoke(app, ["inspect", "--data", str(path)])
    assert result.exit_code == 0
    assert "not measured" not in result.output
    for text in ("the writer's", "3 of 12.884902 s", "XX, YY", "16.0000 deg", "0.00%", "accepted"):
        assert text in result.output


def test_a_file_without_data_says_so(tmp_path: Path) -> None:
    """One number all over; and one whose visibilities were never written."""
    stuck, unwritten = write_file(tmp_path), write_file(tmp_path, subband=1)
    with h5py.File(unwritten, "r+") as file:
        shape = file["Data/visdata"].shape
        del file["Data/visdata"]
        file.create_dataset("Data/visdata", shape, np.complex64)
    arguments = ["inspect", "--data", "--json", str(stuck), str(unwritten)]
    first, second = json.loads(CliRunner().invoke(app, arguments).output)
    assert "100.00% between antennas repeat one number" in first["traits"]["not measured"]
    assert "counts as missing" in first["traits"]["data"]
    assert "none was ever written" in second["traits"]["visibilities"]


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


def test_a_long_verification_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``contimg verify /`` said nothing for a minute; what it prints at the end stays alone."""
    for number in range(300):
        (tmp_path / f"{number}").mkdir()
    monkeypatch.setattr(terminal, "LINE_SECONDS", 0.001)
    result = CliRunner().invoke(app, ["verify", "--json", str(tmp_path)])
    assert json.loads(result.stdout)["verified"] == 0
    lines = result.stderr.splitlines()
    assert lines[0] == f"Looking for products below {tmp_path}: 0 so far."


@pytest.mark.parametrize("content", [b"", b"no HDF5"])
def test_something_else_is_refused_without_a_traceback(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "2025-01-14T23:46:00_sb00.hdf5"
    path.write_bytes(content)
    os.utime(path, (0, 0))
    result = CliRunner().invoke(app, ["inspect", str(path)])
    assert result.exit_code == 1
    assert "not an HDF5 file" in result.output


def product(output_dir: Path, name: str, *sources: str) -> Path:
    """A committed product with one file, made from others."""
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
        inputs=tuple(InputEntry(f"/{key}", "product", f"{key}/image.fits") for key in sources),
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


def test_what_was_made_from_a_changed_product_is_named(tmp_path: Path) -> None:
    """The Measurement Set was named, and its image with the wrong fluxes was not."""
    changed, _healthy = product(tmp_path, "a"), product(tmp_path, "b")
    image, other = product(tmp_path, "c", "b", "a"), product(tmp_path, "d", "b")
    mosaic = product(tmp_path, "e", "c", "d")
    published = tmp_path / "published"
    published.mkdir()
    copy = publish_copy(mosaic, published).folder
    (changed / "image.fits").write_bytes(b"\x01" * 1000)
    arguments = ["--output-dir", str(tmp_path), "verify"]
    for named in ([], [str(changed)]):
        result = CliRunner().invoke(app, [*arguments, *named])
        assert "verified, 1 differ" in result.output
        for folder in (image, mosaic, copy):
            assert f"{folder} was made from {changed} at 2025-01-15T10:00:00" in result.output
        assert f"{other} was made" not in result.output
    report = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert set(report["made_from"][str(changed)]) == {str(image), str(mosaic), str(copy)}


def test_a_flipped_byte_in_a_published_copy_is_found(tmp_path: Path) -> None:
    """Every command called it well. A copy that is being made is left alone."""
    folder, published = product(tmp_path, "a"), tmp_path / "published"
    published.mkdir()
    copy = publish_copy(folder, published).folder
    shutil.copytree(copy, copy.parent / ".publishing-b" / "product")
    arguments = ["--output-dir", str(tmp_path), "verify"]
    result = CliRunner().invoke(app, arguments)
    assert "1 product and 1 published product verified, 0 differ" in result.output
    assert result.exit_code == 0
    (copy / "image.fits").write_bytes(b"\x01" * 1000)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert f"{copy} differs from its manifest: image.fits has other content" in result.output
    assert "contimg publish retry a" in result.output
    with closing(Registry(tmp_path / "state" / "registry.sqlite3", output_dir=tmp_path)) as known:
        known.register(folder, load_committed(folder))
        assert enter_publications(known.database, published, tmp_path) == 1
    shutil.rmtree(copy)
    result = CliRunner().invoke(
        app, [*arguments[:2], f"--state-dir={tmp_path / 'state'}", "verify"]
    )
    assert f"{copy} is gone, and the registry knows it" in result.output


def test_a_product_that_the_registry_knows_and_that_is_gone_is_told(tmp_path: Path) -> None:
    """All was verified, for what is not there differs from nothing."""
    folder = product(tmp_path, "a")
    with closing(Registry(tmp_path / "state" / "registry.sqlite3", output_dir=tmp_path)) as known:
        known.register(folder, load_committed(folder))
    arguments = [f"--output-dir={tmp_path}", f"--state-dir={tmp_path / 'state'}", "verify"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    shutil.rmtree(folder)
    product(tmp_path, "b")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert f"{folder} is gone, and the registry knows it: contimg registry check" in result.output
    assert "1 product verified, 1 differ or are gone" in result.output
    (tmp_path / "state" / "registry.sqlite3").write_bytes(b"damaged" * 1000)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "Whether a product is gone is not known: The registry" in result.output
    assert "1 product verified, 0 differ or are gone" in result.output  # the registry is none
    report = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).output)
    assert (report["verified"], report["differ"]) == (1, {})
    assert "The registry" in report["registry"]


def test_a_folder_stands_for_its_sub_bands_and_the_group_is_checked(tmp_path: Path) -> None:
    """Each file alone is fine; together they are too few."""
    for subband in (0, 1):
        write_file(tmp_path, subband)
    assert CliRunner().invoke(app, ["inspect", str(tmp_path)]).exit_code == 0
    result = CliRunner().invoke(app, ["inspect", "--group", "--json", str(tmp_path)])
    assert result.exit_code == 1
    assert [report["state"] for report in json.loads(result.output)] == [
        "accepted",
        "accepted",
        "refused",
    ]


def test_what_no_file_can_be_is_named(tmp_path: Path) -> None:
    names = [f"2025-01-14T23:46:00_sb{subband:02d}.hdf5" for subband in range(3)]
    (tmp_path / names[0]).mkdir()
    os.mkfifo(tmp_path / names[1])
    (tmp_path / names[2]).symlink_to("nowhere")
    hostile = tmp_path / "x\x1b[31m[/]\udcff.hdf5"
    result = CliRunner().invoke(app, ["inspect", str(tmp_path), str(hostile)])
    assert result.exit_code == 1
    assert result.output.count("is no regular file") == 2
    assert "a link to nowhere" in result.output
    assert "\x1b" not in result.output


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "image.fits").unlink(), "image.fits is missing"),
        (lambda folder: (folder / "more").write_text(""), "more does not belong to it"),
        (lambda folder: (folder / "more").symlink_to("/"), "is a link or a special file"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not a manifest"),
        (lambda folder: folder.rename(folder.with_name("else")), "Move it back"),
    ],
)
def test_a_damaged_product_is_named_however_it_is_looked_for(
    tmp_path: Path, damage: Callable[[Path], object], named: str
) -> None:
    folder = product(tmp_path, "a-0123456789")
    link = tmp_path / "link"
    link.symlink_to(folder.parent)
    damage(folder)
    for arguments in ([], [str(folder.parent)], [str(link)]):
        result = CliRunner().invoke(app, ["--output-dir", str(tmp_path), "verify", *arguments])
        assert result.exit_code == 1
        assert named in result.output.replace("\n", "")


def test_a_copy_beside_its_product_is_not_to_be_moved_into_it(tmp_path: Path) -> None:
    """The advice was to move it to the place where its product lies."""
    folder = product(tmp_path, "a-0123456789")
    copy = folder.with_name(f"{folder.name}.bak")
    shutil.copytree(folder, copy)
    command = ["--output-dir", str(tmp_path), "verify", "--json"]
    differ = json.loads(CliRunner().invoke(app, command).output)["differ"]
    assert differ == {
        str(copy): f"{copy} is a copy of the product {folder}, which lies in its place. "
        f"This copy can be removed once no difference is shown by: contimg verify {folder}"
    }
    shutil.rmtree(folder)
    assert "Move it back" in CliRunner().invoke(app, command).output


def test_a_file_of_a_product_stands_for_it_and_no_product_is_told(tmp_path: Path) -> None:
    folder = product(tmp_path, "a")
    result = CliRunner().invoke(app, ["verify", "--json", str(folder / "image.fits")])
    assert json.loads(result.output) == {"verified": 1, "differ": {}, "made_from": {}}
    for nothing in (tmp_path / "nowhere", tmp_path.parent / "empty"):
        result = CliRunner().invoke(app, ["verify", str(nothing)])
        assert result.exit_code == 1
        assert "is no product" in result.output


def test_a_folder_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = product(tmp_path, "a")
    scan = os.scandir

    def refuse(path: str) -> object:
        if path == str(folder):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = CliRunner().invoke(app, ["--output-dir", str(tmp_path), "verify"])
    assert result.exit_code == 1
    assert f"{folder} cannot be read (Permission denied)" in result.output
