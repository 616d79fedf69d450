"""Products behind a linked folder: every command names the link, and each product not read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from absurd_contimg.config import PathsConfig
from absurd_contimg.config.retention import RetentionConfig
from absurd_contimg.errors import BrokenProductError, SettingError
from absurd_contimg.execution.runner import check_folders
from absurd_contimg.operations.cli.main import app
from absurd_contimg.operations.doctor.site_folders import folders_of_products
from absurd_contimg.operations.maintenance.needs import Needs
from absurd_contimg.operations.maintenance.retention import plan_retention
from absurd_contimg.products.manifest import MANIFEST_NAME, Manifest, file_entries, write_manifest
from absurd_contimg.products.removal import take_out
from absurd_contimg.products.store import linked_folders, load_committed
from absurd_contimg.registry import Registry
from absurd_contimg.registry.models import Product

LOCATIONS = ("images/G-0123456789", "raw/ms/G-0123456789", "raw/ms/H-0123456789")


@dataclass(frozen=True)
class Site:
    """Three products, which the registry knows."""

    folder: Path

    @property
    def output_dir(self) -> Path:
        return self.folder / "out"

    def registry(self) -> Registry:
        return Registry(self.folder / "registry.sqlite3", output_dir=self.output_dir)

    def contimg(self, *arguments: str) -> Any:
        options = ["--output-dir", str(self.output_dir), "--state-dir", str(self.folder)]
        environment = {"PIPELINE_PRODUCTS_DB": str(self.folder / "registry.sqlite3")}
        return CliRunner().invoke(app, [*options, *arguments], env=environment)

    def link(self, name: str) -> Path:
        """Move a folder to another disk and leave a link in its place."""
        folder, elsewhere = self.output_dir / name, self.folder / "elsewhere"
        folder.rename(elsewhere)
        folder.symlink_to(elsewhere)
        return folder


def commit(output_dir: Path, location: str) -> Path:
    folder = output_dir / location
    folder.mkdir(parents=True)
    (folder / "file").write_text("x")
    outputs: Mapping[str, Any] = {"image": {"fits": "/x.fits", "noise_jy": 0.001}}
    manifest = Manifest(
        *("image", 1, location.replace("/", "-"), location, str(output_dir), "G", {}, ()),
        *(outputs, file_entries(folder), {}, "2026-01-26T00:00:00+00:00", "1", "host"),
    )
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    for location in LOCATIONS:
        commit(made.output_dir, location)
    with closing(made.registry()) as registry:
        assert registry.rebuild(made.output_dir).entered == len(LOCATIONS)
    return made


@pytest.mark.parametrize("is_away", [False, True], ids=["there", "its disk is away"])
@pytest.mark.parametrize("name", ["raw", "raw/ms"])
def test_verify_check_and_rebuild_name_a_linked_folder(
    site: Site, name: str, is_away: bool
) -> None:
    """Not one of them goes past its products in silence; the third drops their rows."""
    for command in (("verify",), ("registry", "check")):
        assert site.contimg(*command).exit_code == 0
    link = site.link(name)
    if is_away:
        (site.folder / "elsewhere").rename(site.folder / "away")
    for command in (("verify",), ("registry", "check"), ("registry", "rebuild")):
        result = site.contimg(*command)
        text = result.output.replace("\n", "")
        assert result.exit_code == 1, (command, result.output)
        assert f"{link} is a link to {site.folder / 'elsewhere'}" in text
        assert "is not followed" in text
        assert "Move" in text
        for location in LOCATIONS[1:]:
            if not (is_away and command == ("registry", "rebuild")):  # it is not on disk
                assert str(site.output_dir / location) in text, (command, result.output)


def test_doctor_names_a_linked_folder(site: Site) -> None:
    assert folders_of_products(site.output_dir) == []
    link = site.link("raw/ms")
    (finding,) = folders_of_products(site.output_dir)
    assert not finding.ok
    assert str(link) in finding.finding
    assert "a link for each product" in finding.remedy


def test_damage_behind_a_linked_folder_is_not_called_verified(site: Site) -> None:
    link = site.link("raw/ms")
    (link / "G-0123456789" / "file").write_text("y")
    report = json.loads(site.contimg("verify", "--json").output)
    assert report["verified"] == 1
    behind = {str(site.output_dir / location) for location in LOCATIONS[1:]}
    assert set(report["differ"]) == {str(link), *behind}
    assert all(f"behind the link {link}" in report["differ"][folder] for folder in behind)


def test_links_of_their_own_for_products_are_followed(site: Site) -> None:
    """What the message advises: nothing is missed then."""
    folder, elsewhere = site.output_dir / "raw" / "ms", site.folder / "elsewhere"
    folder.rename(elsewhere)
    folder.mkdir()
    for product in elsewhere.iterdir():
        (folder / product.name).symlink_to(product)
    for command in (("verify",), ("registry", "check"), ("registry", "rebuild")):
        result = site.contimg(*command)
        assert result.exit_code == 0, result.output
        assert "3 products" in result.output


LOST: dict[str, Callable[[Path], object]] = {
    "its manifest is gone": lambda folder: (folder / MANIFEST_NAME).unlink(),
    "its place is a file": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
}


@pytest.mark.parametrize("lost", LOST)
def test_a_known_product_that_is_not_read_is_named(tmp_path: Path, lost: str) -> None:
    """Its name has no key, so that nothing else tells it from a folder of products."""
    site = Site(tmp_path)
    folders = [commit(site.output_dir, f"images/{name}") for name in "ab"]
    with closing(site.registry()) as registry:
        registry.rebuild(site.output_dir)
    LOST[lost](folders[0])
    for command in (("verify",), ("registry", "check"), ("registry", "rebuild")):
        result = site.contimg(*command)
        assert result.exit_code == 1, (command, result.output)
        assert str(folders[0]) in result.output.replace("\n", "")


def test_rebuild_names_each_row_that_it_drops_of_a_product_on_disk(site: Site) -> None:
    site.link("raw/ms")
    with closing(site.registry()) as registry:
        report = registry.rebuild(site.output_dir)
        assert len(registry.rows(Product)) == report.entered == 1
    named = {str(path.relative_to(site.output_dir)) for path, _ in report.broken}
    assert named == {"raw/ms", *LOCATIONS[1:]}


def test_retention_leaves_what_is_behind_a_linked_folder(site: Site) -> None:
    """Taking it out would rename it across file systems."""
    site.link("raw/ms")
    folder = site.output_dir / LOCATIONS[1]
    config = RetentionConfig(images_days=1.0)
    with closing(site.registry()) as registry:
        plan = plan_retention(registry, config, Needs(), datetime.now(UTC))
    assert [product.folder for product in plan.removed] == [site.output_dir / LOCATIONS[0]]
    assert {product.kept for product in plan.kept} == {
        "it is a link, behind one, or not there: contimg registry check"
    }
    key = load_committed(folder).key
    with pytest.raises(BrokenProductError, match="behind the link"):
        take_out(site.output_dir, folder, key, size_bytes=1, removed_at="x", reason="x")
    assert folder.is_dir()


def test_worker_refuses_a_link_to_another_file_system_at_every_level(tmp_path: Path) -> None:
    paths = PathsConfig.below(tmp_path)
    (paths.output_dir / "raw").mkdir(parents=True)
    (paths.output_dir / "raw" / "ms").symlink_to("/dev/shm")
    with pytest.raises(SettingError, match="raw/ms is a link to another file system, /dev/shm"):
        check_folders(paths)


@pytest.mark.parametrize("target", ["not-mounted/disk", "link"], ids=["nothing", "circle"])
@pytest.mark.parametrize("name", ["output_dir", "scratch_dir", "state_dir"])
def test_a_folder_that_is_a_link_to_nothing_is_named(
    name: str, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is not mounted: doctor found no problem, and spawn ended in a traceback."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / target)
    paths = PathsConfig.below(tmp_path / "site").model_copy(update={name: link / "below"})
    with pytest.raises(SettingError, match=f"{name} .*{link} is a link to "):
        check_folders(paths)
    monkeypatch.setattr("absurd_contimg.operations.doctor.doctor.stage_software", lambda _: [])
    option = f"--{name.replace('_', '-')}={link / 'below'}"
    doctor = CliRunner().invoke(app, ["--folder", str(tmp_path / "site"), option, "doctor"])
    assert f"{name}: {link / 'below'}: {link} is a link to" in doctor.output.replace("\n", " ")


def test_links_that_hide_no_product_are_left_alone(site: Site) -> None:
    """A link to the folder above, one to a file, one inside a product, and the folder of copies."""
    out = site.output_dir
    (site.folder / "copies").mkdir()
    (site.folder / "notes.txt").write_text("")
    (out / "published").symlink_to(site.folder / "copies")
    (out / "raw" / "up").symlink_to(out)
    (out / "raw" / "circle").symlink_to("circle")
    (out / "raw" / "notes.txt").symlink_to(site.folder / "notes.txt")
    (site.folder / "empty").mkdir()
    (out / "raw" / "empty").symlink_to(site.folder / "empty")
    assert list(linked_folders(out)) == [out / "raw" / "empty"]
    for command in (("verify",), ("registry", "check"), ("registry", "rebuild")):
        result = site.contimg(*command)
        assert result.exit_code == 0, result.output
