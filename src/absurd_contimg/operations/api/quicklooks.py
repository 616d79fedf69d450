"""Quick-looks of products: pictures that are drawn when they are first asked for.

Nothing outside the output folder is read, whatever a registry or a manifest names. A product never
changes, so neither does its picture.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absurd_contimg.errors import CorruptInputError, MissingInputError, UserError
from absurd_contimg.operations.client import ProductEntry
from absurd_contimg.operations.report import write_quicklook
from absurd_contimg.products.outputs import is_within
from absurd_contimg.products.store import load_committed

_PATHS = ("image", "mosaic")
"""The outputs that have the path of a FITS image."""


def draw_quicklook(product: ProductEntry, output_dir: Path) -> bytes:
    """The PNG of a product with an image; blocks for a second or so.

    Raises `MissingInputError` if it has none, and what `write_quicklook` raises.
    """
    folder = output_dir / product.folder
    if not is_within(folder, [output_dir]):
        raise _outside(product)
    outputs = load_committed(folder).outputs
    path = _fits_path(outputs)
    if path is None:
        raise MissingInputError(f"Product {product.key} of stage {product.stage} has no image.")
    if not is_within(path, [output_dir]):
        raise _outside(product)
    with tempfile.TemporaryDirectory(prefix="contimg-quicklook-") as temporary:
        picture = Path(temporary) / "quicklook.png"
        try:
            write_quicklook(path, picture, title=product.group_id[:80].replace("$", r"\$"))
        except UserError:
            raise
        except (OSError, ValueError) as error:
            raise CorruptInputError(f"The image {path.name} cannot be drawn: {error}.") from error
        return picture.read_bytes()


def _fits_path(outputs: Mapping[str, Any]) -> Path | None:
    for name in _PATHS:
        output = outputs.get(name)
        path = output.get("path") if isinstance(output, Mapping) else None
        if isinstance(path, str):
            return Path(path)
    return None


def _outside(product: ProductEntry) -> MissingInputError:
    return MissingInputError(
        f"Product {product.key} names a file outside the output folder, which is not read.",
        "contimg registry check compares registry and disk.",
    )
