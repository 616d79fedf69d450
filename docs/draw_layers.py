"""Draws `docs/images/layers.svg` from the import contract and from the imports themselves.

``python docs/draw_layers.py`` writes the picture. A test compares the file with what this draws,
so the picture cannot go out of date.
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from textwrap import wrap
from xml.sax.saxutils import escape

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "layers.svg"
PACKAGE = "absurd_contimg"

_WIDTH, _LAYER_HEIGHT, _GAP, _MARGIN = 960, 88, 10, 12
_FILL, _LINE, _TEXT, _SOFT = "#eef3f8", "#5b7a99", "#1c2733", "#4a5a6a"


def layers() -> list[list[str]]:
    """The packages of each layer of the contract in ``pyproject.toml``, the highest layer first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (contract,) = (each for each in contracts if each["containers"] == [PACKAGE])
    return [[package.strip() for package in layer.split("|")] for layer in contract["layers"]]


def purpose(package: str) -> str:
    """The first paragraph of the docstring of a package or of a module at the top."""
    folder = ROOT / "src" / PACKAGE / package
    source = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(source.read_text())) or ""
    return " ".join(docstring.split("\n\n")[0].split())


def imports(packages: list[str]) -> dict[str, list[str]]:
    """The packages that each package imports, in the order of the layers."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    uses: dict[str, set[str]] = {package: set() for package in packages}
    for importer in graph.modules:
        for imported in graph.find_modules_directly_imported_by(importer):
            pair = [name.split(".")[1] for name in (importer, imported) if "." in name]
            if len(pair) == 2 and pair[0] != pair[1]:
                uses[pair[0]].add(pair[1])
    return {each: [other for other in packages if other in uses[each]] for each in packages}


def draw() -> str:
    """The picture as SVG."""
    rows = layers()
    uses = imports([package for row in rows for package in row])
    height = len(rows) * (_LAYER_HEIGHT + _GAP) - _GAP + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
    ]
    for level, row in enumerate(rows):
        width = (_WIDTH - 2 * _MARGIN - _GAP * (len(row) - 1)) / len(row)
        y = _MARGIN + level * (_LAYER_HEIGHT + _GAP)
        for place, package in enumerate(row):
            parts += _box(package, uses[package], _MARGIN + place * (width + _GAP), y, width)
    return "\n".join([*parts, "</svg>", ""])


def _box(package: str, uses: list[str], x: float, y: float, width: float) -> list[str]:
    lines = wrap(purpose(package), int(width / 6.4))[:3]
    below = f"imports {', '.join(uses)}" if uses else "imports nothing of ours"
    small = wrap(below, int(width / 5.6))[:2]
    text = [(package, 17, "bold", _TEXT, 14)]
    text += [(line, 33 + 14 * number, "normal", _TEXT, 12) for number, line in enumerate(lines)]
    first = _LAYER_HEIGHT - 8 - 12 * (len(small) - 1)
    text += [(line, first + 12 * n, "normal", _SOFT, 10.5) for n, line in enumerate(small)]
    return [
        f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{_LAYER_HEIGHT}" rx="4" '
        f'fill="{_FILL}" stroke="{_LINE}"/>',
        *(
            f'<text x="{x + 8:.0f}" y="{y + offset}" font-weight="{weight}" fill="{colour}" '
            f'font-size="{size}">{escape(line)}</text>'
            for line, offset, weight, colour, size in text
        ),
    ]


if __name__ == "__main__":
    PICTURE.write_text(draw())
