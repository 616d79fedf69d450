"""Templates: how values are written on the pages. Text from outside is escaped, secrets masked."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from absurd_contimg.core.records import INFINITY
from absurd_contimg.execution.disk_usage import size_text
from absurd_contimg.operations.console import jsonable, printable_lines

_JSON_CHARACTERS_MAX = 20_000
_TEXT_CHARACTERS_MAX = 20_000


@functools.cache
def make_environment() -> jinja2.Environment:
    """The environment of all pages."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("absurd_contimg.operations.dashboard", "templates"),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        duration=duration,
        moment=moment,
        clock=clock,
        size=size,
        token=token,
        path=path_part,
        cut=cut,
        number=number,
        percent=percent,
        pretty=pretty_json,
    )
    return environment


def _shown(value: object) -> object:
    """Text without control characters and passwords; markup of the page as it is."""
    if isinstance(value, PurePath):
        value = str(value)
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable_lines(value[:_TEXT_CHARACTERS_MAX]).encode("utf-8", "replace").decode()


def duration(seconds: float | None) -> str:
    """A duration with two units at most: ``3 min 20 s``, ``2 d 4 h``."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    sign, seconds = ("−" if seconds < 0 else ""), abs(seconds)
    if seconds < 10:
        return f"{sign}{seconds:.1f} s"
    whole = round(seconds)
    for unit, length, small, small_length in (
        ("d", 86_400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= length:
            rest = whole % length // small_length
            return f"{sign}{whole // length} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{sign}{whole} s"


def moment(time: datetime | None) -> str:
    """A time with its date."""
    if time is None:
        return "–"
    return "never" if time == INFINITY else f"{time:%Y-%m-%d %H:%M:%S} UTC"


def clock(time: datetime | None) -> str:
    """The time of the day alone."""
    if time is None:
        return "–"
    return "never" if time == INFINITY else f"{time:%H:%M:%S}"


def size(count: float | None) -> str:
    """Bytes with a decimal unit."""
    if count is None or not math.isfinite(count):
        return "–"
    return size_text(count)


def token(text: object) -> str:
    """A name as the class of a style sheet; another name is ``none``."""
    return str(text) if re.fullmatch(r"[a-z_-]{1,20}", str(text)) else "none"


def path_part(text: object) -> str:
    """A name as one part of an address."""
    return quote(str(text).encode("utf-8", "replace"), safe="")


def cut(text: object, length: int = 80) -> str:
    """The beginning of a long text."""
    line = str(text)
    return line if len(line) <= length else f"{line[: length - 1]}…"


def number(value: object, decimals: int = 3) -> str:
    """A number with significant digits; a dash where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:.{decimals}g}" if isinstance(value, float) else str(value)


def percent(share: float | None, decimals: int = 0) -> str:
    """A share in per cent."""
    if share is None or not math.isfinite(share):
        return "–"
    return f"{100 * share:.{decimals}f} %"


def pretty_json(value: Any) -> str:
    """A stored value for people, cut where it is long."""
    text = json.dumps(jsonable(value), indent=2, ensure_ascii=False)
    if len(text) > _JSON_CHARACTERS_MAX:
        text = (
            f"{text[:_JSON_CHARACTERS_MAX]}\n… {len(text) - _JSON_CHARACTERS_MAX} more characters"
        )
    return text


def render(environment: jinja2.Environment, template: str, values: Mapping[str, Any]) -> str:
    """A page as text."""
    return environment.get_template(template).render(values)
