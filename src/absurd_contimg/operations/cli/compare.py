"""``contimg compare``: two images of one group, before and after they were processed again."""

# SQLAlchemy and the stages take a second to import: they are imported where they are used.
# ruff: noqa: PLC0415

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from absurd_contimg.operations.cli.app import (
    AsJson,
    GroupName,
    app,
    print_json,
    require_registry,
    state,
)
from absurd_contimg.operations.console import cell, console, message_line
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.operations.services import ImageComparison, ImageVersion

_NAMES_SHOWN = 10


@app.command()
def compare(
    group: GroupName,
    with_key: Annotated[
        str | None,
        typer.Option("--with", help="An earlier image, by the beginning of its key."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the newest image of a group with the one before: settings, noise, beam, sources."""
    from absurd_contimg.operations.services import compare_images, open_registry

    settings = state.settings()
    require_registry(settings)
    with closing(open_registry(settings)) as registry:
        comparison = compare_images(registry, group, with_key)
    if as_json:
        print_json(comparison)
    else:
        _show(comparison)


def _show(comparison: ImageComparison) -> None:
    changes = KeyedTable(
        *("made from", "old", "new"), empty="Both are made from the same, with the same settings."
    )
    for change in comparison.changes:
        changes.add_row(cell(change.name), _value(change.old), _value(change.new))
    console.print(changes)
    figures = KeyedTable("figure", "old", "new")
    old, new = _figures(comparison.old), _figures(comparison.new)
    for name, text in old.items():
        figures.add_row(name, cell(text), cell(new[name]))
    console.print(figures)
    for name, version in (("old", comparison.old), ("new", comparison.new)):
        console.out(f"The {name} image: {version.folder}")
    for sentence in _sentences(comparison):
        console.print(message_line(sentence), soft_wrap=True)


def _value(value: object) -> str:
    return "" if value is None else cell(value)


def _figures(version: ImageVersion) -> dict[str, str]:
    beam = f"{version.bmaj_arcsec:.1f} x {version.bmin_arcsec:.1f}, {version.bpa_deg:.0f} deg"
    return {
        "product": version.key[:10],
        "made, UTC": version.created_at[:19],
        "verdict": version.verdict or "",
        "noise, mJy": f"{1e3 * version.noise_jy:.3g}",
        "dynamic range": f"{version.dynamic_range:.0f}",
        "beam, arcsec": beam,
        "flagged": _number(version.flagged_fraction, ".1%"),
        "sources detected": _number(version.n_matched, "d"),
        "flux to catalogue": _number(version.flux_ratio_median, ".3f"),
        "position error, arcsec": _number(version.position_error_median_arcsec, ".2f"),
    }


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _sentences(comparison: ImageComparison) -> list[str]:
    sentences = [f"Not known: {problem}" for problem in comparison.problems]
    sources = comparison.sources
    if sources is None:
        return [*sentences, "Sources: one of the images has no validation to compare."]
    text = f"Sources isolated and detected in both: {sources.n_common}"
    if sources.flux_ratio_median is not None:
        text += (
            f"; new flux over old {sources.flux_ratio_median:.3f} +- "
            f"{sources.flux_ratio_scatter:.3f}; moved {sources.position_median_arcsec:.2f} "
            f"arcsec in the median, {sources.position_max_arcsec:.2f} at most"
        )
    sentences.append(f"{text}.")
    for name, only in (("old", sources.only_old), ("new", sources.only_new)):
        if only:
            more = f" and {len(only) - _NAMES_SHOWN} more" if only[_NAMES_SHOWN:] else ""
            sentences.append(f"Only in the {name} one: {', '.join(only[:_NAMES_SHOWN])}{more}.")
    return sentences
