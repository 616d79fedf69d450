"""Products: what a stage leaves behind, whole or not at all, and never changed afterwards.

A product gets its manifest in scratch, is flushed to disk and renamed into the output folder. Its
key covers the stage and its version, the parameters and the digests of the inputs, so a repeated
run finds the product and adopts it, as does the slower of two attempts. A committed input counts by
its key, not by its bytes: CASA writes times and paths into its tables.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from absurd_contimg.config.publication import PUBLISHED
from absurd_contimg.config.retention import REMOVED
from absurd_contimg.errors import BrokenProductError, SettingError, UserError
from absurd_contimg.products.filesystem import LOCAL, FileSystem
from absurd_contimg.products.manifest import MANIFEST_NAME, Manifest, read_manifest

_PRODUCT_NAME = re.compile(r".+-[0-9a-f]{10}")
"""A name, and the beginning of the product's key."""

_QUICKLY_READ_BYTES = 500_000_000
"""blake2b reads some 700 MB/s (measured, one core)."""


@dataclass(frozen=True, slots=True)
class Published:
    """A product in its place. `adopted`: another attempt had already put it there."""

    folder: Path
    manifest: Manifest
    adopted: bool


def publish(product: Path, committed: Path, files: FileSystem = LOCAL) -> Published:
    """Rename a finished product from scratch into its place, or adopt the same one there.

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
        existing = find_committed(committed, manifest.key, files=files)
        if existing is None:
            raise
        return Published(committed, existing, adopted=True)
    for folder in committed.parents[: manifest.location.count("/") + 1]:
        files.flush(folder)  # up to the output folder: some of them may be new
    return Published(committed, _in_place(manifest, committed, files), adopted=False)


def load_committed(folder: Path, files: FileSystem = LOCAL) -> Manifest:
    """The manifest with paths as they are now: a product may move with its output folder."""
    return _in_place(read_manifest(folder, files), folder, files)


def find_committed(
    folder: Path, key: str, *, deep: bool = False, files: FileSystem = LOCAL
) -> Manifest | None:
    """The whole product of that key, None if its place is free, or `BrokenProductError`.

    Compares the bytes too (`deep`) where that takes a second: all but Measurement Sets. Of those it
    reads the files that were touched.
    """
    if not files.exists(folder):
        return None
    manifest = load_committed(folder, files)
    if manifest.key != key:
        raise BrokenProductError(
            f"{folder} holds a product with the key {manifest.key}, not {key}.",
            "Move away what is left of it, and make it again: contimg reprocess plan, then start.",
        )
    is_small = sum(entry.size for entry in manifest.files) <= _QUICKLY_READ_BYTES
    verify(folder, manifest, deep=deep or is_small, touched=True, files=files)
    return manifest


def verify(
    folder: Path,
    manifest: Manifest,
    *,
    deep: bool = False,
    touched: bool = False,
    files: FileSystem = LOCAL,
) -> None:
    """Compare names, sizes, readability and (`deep`) bytes, or raise `BrokenProductError`.

    `touched`: the bytes of files that were touched after the stage had ended. CASA tasks that write
    into a Measurement Set leave its sizes as they are; a copy, a restored backup and another owner
    touch files too, and leave the bytes.
    """
    made_at_ns = _made_at_ns(manifest) if touched else 0
    listed = {entry.path: entry for entry in manifest.files}
    sizes = {name: size for name, size in files.sizes(folder).items() if name != MANIFEST_NAME}
    differences = [f"{name} is missing" for name in sorted(listed.keys() - sizes.keys())]
    unlisted = _unlisted_files(sizes, manifest)
    differences += [f"{name} does not belong to it" for name in unlisted]
    for name in sorted(listed.keys() & sizes.keys()):
        entry = listed[name]
        if sizes[name] != entry.size:
            differences.append(f"{name} has {sizes[name]} bytes, not {entry.size}")
        elif not files.is_readable(folder / name):
            differences.append(f"{name} cannot be read by this user")
        elif (
            deep or (touched and files.touched_at_ns(folder / name) >= made_at_ns)
        ) and files.digest(folder / name) != entry.digest:
            differences.append(f"{name} has other content")
    if differences:
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise BrokenProductError(
            f"Product {folder} differs from its manifest: {'; '.join(differences[:5])}{more}.",
            "A committed product must not be changed; move it away and have it made again.",
        )


def _made_at_ns(manifest: Manifest) -> int:
    """When the stage had ended, in Unix time; 0 if the manifest does not say it."""
    try:
        made_at = datetime.fromisoformat(manifest.created_at)
    except ValueError:
        return 0
    aware = made_at if made_at.tzinfo is not None else made_at.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000) * 1_000_000


def why_not_removable(folder: Path, files: FileSystem = LOCAL) -> str | None:
    """Why the folder of a product may hold what somebody else has put there; None if it does not.

    A file of the product that is missing or changed does not count.
    """
    try:
        names = _unlisted_files(files.sizes(folder), read_manifest(folder, files))
    except UserError as error:
        return error.problem
    except OSError as error:
        return f"it cannot be read ({error})"
    except RecursionError:
        return "it holds hundreds of folders in each other: move those away"
    if not names:
        return None
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"it holds {', '.join(names[:3])}{more}, which its manifest does not list: move that away"
    )


def _unlisted_files(names: Iterable[str], manifest: Manifest) -> list[str]:
    """The files that are neither the manifest nor in it."""
    return sorted(set(names) - {entry.path for entry in manifest.files} - {MANIFEST_NAME})


def damage_of(folder: Path) -> str | None:
    """Why what lies in a folder is no whole product, by names and sizes; None if nothing is there.

    A stage would make that product again only after it was moved away.
    """
    if not os.path.lexists(folder):
        return None
    try:
        verify(folder, load_committed(folder))
    except UserError as error:
        return error.problem
    except OSError as error:
        return f"{folder} cannot be read ({error})."
    return None


def is_whole(folder: Path, key: str) -> bool:
    """Whether the product of that key is in its place, with every byte."""
    try:
        return find_committed(folder, key, deep=True) is not None
    except (BrokenProductError, OSError):
        return False


def enclosing_product(path: Path, output_dir: Path, files: FileSystem = LOCAL) -> Path | None:
    """The product below the output folder that a path lies in, if there is one."""
    if not path.is_relative_to(output_dir):
        return None
    folder = path
    while folder != output_dir:
        if files.is_file(folder / MANIFEST_NAME):
            return folder
        folder = folder.parent
    return None


def earlier_output_dir(product: str, output_dir: Path, files: FileSystem = LOCAL) -> str | None:
    """The output folder in which a product was made that lies below another one now.

    None if it is where it was, or in neither.
    """
    if product.startswith(f"{output_dir}/"):
        return None
    parts = Path(product).parts
    for number in range(1, len(parts)):
        if files.is_file(output_dir.joinpath(*parts[number:], MANIFEST_NAME)):
            return str(Path(*parts[:number]))
    return None


def broken_link(folder: Path) -> str | None:
    """Why a folder can neither be used nor made: it, or one above it, is a link to nothing."""
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if os.path.exists(nearest):
        return None
    return f"{nearest} is a link to {os.readlink(nearest)}, which is not there or leads in a circle"


def linked_folders(output_dir: Path) -> Iterator[Path]:
    """Folders that are links, at any level, other than products: none of them is followed.

    Also links whose target cannot be looked at: its disk may be away.
    """
    for folder, subfolders, files in os.walk(output_dir):
        if MANIFEST_NAME in (*files, *subfolders):
            subfolders.clear()
            continue
        kept = (PUBLISHED, REMOVED) if Path(folder) == output_dir else ()
        others = [name for name in subfolders if not _PRODUCT_NAME.fullmatch(name)]
        subfolders[:] = sorted(name for name in others if name not in kept)
        for name in sorted((*subfolders, *files)):
            path = Path(folder, name)
            is_link = path.is_symlink() and not _PRODUCT_NAME.fullmatch(name)
            if is_link and _may_be_folder(path) and not _leads_up(path, output_dir):
                yield path


def link_above(folder: Path, output_dir: Path) -> Path | None:
    """The first linked folder on the way from the output folder to a product, if there is one."""
    if not folder.is_relative_to(output_dir):
        return None
    above = [path for path in folder.parents if path.is_relative_to(output_dir)][:-1]
    return next((path for path in reversed(above) if path.is_symlink()), None)


def why_unread(folder: Path, output_dir: Path) -> str:
    """Why a product that the registry knows is in no list of those that are on disk."""
    if (link := link_above(folder, output_dir)) is not None:
        return f"{folder} is not read: it lies behind the link {link}."
    if not os.path.lexists(folder):
        return f"{folder} is gone, and the registry knows it: contimg registry check"
    return (
        f"{folder} is not read: it has no {MANIFEST_NAME}, or is in no folder of products. Move "
        "away what is left of it, and make it again: contimg reprocess plan, then start."
    )


def _may_be_folder(link: Path) -> bool:
    try:
        return stat.S_ISDIR(link.stat().st_mode) and not os.path.lexists(link / MANIFEST_NAME)
    except OSError as error:
        return error.errno != errno.ELOOP


def _leads_up(link: Path, output_dir: Path) -> bool:
    return output_dir.resolve().is_relative_to(link.resolve())


def product_folders(
    output_dir: Path,
    *,
    like_products: bool = False,
    on_unread: Callable[[Path, str], None] | None = None,
) -> Iterator[Path]:
    """Every folder with a manifest below an output folder, in the order of their paths.

    A product may be a link to a folder; a link with the name of a product counts as one, so that
    it is missed while its target is away. Those of a folder come first. No other link is followed.
    With `like_products`, folders too that have the name of a product and no manifest. `PUBLISHED`,
    which holds copies of products, and `REMOVED`, which holds what is being removed, are left out.
    `on_unread` gets each folder that is not read, and why: it cannot be, or is a link with products
    behind it.
    """

    def on_error(error: OSError) -> None:
        folder = Path(error.filename)
        is_gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        if on_unread is not None and folder.name != "lost+found" and not is_gone:
            on_unread(folder, f"{folder} cannot be read ({error.strerror}).")

    for folder, subfolders, files in os.walk(output_dir, onerror=on_error):
        if Path(folder) == output_dir:
            subfolders[:] = [name for name in subfolders if name not in (PUBLISHED, REMOVED)]
            if on_unread is not None:
                for link, (problem, remedy) in unread_links(output_dir).items():
                    on_unread(link, f"{problem} {remedy}")
        for name in sorted((*subfolders, *files)):
            path = Path(folder, name)
            is_named = _PRODUCT_NAME.fullmatch(name) or os.path.lexists(path / MANIFEST_NAME)
            if path.is_symlink() and is_named and MANIFEST_NAME not in (*files, *subfolders):
                yield path
        subfolders.sort()
        is_alike = like_products and _PRODUCT_NAME.fullmatch(Path(folder).name) is not None
        if MANIFEST_NAME in (*files, *subfolders) or is_alike:
            subfolders.clear()  # what is inside belongs to the product
            yield Path(folder)


def unread_links(output_dir: Path) -> dict[Path, tuple[str, str]]:
    """The linked folders with products behind them or an absent target; problem and remedy."""
    links: dict[Path, tuple[str, str]] = {}
    for link in linked_folders(output_dir):
        is_there = link.exists()
        if is_there and not any(product_folders(link)):
            continue
        absent = "" if is_there else ", which is not there,"
        links[link] = (
            f"{link} is a link to {os.readlink(link)}{absent} and is not followed: products behind "
            "it are not read.",
            "Move the folder back to its place, or put a folder there that has a link for each "
            "product: those are followed.",
        )
    return links


def read_products(
    output_dir: Path, products: dict[Path, Manifest], broken: dict[Path, str]
) -> None:
    """Add what is on disk and not yet known; `broken` gets what cannot be read, and why."""

    for folder in product_folders(output_dir, on_unread=broken.__setitem__):
        if folder in products or folder in broken:
            continue
        try:
            manifest = load_committed(folder)
            verify(folder, manifest)
        except UserError as error:
            broken[folder] = str(error)
        except OSError as error:
            broken[folder] = f"{folder} cannot be read ({error})."
        else:
            products[folder] = manifest


def _in_place(manifest: Manifest, folder: Path, files: FileSystem) -> Manifest:
    """A manifest with its paths as they are now that its product lies in `folder`."""
    text, location = str(folder), f"/{manifest.location}"
    if not text.endswith(location):
        original = _original(manifest, folder, files)
        if original is not None:
            raise BrokenProductError(
                f"{folder} is a copy of the product {original}, which lies in its place.",
                "This copy can be removed once no difference is shown by: "
                f"contimg verify {shlex.quote(str(original))}",
            )
        raise BrokenProductError(
            f"{folder} holds the product {manifest.location}.", "Move it back to that place."
        )
    return manifest.moved_to(text.removesuffix(location) or "/")


def _original(manifest: Manifest, folder: Path, files: FileSystem) -> Path | None:
    """The same product in its place, below a folder around this one or where it was made."""
    for output_dir in (*folder.parents, Path(manifest.output_dir)):
        place = output_dir / manifest.location
        with suppress(OSError, BrokenProductError):
            is_same = read_manifest(place, files).key == manifest.key
            # A link to the product is none of its copies.
            if is_same and place.resolve() != folder.resolve():
                return place
    return None
