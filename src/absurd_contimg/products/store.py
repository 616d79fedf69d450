"""Products: what a stage leaves behind, whole or not at all, and never changed afterwards.

A product is a folder with its files and a manifest. It is made in scratch, sealed (manifest
written, everything flushed to disk) and then renamed into the output folder. The rename is the
only moment at which it appears, so a process killed at any time leaves no product or all of it.

A product is named by what it was made from: its key covers the stage and its version, the
parameters and the digests of the inputs. The same work therefore has the same place, whoever
does it and however often: a repeated run finds the product and adopts it, and the loser of a
race finds the place taken. A committed product that serves as an input counts by its own key,
not by the bytes in it, because CASA writes times and paths into its tables.

This module knows files and manifests. It knows no process, no registry and no queue.
"""

from __future__ import annotations

import errno
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from absurd_contimg.core.records import Json
from absurd_contimg.errors import (
    CorruptInputError,
    OutputError,
    SettingError,
)
from absurd_contimg.products.filesystem import LOCAL, FileSystem

MANIFEST_NAME = "manifest.json"
MANIFEST_SCHEMA = 1

KEY_DIGITS_IN_NAME = 10
"""Hex digits of the key in a folder's name: 40 bits, with the readable name before it."""

_SOFTWARE = (
    "absurd-contimg", "casatools", "casatasks", "casadata", "pyuvdata", "python-casacore",
    "astropy", "scipy", "numpy",
)  # fmt: skip


