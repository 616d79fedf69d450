"""Tables for a terminal of any width: nothing in them is ever cut.

A table whose columns do not fit is shown row by row: its keys on a line, then what is said of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text
from typing_extensions import override

_TEXT_WIDTH_MIN = 30
"""A column of sentences that is narrower reads badly."""
_INDENT = 4


class KeyedTable(Table):
    """A table whose keys can be copied whole; other cells are folded where they do not fit.

    `keys` are headings of columns; without any, the first column is the key. `empty` is what is
    said without rows.
    """

    def __init__(
        self, *headings: Column | str, keys: Sequence[str] = (), empty: str = "", **options: Any
    ) -> None:
        super().__init__(*headings, **{"box": None, **options})
        self._keys = keys
        self._empty = empty

    @override
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for column in self.columns:
            column.overflow = "fold"
        keys = [column for column in self.columns if column.header in self._keys]
        keys = keys or self.columns[:1]
        if not self.rows:
            if self.title:
                yield _text(console, self.title, "table.title")
            yield Text(self._empty or f"{_text(console, keys[0].header).plain}: none")
            if self.caption:
                yield _text(console, self.caption)
            return
        if not self._fits(keys, console, options):
            self.collapse_padding = True
        if not self._fits(keys, console, options):
            yield from self._rows_by_themselves(keys, console, options)
            return
        for key in keys:
            key.no_wrap = True
        yield from super().__rich_console__(console, options)

    def _fits(self, keys: list[Column], console: Console, options: ConsoleOptions) -> bool:
        needed = 0
        for column in self.columns:
            cells = [column.header, *column.cells] if self.show_header else [*column.cells]
            parts = [Measurement.get(console, options.update(max_width=10_000), c) for c in cells]
            width = max((part.maximum for part in parts), default=0)
            is_key = any(column is key for key in keys)
            needed += width if is_key else min(width, _TEXT_WIDTH_MIN)
        _, right, _, left = self.padding
        between = max(left, right) if self.collapse_padding else left + right
        needed += (len(self.columns) - 1) * between
        return needed + (left + right if self.pad_edge else 0) <= options.max_width

    def _rows_by_themselves(
        self, keys: list[Column], console: Console, options: ConsoleOptions
    ) -> RenderResult:
        if self.title:
            yield _text(console, self.title, "table.title")
        cells = [(column, [*column.cells]) for column in self.columns]
        for row in range(self.row_count):
            of_row = [(column, _text(console, parts[row])) for column, parts in cells]
            heads = [text for column, text in of_row if any(column is key for key in keys)]
            rest = [item for item in of_row if not any(item[0] is key for key in keys)]
            line = Text("  ").join([text for text in heads if text.plain])
            line.stylize("bold")
            line.overflow = "fold"
            yield line
            for values in _paragraphs(console, rest):
                values.overflow = "fold"
                yield Padding(values, (0, 0, 0, _INDENT))
        if self.caption:
            yield _text(console, self.caption)


def _paragraphs(console: Console, cells: list[tuple[Column, Text]]) -> Iterator[Text]:
    """``state failed, attempts 2``; a sentence stands by itself, without its heading."""
    values = []
    sentences = []
    for column, text in cells:
        if not text.plain.strip():
            continue
        heading = _text(console, column.header).plain.replace("\n", " ")
        if len(text.plain) > _TEXT_WIDTH_MIN:
            sentences.append(text)
        else:
            values.append(Text.assemble((f"{heading} ", "dim") if heading else "", text))
    if values:
        yield Text(", ").join(values)
    yield from sentences


def _text(console: Console, cell: RenderableType, style: str = "") -> Text:
    if isinstance(cell, Text):
        return cell.copy()
    return console.render_str(str(cell), style=style)
