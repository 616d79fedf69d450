"""``manifest.json``: what a product is, what it was made from and with which software."""

from __future__ import annotations

import errno
import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from absurd_contimg.core.records import Json
from absurd_contimg.core.row_values import JSON_DEPTH_MAX, depth_of
from absurd_contimg.errors import BrokenProductError, OutputError
from absurd_contimg.products.filesystem import LOCAL, FileSystem

MANIFEST_NAME = "manifest.json"
MANIFEST_SCHEMA = 1
_NO_FILE = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG,
}  # fmt: skip
"""Nothing readable is there; other errors of a file system may go away."""

_SOFTWARE = (
    "absurd-contimg", "casatools", "casatasks", "casadata", "pyuvdata", "python-casacore",
    "astropy", "scipy", "numpy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a product: its path inside the product, bytes, and blake2b-160 in hex."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class InputEntry:
    """One input of a product. `kind` is ``file``, ``folder`` or ``product``."""

    path: str
    kind: str
    digest: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of one product."""

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
    """What the stage returned, as JSON (`products.outputs`)."""
    files: tuple[FileEntry, ...]
    software: Mapping[str, str]
    created_at: str
    """ISO 8601, UTC."""
    attempt: str
    host: str
    fallbacks: tuple[str, ...] = ()
    """What this attempt did differently than the first one (`execution.fallback`)."""

    def to_json(self) -> dict[str, Json]:
        """The content of ``manifest.json``."""
        data: dict[str, Any] = {name: getattr(self, name) for name, _, _ in _FIELDS[Manifest]}
        data["inputs"] = [
            {"path": entry.path, "kind": entry.kind, "digest": entry.digest}
            for entry in self.inputs
        ]
        data["files"] = [
            {"path": entry.path, "size": entry.size, "digest": entry.digest} for entry in self.files
        ]
        return {"schema": MANIFEST_SCHEMA, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """What `to_json` wrote, in earlier versions with ``escalations``, or `ValueError`."""
        if not isinstance(data, Mapping) or data.get("schema") != MANIFEST_SCHEMA:
            raise ValueError(f"not a manifest of schema {MANIFEST_SCHEMA}")
        if depth_of([data.get(name) for name in _NESTED]) > JSON_DEPTH_MAX:
            raise ValueError(f"it has more than {JSON_DEPTH_MAX} levels")
        values = {name: value for name, value in data.items() if name != "schema"}
        try:
            values["files"] = tuple([FileEntry(**entry) for entry in values["files"]])
            values["inputs"] = tuple([InputEntry(**entry) for entry in values["inputs"]])
            earlier_key = values.pop("escalations", ())
            values["fallbacks"] = tuple(values.get("fallbacks", earlier_key))
            manifest = cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"manifest fields do not fit: {error}") from error
        if not _fits(manifest):
            _check_types(manifest)
            entries: tuple[FileEntry | InputEntry, ...] = (*manifest.files, *manifest.inputs)
            for entry in entries:
                _check_types(entry)
        for name in (manifest.key, manifest.group_id):  # they become names of folders
            if "/" in name or name.startswith("."):
                raise ValueError(f"{name[:60]!r} is no key or name of a group")
        return manifest

    def moved_to(self, output_dir: str) -> Manifest:
        """The same with its paths below another output folder, for products that were moved."""
        if self.output_dir == output_dir:
            return self
        outputs = relocated(self.outputs, self.output_dir, output_dir)
        assert isinstance(outputs, Mapping)  # as `from_json` has checked
        return replace(self, output_dir=output_dir, outputs=outputs)


def file_entries(product: Path, files: FileSystem = LOCAL) -> tuple[FileEntry, ...]:
    """All files of a product in the order of their paths; `OutputError` on links and a manifest."""
    if files.exists(product / MANIFEST_NAME):
        raise OutputError(f"{product} already has a {MANIFEST_NAME}; that name is taken.")
    return tuple(
        FileEntry(name, size, files.digest(product / name))
        for name, size in files.sizes(product).items()
    )


def software_versions() -> dict[str, str]:
    """The packages that shape results, as installed here, and Python itself."""
    versions = {"python": platform.python_version()}
    for name in _SOFTWARE:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an optional package that is not installed has shaped nothing
    return versions


def write_manifest(product: Path, manifest: Manifest, files: FileSystem = LOCAL) -> None:
    """Write the manifest and flush all to the disk: slow, so in the process that can be killed."""
    files.write_json(product / MANIFEST_NAME, manifest.to_json())
    files.flush_tree(product)


def read_manifest(folder: Path, files: FileSystem = LOCAL) -> Manifest:
    """The manifest of a product folder; raises `BrokenProductError` when there is none."""
    path = folder / MANIFEST_NAME
    try:
        return Manifest.from_json(files.read_json(path))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_FILE:
            raise
        raise BrokenProductError(
            f"{folder} is no product: {path} is missing or unreadable ({error}).",
            "Move away what is left of it, and make it again: contimg reprocess plan, then start.",
        ) from error


def _check_types(record: Manifest | FileEntry | InputEntry) -> None:
    """Raise `ValueError` for a field of another type, or a text that no database can hold."""
    for name, kind, is_fitting in _FIELDS[type(record)]:
        value = getattr(record, name)
        if not is_fitting(value):
            raise ValueError(f"{name} is {str(value)[:60]!r}, which is no {kind}")
        if type(record) is Manifest and isinstance(value, str):
            value.encode()  # `UnicodeEncodeError` is a `ValueError`


def _fits(manifest: Manifest) -> bool:
    """Whether `_check_types` has nothing against it, its files and inputs: one look at all."""
    texts = list(_texts_of(manifest))
    for file in manifest.files:
        texts += file.path, file.digest
    for entry in manifest.inputs:
        texts += entry.path, entry.kind, entry.digest
    try:
        text = "".join(texts)
        text.encode()
    except (TypeError, UnicodeEncodeError):
        return False
    numbers = (manifest.stage_version, *[each.size for each in manifest.files])
    mappings = (manifest.parameters, manifest.outputs, manifest.software)
    return (
        "\0" not in text
        and {int}.issuperset(map(type, numbers))
        and min(numbers) >= 0
        and {dict}.issuperset(map(type, mappings))
        and isinstance(manifest.fallbacks, tuple)
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_tuple(value: object) -> bool:
    return isinstance(value, tuple)


_CHECKS = {"str": _is_text, "int": _is_count, "Mapping": _is_mapping, "tuple": _is_tuple}
_FIELDS = {
    record: [
        (field.name, str(field.type), _CHECKS[str(field.type).split("[")[0]])
        for field in fields(record)
    ]
    for record in (Manifest, FileEntry, InputEntry)
}
"""By class, each field with its type and its check."""
_NESTED = ("parameters", "outputs", "software", "fallbacks", "escalations")
"""The fields that may hold anything; no other one has members of members."""
_texts_of = attrgetter(*(name for name, kind, _ in _FIELDS[Manifest] if kind == "str"))


def relocated(value: Json, old: str, new: str) -> Json:
    """The value with all paths at or below the folder `old` moved to the folder `new`."""
    if isinstance(value, str):
        return new + value[len(old) :] if value == old or value.startswith(old + "/") else value
    if isinstance(value, Mapping):
        return {name: relocated(part, old, new) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [relocated(part, old, new) for part in value]
    return value
