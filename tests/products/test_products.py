"""Products: their keys, that they appear whole or not at all, and that they are never changed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest
from committed_products import committed_products
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_stages import Make, Refine

from absurd_contimg.config import PathsConfig, PipelineConfig
from absurd_contimg.core.records import Json
from absurd_contimg.errors import BrokenProductError, MissingInputError, OutputError, SettingError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.product_builder import input_entries, product_location
from absurd_contimg.products import store
from absurd_contimg.products.files import tracked_files
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.products.manifest import MANIFEST_NAME, Manifest, file_entries, write_manifest
from absurd_contimg.products.store import (
    find_committed,
    load_committed,
    publish,
    verify,
)
from absurd_contimg.science.measurement_set import working_copy


def context_for(root: Path, **inputs: Json) -> PipelineContext:
    config = PipelineConfig(paths=PathsConfig.below(root))
    source = root / "source"
    if not source.exists():
        source.write_bytes(b"data")
    return PipelineContext(config, {"group_id": "G", "source": str(source), **inputs})


def key_of(context: PipelineContext) -> str:
    return product_location(Make(), context, input_entries(Make(), context))[0]


def make(root: Path, scratch: str = "scratch1", text: str = "whole") -> tuple[Path, Path]:
    """A finished product in scratch and its place, without any process."""
    context = context_for(root)
    inputs = input_entries(Make(), context)
    key, committed = product_location(Make(), context, inputs)
    product = root / scratch / "product"
    (product / "table").mkdir(parents=True)
    (product / "table" / "part").write_text("part")
    (product / "table" / "table.lock").write_text("lock")
    (product / "whole").write_text(text)
    manifest = Manifest(
        stage="make",
        stage_version=1,
        key=key,
        location=committed.relative_to(context.config.paths.output_dir).as_posix(),
        output_dir=str(context.config.paths.output_dir),
        group_id="G",
        parameters={"factor": 1},
        inputs=inputs,
        outputs={"made": str(committed / "whole"), "list": [str(committed)], "n": 1},
        files=file_entries(product),
        software={"python": "3"},
        created_at="2026-01-01T00:00:00+00:00",
        attempt="1",
        host="here",
    )
    write_manifest(product, manifest)
    return product, committed


def test_key_covers_parameters_inputs_and_group(tmp_path: Path) -> None:
    """Another parameter, other content or another group is another product."""
    base = key_of(context_for(tmp_path))
    assert key_of(context_for(tmp_path)) == base
    assert key_of(context_for(tmp_path, factor=2)) != base
    assert key_of(context_for(tmp_path, group_id="H")) != base
    (tmp_path / "source").write_bytes(b"tada")
    assert key_of(context_for(tmp_path)) != base


def test_key_ignores_where_an_input_lies(tmp_path: Path) -> None:
    """Files are renamed when their group is known; that makes no new product."""
    base = key_of(context_for(tmp_path))
    moved = shutil.copy(tmp_path / "source", tmp_path / "elsewhere")
    assert key_of(context_for(tmp_path, source=str(moved))) == base


def test_input_without_its_manifest_is_no_product(tmp_path: Path) -> None:
    """It may be incomplete; the fault campaign met it by deleting a manifest."""
    product, committed = make(tmp_path)
    publish(product, committed)
    (committed / MANIFEST_NAME).unlink()
    context = replace(context_for(tmp_path), outputs={"made": str(committed / "whole")})
    with pytest.raises(BrokenProductError, match="in no committed product"):
        input_entries(Refine(), context)


def test_version_of_the_stage_is_in_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corrected stage does not adopt what its faulty version made."""
    base = key_of(context_for(tmp_path))
    monkeypatch.setattr(Make, "version", 2)
    assert key_of(context_for(tmp_path)) != base


def test_committed_input_counts_by_its_key(tmp_path: Path) -> None:
    """CASA writes times into its tables: a product made again has other bytes, the same key."""

    def key_downstream() -> str:
        context = context_for(tmp_path).with_outputs({"made": str(committed / "whole")})
        return product_location(Refine(), context, input_entries(Refine(), context))[0]

    product, committed = make(tmp_path)
    publish(product, committed)
    before = key_downstream()
    shutil.rmtree(committed)
    product, _ = make(tmp_path, "scratch2", text="made again")
    publish(product, committed)
    assert key_downstream() == before


def made_at(committed: Path, time: str) -> None:
    """Let the manifest say when the product was made."""
    text = (committed / MANIFEST_NAME).read_text()
    (committed / MANIFEST_NAME).write_text(text.replace("2026-01-01T00:00:00+00:00", time))


@pytest.mark.parametrize("time", ["", "2000-01-01T00:00:00", "2026-01-01T00:00:00+00:00"])
def test_input_that_was_written_in_place_is_refused(tmp_path: Path, time: str) -> None:
    """``flagdata`` keeps the sizes; the image of it was clean, with the key of the first one."""
    product, committed = make(tmp_path)
    publish(product, committed)
    made_at(committed, time)
    context = context_for(tmp_path).with_outputs({"made": str(committed / "whole")})
    before = input_entries(Refine(), context)
    with (committed / "whole").open("r+") as file:
        file.write("whale")
    with pytest.raises(BrokenProductError, match="whole has other content"):
        input_entries(Refine(), context)
    with (committed / "whole").open("r+") as file:
        file.write("whole")  # as a restored backup
    assert input_entries(Refine(), context) == before


