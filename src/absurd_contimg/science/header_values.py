"""Values of an HDF5 header as they are read, in bounded memory, and shown in errors."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

_TEXTS_MAX = 10_000
_TEXT_BYTES_MAX = 1_000_000


def read_values(dataset: Any) -> Any:
    """All values of a small dataset; raises `ValueError` that says why it cannot be read.

    Values of variable length lie in a heap, and any number of them may name one place in it: a
    small file would fill the memory. They are read one by one, up to a bound.
    """
    if dataset.dtype.kind == "V":
        raise ValueError(f"holds compound values ({shown(str(dataset.dtype))})")
    if dataset.dtype.kind != "O":
        return dataset[()]
    if dataset.size > _TEXTS_MAX:
        raise ValueError(f"claims {dataset.size} values of variable length, too many for a header")
    values = np.empty(dataset.shape, object)
    size = 0
    for place in np.ndindex(dataset.shape):
        values[place] = dataset[place]
        size += sys.getsizeof(values[place])
        if size > _TEXT_BYTES_MAX:
            raise ValueError(f"claims more than {_TEXT_BYTES_MAX} bytes of values, too many")
    return values


def text_of(value: object) -> str:
    """A value as text, without the padding of fixed lengths."""
    if isinstance(value, bytes | np.bytes_):
        return value.decode("utf-8", "replace").strip("\0 ")
    return str(value).strip("\0 ")


def shown(value: object, length_max: int = 40) -> str:
    """The first of the values, for an error."""
    values = np.asarray(value).ravel()
    text = repr(text_of(values[0])) if len(values) else "nothing"
    return text if len(text) <= length_max else f"{text[:length_max]}..."