class BrokenProductError(CorruptInputError):
    """A folder stands where a product belongs, but it is not that product, or not all of it."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a product: its path inside the product, bytes, and blake2b-160 in hex."""

    path: str
    size: int
    digest: str

    def to_json(self) -> dict[str, Json]:
        """As written into a manifest."""
        return {"path": self.path, "size": self.size, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class InputEntry:
    """One input of a product. `kind` is ``file``, ``folder`` or ``product``."""

    path: str
    kind: str
    digest: str

    def to_json(self) -> dict[str, Json]:
        """As written into a manifest."""
        return {"path": self.path, "kind": self.kind, "digest": self.digest}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a product is, what it was made from and by what. Written beside its files."""

    stage: str
    stage_version: int
    key: str
    """blake2b-160 in hex over everything that decides what the product is."""
    location: str
    """Its folder, relative to the output folder."""
    output_dir: str
    """The output folder when it was made; paths in `outputs` begin with it."""
    group_id: str
    parameters: Mapping[str, Json]
    inputs: tuple[InputEntry, ...]
    outputs: Mapping[str, Json]
    """What the stage returned: its part of the pipeline context."""
    files: tuple[FileEntry, ...]
    software: Mapping[str, str]
    created_at: str
    """ISO 8601, UTC."""
    attempt: str
    host: str
    fallbacks: tuple[str, ...] = ()
    """What this attempt did differently than the first one (`execution.fallback`)."""

    def to_json(self) -> dict[str, Json]:
        """As written to ``manifest.json``."""
        data: dict[str, Any] = {one.name: getattr(self, one.name) for one in fields(self)}
        data["inputs"] = [entry.to_json() for entry in self.inputs]
        data["files"] = [entry.to_json() for entry in self.files]
        return {"schema": MANIFEST_SCHEMA, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """What `to_json` wrote; raises `ValueError` on anything else."""
        if not isinstance(data, Mapping) or data.get("schema") != MANIFEST_SCHEMA:
            raise ValueError(f"not a manifest of schema {MANIFEST_SCHEMA}")
        values = {name: value for name, value in data.items() if name != "schema"}
        try:
            values["files"] = tuple(FileEntry(**entry) for entry in values["files"])
            values["inputs"] = tuple(InputEntry(**entry) for entry in values["inputs"])
            earlier_key = values.pop("escalations", ())
            values["fallbacks"] = tuple(values.get("fallbacks", earlier_key))
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"manifest fields do not fit: {error}") from error

    def moved_to(self, output_dir: Path) -> Manifest:
        """The same with its paths below another output folder, for products that were moved."""
        if self.output_dir == str(output_dir):
            return self
        outputs = _relocated(self.outputs, self.output_dir, str(output_dir))
        assert isinstance(outputs, Mapping)
        return replace(self, output_dir=str(output_dir), outputs=outputs)


@dataclass(frozen=True, slots=True)
class Published:
    """Where a product is now. `adopted`: another attempt had already put it there."""

    folder: Path
    manifest: Manifest
    adopted: bool


# What a product will be: inputs, key and place.


def enclosing_product(path: Path, output_dir: Path, files: FileSystem = LOCAL) -> Path | None:
    """The product that a path lies in, if it is one below the output folder."""
    if not path.is_relative_to(output_dir):
        return None
    folder = path
    while folder != output_dir:
        if files.is_file(folder / MANIFEST_NAME):
            return folder
        folder = folder.parent
    return None


# Making: seal in scratch, publish by renaming.


def file_entries(product: Path, files: FileSystem = LOCAL) -> tuple[FileEntry, ...]:
    """All files of a product with sizes and digests, in the order of their paths.

    Raises `OutputError` on a symbolic link or a special file: a product stands on its own.
    """
    if files.exists(product / MANIFEST_NAME):
        raise OutputError(f"{product} already has a {MANIFEST_NAME}; that name is taken.")
    return tuple(
        FileEntry(name, size, files.digest(product / name))
        for name, size in files.sizes(product).items()
    )


def software_versions() -> dict[str, str]:
    """The packages that shape results, as installed here, and Python itself."""
    found = {"python": platform.python_version()}
    for name in _SOFTWARE:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an optional package that is not installed has shaped nothing
    return found


def write_manifest(product: Path, manifest: Manifest, files: FileSystem = LOCAL) -> None:
    """Write the manifest into a finished product and flush all of it to the disk.

    Belongs in the stage's process: flushing gigabytes takes time, and there it can be killed.
    """
    files.write_json(product / MANIFEST_NAME, manifest.to_json())
    files.flush_tree(product)


def publish(product: Path, committed: Path, files: FileSystem = LOCAL) -> Published:
    """Rename a sealed product into its place.

    When the place is taken by the same product, that one is adopted and ours is left in scratch.
    Raises `BrokenProductError` when something else is there (nothing is ever overwritten) and
    `SettingError` when scratch lies on another file system.
    """
    manifest = read_manifest(product, files)
    files.ensure_folder(committed.parent)
    try:
        files.rename(product, committed)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise SettingError(
                f"Scratch ({product}) and output ({committed.parent}) are on different file "
                "systems, so a product cannot be handed over in one step.",
                "Put scratch_dir on the file system of output_dir.",
            ) from error
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
            raise
        winner = find_committed(committed, manifest.key, files=files)
        if winner is None:
            raise
        return Published(committed, winner, adopted=True)
    for folder in committed.parents[: len(Path(manifest.location).parts)]:
        files.flush(folder)  # up to the output folder: some of them may be new
    return Published(committed, _in_place(manifest, committed), adopted=False)


# Reading: what is there, and is it whole.


def read_manifest(folder: Path, files: FileSystem = LOCAL) -> Manifest:
    """The manifest of a product folder; raises `BrokenProductError` when there is none."""
    path = folder / MANIFEST_NAME
    try:
        return Manifest.from_json(files.read_json(path))
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise BrokenProductError(
            f"{folder} is no product: {path} is missing or unreadable ({error}).",
            "Move it away and have it made again.",
        ) from error


def load_committed(folder: Path, files: FileSystem = LOCAL) -> Manifest:
    """The manifest of a product in its place, with paths as they are now.

    A product may be moved together with its output folder, but not be renamed inside it.
    """
    return _in_place(read_manifest(folder, files), folder)


def _in_place(manifest: Manifest, folder: Path) -> Manifest:
    """A manifest with its paths as they are now that its product lies in `folder`."""
    location = Path(manifest.location)
    if folder.parts[-len(location.parts) :] != location.parts:
        raise BrokenProductError(
            f"{folder} holds the product {manifest.location}.", "Move it back to that place."
        )
    return manifest.moved_to(folder.parents[len(location.parts) - 1])


def find_committed(
    folder: Path, key: str, *, deep: bool = False, files: FileSystem = LOCAL
) -> Manifest | None:
    """The product of that key if it is in its place, None if the place is free.

    Raises `BrokenProductError` when the folder holds anything but the whole product.
    """
    if not files.exists(folder):
        return None
    manifest = load_committed(folder, files)
    if manifest.key != key:
        raise BrokenProductError(
            f"{folder} holds a product with the key {manifest.key}, not {key}.",
            "Move it away and have it made again.",
        )
    verify(folder, manifest, deep=deep, files=files)
    return manifest


def verify(
    folder: Path, manifest: Manifest, *, deep: bool = False, files: FileSystem = LOCAL
) -> None:
    """Compare a product's files with its manifest: names and sizes, and with `deep` the bytes.

    Each file must also be readable: CASA says of one that is not only that something went wrong.

    Raises `BrokenProductError` that names the first few files in which they differ.
    """
    listed = {entry.path: entry for entry in manifest.files}
    found = {name: size for name, size in files.sizes(folder).items() if name != MANIFEST_NAME}
    wrong = [f"{name} is missing" for name in sorted(listed.keys() - found.keys())]
    wrong += [f"{name} does not belong to it" for name in sorted(found.keys() - listed.keys())]
    for name in sorted(listed.keys() & found.keys()):
        entry = listed[name]
        if found[name] != entry.size:
            wrong.append(f"{name} has {found[name]} bytes, not {entry.size}")
        elif not files.is_readable(folder / name):
            wrong.append(f"{name} cannot be read by this user")
        elif deep and files.digest(folder / name) != entry.digest:
            wrong.append(f"{name} has other content")
    if wrong:
        raise BrokenProductError(
            f"Product {folder} differs from its manifest: {'; '.join(wrong[:5])}"
            f"{f' and {len(wrong) - 5} more' if len(wrong) > 5 else ''}.",
            "A committed product must not be changed; move it away and have it made again.",
        )


def product_folders(output_dir: Path) -> Iterator[Path]:
    """Every folder with a manifest below an output folder, in the order of their paths."""
    for folder, subfolders, files in os.walk(output_dir):
        subfolders.sort()
        if MANIFEST_NAME in files:
            subfolders.clear()  # what is inside belongs to the product
            yield Path(folder)


def committed_products(output_dir: Path) -> Iterator[tuple[Path, Manifest]]:
    """Every product below an output folder; a broken manifest raises `BrokenProductError`."""
    for folder in product_folders(output_dir):
        yield folder, load_committed(folder)


def _relocated(value: Json, old: str, new: str) -> Json:
    if isinstance(value, str):
        return new + value[len(old) :] if value == old or value.startswith(old + "/") else value
    if isinstance(value, Mapping):
        return {name: _relocated(part, old, new) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_relocated(part, old, new) for part in value]
    return value
