"""The overview of a site as one screen of any size: keys are folded, never cut.

In two columns where the terminal is wide. What does not fit is counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import chop_cells
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from absurd_contimg.history.durations import duration_text
from absurd_contimg.operations.console import cut
from absurd_contimg.operations.monitor.figures import Section, key_metrics, sections, text
from absurd_contimg.operations.overview import SiteOverview

_WIDE_COLUMNS = 120
_KEY_SHARE = 0.4
"""Of the width, for keys at most."""
_OLD_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Screen:
    """One screen; rendered again at each refresh, with the size that the terminal has then."""

    overview: SiteOverview
    seconds_ago: float = 0.0
    """How old it is."""
    notes: Mapping[str, float] = field(default_factory=dict)
    """Parts that could not be read again, and how many seconds old they are."""
    height: int | None = None
    """None: as many lines as it needs."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        shown = [section for section in sections(self.overview) if section.lines]
        limits = [len(section.lines) for section in shown]
        head = self._head(width)
        body = self._body(shown, limits, width, is_short=False)
        if self.height is None or _lines(console, options, head, body) <= self.height:
            yield from (head, body)
            return
        head_height = _lines(console, options, head, Text())
        limits = self._fitting(console, shown, width, self.height - head_height)
        yield from (head, self._body(shown, limits, width, is_short=True))

    def _fitting(
        self, console: Console, shown: Sequence[Section], width: int, height: int
    ) -> list[int]:
        """How many rows of each section fit, at least one: the longest give up rows first."""
        is_wide = width >= _WIDE_COLUMNS
        key_heights = []
        for section in shown:
            key_width = _key_width(section, _half(width) if is_wide else width)
            rows = section.lines[:height]
            key_heights.append(
                [len(key.wrap(console, key_width, overflow="fold")) for key, _ in rows]
            )
        limits = [len(heights) for heights in key_heights]
        for column in (True, False) if is_wide else (None,):
            places = [
                place
                for place, section in enumerate(shown)
                if column is None or section.is_main is column
            ]
            while any(limits[place] > 1 for place in places):
                if sum(1 + sum(key_heights[place][: limits[place]]) for place in places) <= height:
                    break
                limits[max(places, key=limits.__getitem__)] -= 1
        return limits

    def _head(self, width: int) -> RenderableType:
        age = f"{self.overview.at:%H:%M:%S} UTC, {duration_text(self.seconds_ago)} ago"
        style = "bold red" if self.seconds_ago > _OLD_SECONDS else "dim"
        lines = [Text.assemble(text(self.overview.source, "bold"), "  ", (age, style))]
        lines += [
            Text(f"{part} cannot be read: shown as it was {duration_text(seconds)} ago", "bold red")
            for part, seconds in self.notes.items()
        ]
        return Group(*lines, *_flowed(key_metrics(self.overview), width))

    def _body(
        self, shown: Sequence[Section], limits: Sequence[int], width: int, *, is_short: bool
    ) -> RenderableType:
        """The sections, each cut to its limit; with `is_short`, each value has one line."""
        pairs = list(zip(shown, limits, strict=True))
        if width < _WIDE_COLUMNS:
            return Group(*(_section(section, limit, width, is_short) for section, limit in pairs))
        half = _half(width)
        sides = [
            Group(
                *(
                    _section(section, limit, half, is_short)
                    for section, limit in pairs
                    if section.is_main is is_main
                )
            )
            for is_main in (True, False)
        ]
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(width=half)
        table.add_column(width=half)
        table.add_row(*sides)
        return table


def _lines(
    console: Console, options: ConsoleOptions, head: RenderableType, body: RenderableType
) -> int:
    free = options.update(height=None)
    return len(console.render_lines(Group(head, body), free, pad=False))


def _flowed(items: Sequence[tuple[str, Text]], width: int) -> list[Text]:
    """Names with their values, as many on a line as fit."""
    lines: list[Text] = []
    for name, value in items:
        item = Text.assemble((name, "bold cyan"), " ", value)
        if lines and lines[-1].cell_len + 2 + item.cell_len <= width:
            lines[-1] = Text.assemble(lines[-1], "  ", item)
        else:
            lines.append(item)
    return lines


def _section(section: Section, limit: int, width: int, is_short: bool) -> RenderableType:
    left_out = len(section.lines) - limit
    more = f" ({left_out} more)" if left_out else ""
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(overflow="fold", width=_key_width(section, width))
    table.add_column(overflow="ellipsis" if is_short else "fold", no_wrap=is_short, ratio=1)
    table.expand = True
    room = width - _key_width(section, width) - 1
    for key, value in section.lines[:limit]:
        table.add_row(key, _beginning(value, room) if is_short else value)
    return Group(Text(f"{section.title}{more}", "bold underline"), table)


def _beginning(value: Text, width: int) -> Text:
    """As much as fits on a line, to the end of a word."""
    if value.cell_len <= width:
        return value
    shown = len(chop_cells(value.plain, max(width, 1))[0])
    return Text.assemble(value[: max(len(cut(value.plain, shown, mark="…")) - 1, 0)], "…")


def _half(width: int) -> int:
    return (width - 2) // 2


def _key_width(section: Section, width: int) -> int:
    longest = max(key.cell_len for key, _ in section.lines)
    return max(min(longest, int(width * _KEY_SHARE)), 1)