def test_input_that_nobody_touched_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Measurement Set of 1.4 GB takes 2 to 3 s, in each of the stages that read it."""
    product, committed = make(tmp_path)
    publish(product, committed)
    made_at(committed, (datetime.now(UTC) + timedelta(seconds=1)).isoformat())
    context = context_for(tmp_path).with_outputs({"made": str(committed / "whole")})
    monkeypatch.setattr(type(LOCAL), "digest", lambda *_: pytest.fail("it was read"))
    input_entries(Refine(), context)


def test_missing_input_is_named(tmp_path: Path) -> None:
    """The error names the file."""
    context = context_for(tmp_path, source=str(tmp_path / "gone"))
    with pytest.raises(MissingInputError, match="gone"):
        input_entries(Make(), context)


def test_publish_puts_the_whole_product_in_place(tmp_path: Path) -> None:
    """One rename: afterwards scratch is empty and the product verifies to the byte."""
    product, committed = make(tmp_path)
    published = publish(product, committed)
    assert not published.adopted
    assert not product.exists()
    assert find_committed(committed, published.manifest.key, deep=True) == published.manifest


def test_loser_of_a_race_adopts_the_winner(tmp_path: Path) -> None:
    """The winner's bytes stay; the loser's product stays in scratch for removal."""
    first, committed = make(tmp_path, text="first")
    second, _ = make(tmp_path, "scratch2", text="second")
    publish(first, committed)
    published = publish(second, committed)
    assert published.adopted
    assert (committed / "whole").read_text() == "first"
    assert second.exists()


@pytest.mark.parametrize("limit_bytes", [10**9, 0])
def test_flipped_byte_is_not_adopted_where_reading_is_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit_bytes: int
) -> None:
    """A disk's error in an image; of large products it is for ``contimg verify``."""
    monkeypatch.setattr(store, "_QUICKLY_READ_BYTES", limit_bytes)
    product, committed = make(tmp_path, text="first")
    key = publish(product, committed).manifest.key
    (committed / "whole").chmod(0o644)
    (committed / "whole").write_text("firsT")
    made_at(committed, "2100-01-01T00:00:00+00:00")  # so that the file was not touched since
    if limit_bytes:
        with pytest.raises(BrokenProductError, match="whole has other content"):
            find_committed(committed, key)
    else:
        assert find_committed(committed, key) is not None


@pytest.mark.parametrize("there", ["no manifest", "bad manifest", "a file", "lost file", "other"])
def test_broken_product_in_the_place_is_an_error_and_stays(tmp_path: Path, there: str) -> None:
    """Nothing is ever overwritten, and the error names the folder."""
    product, committed = make(tmp_path)
    committed.parent.mkdir(parents=True)
    if there == "a file":
        committed.write_text("x")
    elif there == "lost file":
        shutil.copytree(product, committed)
        (committed / "whole").unlink()
    elif there == "other":
        shutil.copytree(product, committed)
        manifest = json.loads((committed / MANIFEST_NAME).read_text())
        (committed / MANIFEST_NAME).write_text(json.dumps({**manifest, "key": "0"}))
    else:
        committed.mkdir()
        (committed / "whole").write_text("x")
        if there == "bad manifest":
            (committed / MANIFEST_NAME).write_text('{"schema": 1}')
    with pytest.raises(BrokenProductError, match=committed.name):
        publish(product, committed)
    assert product.exists()
    assert committed.exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "whole").unlink(), "whole is missing"),
        (lambda p: (p / "more").touch(), "more does not belong"),
        (lambda p: (p / "whole").write_text("longer than it was"), "has 18 bytes, not 5"),
        (lambda p: (p / "whole").write_text("whale"), "other content"),
    ],
)
def test_changed_product_is_noticed(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    """Every change of names, sizes or bytes is found and reported."""
    product, committed = make(tmp_path)
    published = publish(product, committed)
    damage(committed)
    with pytest.raises(BrokenProductError, match=message):
        verify(committed, published.manifest, deep=True)


_WITHOUT_ROOTS_POWER = (
    *("setpriv", "--bounding-set", "-dac_override,-dac_read_search"),
    *("--inh-caps", "-dac_override,-dac_read_search"),
)
_VERIFY = """
import sys
from pathlib import Path
from absurd_contimg.products.manifest import read_manifest
from absurd_contimg.products.store import verify
verify(Path(sys.argv[1]), read_manifest(Path(sys.argv[1])))
"""


def test_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    """CASA reports only that something is wrong; the fault campaign met it."""
    product, committed = make(tmp_path)
    publish(product, committed)
    (committed / "whole").chmod(0)
    prefix = _WITHOUT_ROOTS_POWER if os.geteuid() == 0 else ()
    ended = subprocess.run(
        [*prefix, sys.executable, "-c", _VERIFY, str(committed)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert f"Product {committed} differs" in ended.stderr
    assert "whole cannot be read" in ended.stderr


@pytest.mark.parametrize("name", ["../../victim", "/victim", "..", ".hidden"])
@pytest.mark.parametrize("field", ["key", "group_id"])
def test_manifest_whose_names_would_leave_a_folder_is_refused(
    tmp_path: Path, field: str, name: str
) -> None:
    """The key names the folder of a removed product: one was moved out of the site."""
    product, committed = make(tmp_path)
    manifest = publish(product, committed).manifest.to_json()
    with pytest.raises(ValueError, match="is no key or name"):
        Manifest.from_json({**manifest, field: name})


def test_lock_files_are_no_content(tmp_path: Path) -> None:
    """casacore rewrites table.lock when a table is only read."""
    product, committed = make(tmp_path)
    published = publish(product, committed)
    (committed / "table" / "table.lock").write_text("another process was here")
    verify(committed, published.manifest, deep=True)


def test_other_file_system_is_a_setting_error(tmp_path: Path) -> None:
    """EXDEV cannot be cured by trying again; the error says which setting is wrong."""
    product, committed = make(tmp_path)
    assert Path("/dev/shm").stat().st_dev != tmp_path.stat().st_dev, "use another --basetemp"
    elsewhere = Path("/dev/shm") / f"absurd-{os.getpid()}"
    try:
        with pytest.raises(SettingError, match="scratch_dir"):
            publish(product, elsewhere / committed.name)
    finally:
        shutil.rmtree(elsewhere)


def test_unforeseen_error_of_rename_is_not_hidden(tmp_path: Path) -> None:
    """Only a taken place means a lost race."""
    product, committed = make(tmp_path)
    full = OSError(errno.ENOSPC, "No space left on device")
    with mock.patch("os.rename", side_effect=full), pytest.raises(OSError, match="No space"):
        publish(product, committed)


def test_moved_output_folder_still_works(tmp_path: Path) -> None:
    """Paths in the outputs follow the product to its new home."""
    product, committed = make(tmp_path)
    publish(product, committed)
    (tmp_path / "products").rename(tmp_path / "archive")
    ((folder, manifest),) = committed_products(tmp_path / "archive")
    assert manifest.outputs == {"made": str(folder / "whole"), "list": [str(folder)], "n": 1}


def test_renamed_product_is_refused(tmp_path: Path) -> None:
    """A product in another's place must not be taken for it."""
    product, committed = make(tmp_path)
    publish(product, committed)
    wrong = committed.rename(committed.with_name("other"))
    with pytest.raises(BrokenProductError, match="Move it back"):
        load_committed(wrong)


def test_name_of_the_manifest_is_taken(tmp_path: Path) -> None:
    """A stage cannot write a manifest of its own."""
    (tmp_path / MANIFEST_NAME).touch()
    with pytest.raises(OutputError, match="taken"):
        file_entries(tmp_path)


def test_working_copy_is_writable(tmp_path: Path) -> None:
    """CASA needs write access even to solve; the committed original may be read-only."""
    source = tmp_path / "a.ms"
    source.mkdir()
    (source / "table.dat").write_text("x")
    (source / "table.dat").chmod(0o444)
    source.chmod(0o555)
    (tmp_path / "copies").mkdir()
    copy = working_copy(source, tmp_path / "copies")
    assert (copy.stat().st_mode & 0o200, (copy / "table.dat").stat().st_mode & 0o200) == (128, 128)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(outputs=st.dictionaries(st.text(), json_values, max_size=4))
def test_manifest_survives_json(tmp_path: Path, outputs: dict[str, Json]) -> None:
    """Whatever a stage returns comes back as it was."""
    manifest = Manifest(
        *("make", 1, "k", "made/x", "/out", "G"),
        *({}, (), outputs, (), {}, "2026-01-01T00:00:00+00:00", "1", "h"),
    )
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_manifest_of_an_earlier_version_is_read_with_its_fallbacks(tmp_path: Path) -> None:
    """It calls them escalations, and the oldest name none."""
    product, _ = make(tmp_path)
    saved = {**json.loads((product / MANIFEST_NAME).read_text())}
    del saved["fallbacks"]
    assert Manifest.from_json(saved).fallbacks == ()
    assert Manifest.from_json({**saved, "escalations": ["one-thread"]}).fallbacks == ("one-thread",)


def test_folders_too_deep_for_a_path_are_named_by_their_product(tmp_path: Path) -> None:
    """The message had 4,000 characters."""
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 100, dir_fd=folder)
        inner = os.open("d" * 100, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    with pytest.raises(OutputError, match=r"folders in folders, too deep for a path") as refused:
        tracked_files(tmp_path)
    assert len(str(refused.value)) < 300


@pytest.mark.skipif(os.geteuid() != 0, reason="root becomes another user")
def test_a_folder_in_a_product_that_cannot_be_read_is_named() -> None:
    """Its files were not counted, without a word."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        closed = Path(name, "table")
        closed.mkdir(mode=0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(OutputError, match=rf"{closed} cannot be read \(Permission denied"):
                tracked_files(Path(name))
        finally:
            os.seteuid(0)
