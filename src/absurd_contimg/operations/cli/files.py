"""Commands that look at files: what a raw file is, and whether products are as they were made."""

# NumPy takes time to import: imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypedDict

import typer
from rich.text import Text

from absurd_contimg.config import PipelineConfig, SiteConfig
from absurd_contimg.errors import AwayError, MissingInputError, UnfinishedInputError, UserError
from absurd_contimg.operations.cli.app import AsJson, app, print_json, state
from absurd_contimg.operations.console import console, counted, printable
from absurd_contimg.products.subband_files import NAMES_HELP, is_subband_name
from absurd_contimg.settings import Settings
from absurd_contimg.terminal_tables import KeyedTable

if TYPE_CHECKING:
    from absurd_contimg.science.raw_file import RawHeader


class _Report(TypedDict):
    file: str
    state: str
    """``accepted``, ``refused`` or ``arriving``."""
    traits: dict[str, str]
    refused_for: list[str]


@app.command("inspect")
def inspect_files(
    files: Annotated[
        list[Path], typer.Argument(help="Raw sub-band files (UVH5), or folders of them.")
    ],
    data: Annotated[
        bool, typer.Option("--data", help="Read the visibilities too: how many are missing.")
    ] = False,
    group: Annotated[
        bool, typer.Option("--group", help="Check too that the files are one observation.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what raw files are, and why the pipeline would refuse them.

    Exit code 1 if it would refuse one, or wait for it.
    """
    settings = state.settings().pipeline
    paths = [path for file in files for path in _subband_files(file)]
    reports = [_inspect(path, settings.site, data) for path in paths]
    if group and not any(report["refused_for"] for report in reports):
        reason = _reason_of_group(paths, settings)
        reports += [_report("the files together", {}, [reason])] if reason else []
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            _print_report(report)
    if any(report["refused_for"] for report in reports):
        raise typer.Exit(1)


def _subband_files(path: Path) -> list[Path]:
    """The sub-band files of a folder, or the path itself."""
    if not path.is_dir() or is_subband_name(path.name):
        return [path]
    files = sorted(each for each in path.iterdir() if is_subband_name(each.name))
    if not files:
        raise MissingInputError(f"There is no sub-band file in {path}.", f"{NAMES_HELP}.")
    return files


def _print_report(report: _Report) -> None:
    console.out(report["file"], style="bold")
    table = KeyedTable(show_header=False, pad_edge=False, padding=(0, 2))
    rows = [*report["traits"].items(), *((report["state"], each) for each in report["refused_for"])]
    for name, value in rows if report["refused_for"] else [*rows, ("accepted", "")]:
        table.add_row(f"  {name}", Text(printable(value), overflow="fold"))
    console.print(table)


def _report(
    file: str, traits: dict[str, str], reasons: list[str], arriving: bool = False
) -> _Report:
    verdict = "arriving" if arriving else "refused" if reasons else "accepted"
    return {"file": file, "state": verdict, "traits": traits, "refused_for": reasons}


def _inspect(path: Path, site: SiteConfig, data: bool) -> _Report:
    """The traits of one file, and the reasons for which it is refused."""
    from absurd_contimg.science.raw_checks import deviations
    from absurd_contimg.science.raw_file import read_raw_header

    try:
        header = read_raw_header(path)
        wrong = [f"{each.key} {each.problem}. {each.remedy}" for each in deviations(header, site)]
        if wrong:
            return _report(str(path), {"sub-band": f"{header.index:02d}"}, wrong)
        traits = _traits(header)
        if not header.is_written:
            traits["visibilities"] = "none was ever written: the sub-band counts as missing"
        elif data:
            traits |= _data_traits(header)
    except (UserError, OSError) as error:
        return _report(str(path), {}, [str(error)], isinstance(error, UnfinishedInputError))
    return _report(str(path), traits, [])


def _data_traits(header: RawHeader) -> dict[str, str]:
    """How much of the visibilities is missing, and how much was not measured."""
    from absurd_contimg.science.raw_file import read_visibilities
    from absurd_contimg.science.repeated_values import flag_repeated_values

    values, flags, samples = read_visibilities(header, (-5, -6))
    traits = {"missing or flagged": f"{flags.mean():.2%} of XX and YY"}
    if share := flag_repeated_values(header, values, flags, samples):
        traits["not measured"] = (
            f"{share:.2%} between antennas repeat one number at all times or on all baselines: "
            "they count as flagged"
        )
    if flags[header.first != header.second].all():
        traits["data"] = "none: the sub-band counts as missing"
    return traits


def _reason_of_group(paths: list[Path], settings: PipelineConfig) -> str:
    """Why files that are accepted one by one are refused as a group; empty if they are not."""
    from absurd_contimg.science.raw_group import read_raw_group

    try:
        read_raw_group(paths, settings.conversion, settings.site)
    except UserError as error:
        return str(error)
    return ""


def _traits(header: RawHeader) -> dict[str, str]:
    import numpy as np

    from absurd_contimg.science.antenna_names import station_name
    from absurd_contimg.science.raw_checks import LINEAR
    from absurd_contimg.science.raw_file import JD_OF_1970

    number, middles = header.integrations()
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=middles[0] - JD_OF_1970)
    baselines = np.count_nonzero((header.first != header.second) & (number == 0))
    antennas = np.union1d(header.first, header.second)
    frequencies = header.frequencies_hz / 1e6
    names = [station_name(name) for name in header.antenna_names]
    return {
        "form": "the writer's" if header.phased_to_meridian else "the converter's",
        "sub-band": f"{header.index:02d}",
        "first integration": f"{start:%Y-%m-%d %H:%M:%S.%f} UTC",
        "time in the name": f"{round(header.name_late_s):+d} s from the beginning of the data",
        "integrations": f"{len(middles)} of {header.length_s:.6f} s",
        "antennas": f"{len(antennas)} with data, of {len(names)}: {names[0]} to {names[-1]}",
        "baselines": f"{baselines}, without autocorrelations",
        "channels": f"{len(frequencies)} of {abs(header.channel_width_hz[0]) / 1e3:.3f} kHz, "
        f"{frequencies.min():.3f} to {frequencies.max():.3f} MHz, "
        f"{'ascending' if frequencies[-1] > frequencies[0] else 'descending'}",
        "polarisations": ", ".join(LINEAR[code] for code in header.polarizations),
        "declination": f"{np.degrees(header.declination_rad):.4f} deg, apparent",
        "place": f"{header.latitude_deg:.4f}, {header.longitude_deg:.4f} deg, "
        f"{header.altitude_m:g} m",
        "sidereal times": "absent" if header.lst_rad is None else "in the header",
    }


@dataclass(slots=True)
class _Progress:
    """How far a verification is."""

    below: Path | None
    """Where products are looked for."""
    product: Path | None = None
    """The one whose bytes are read."""
    n_products: int = 0
    n_verified: int = 0

    def text(self) -> str:
        if self.below is not None:
            return f"Looking for products below {self.below}: {self.n_products} so far."
        return f"{self.n_verified} of {self.n_products} products verified, now: {self.product}"


_REGISTRY = "registry"
"""Among what is wrong: the registry, which is no product."""


@app.command("verify")
def verify_products(
    products: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Products, or folders of them. Default: the output folder and the copies."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the bytes of committed products and published copies with their manifests' digests.

    Reads every byte, and says every 10 s how far it is. Of one that differs it names what was made
    from it. Exit code 1 if one differs, cannot be read
    or has lost its manifest; without names also if one that the registry knows is gone or was not
    read.
    """
    from absurd_contimg.operations.terminal import lines_of_progress

    settings = state.settings()
    output_dir = settings.pipeline.paths.output_dir
    wrong: dict[str, str] = {}
    n_products = n_copies = 0
    if not products and not output_dir.is_dir():
        raise MissingInputError(f"There is no folder {output_dir}.", "Check --output-dir.")
    known = {} if products else _known(settings, wrong)
    read: set[Path] = set()
    progress = _Progress((products or [output_dir])[0])
    with lines_of_progress(progress.text):
        for path in products or [output_dir]:
            folders = _products_at(path, wrong, progress)
            if products and not folders and not wrong:
                wrong[str(path)] = f"{path} is no product, holds none, or is not there."
            n_products += len(folders)
            read.update(folders)
            for folder in folders:
                _verify(folder, wrong, progress)
        if not products:
            n_copies = _verify_copies(settings.pipeline.paths.published, wrong, progress)
        still_known = _known(settings, wrong)
        for folder in sorted(known.keys() & still_known.keys()):
            if folder.parent.resolve() / folder.name not in read:
                wrong.setdefault(str(folder), known[folder])
        problem = wrong.pop(_REGISTRY, None)
        made = _made_from(settings, wrong)
    if as_json:
        trouble = {} if problem is None else {"registry": problem}
        counts = {"verified": n_products + n_copies, "differ": wrong, "made_from": made}
        print_json({**counts, **trouble})
    else:
        for text in (*wrong.values(), *filter(None, [problem]), *_dependent_texts(made)):
            console.out(text)
        verified = counted(n_products, "product")
        if n_copies:
            verified += f" and {counted(n_copies, 'published product')}"
        console.out(f"{verified} verified, {len(wrong)} differ or are gone.")
    if wrong or problem:
        raise typer.Exit(1)


def _made_from(settings: Settings, wrong: Iterable[str]) -> dict[str, dict[str, str]]:
    """By each product that differs, the products and copies made from it, and when each was made.

    They are named whether their own bytes are right or not.
    """
    from absurd_contimg.products.dependents import made_from
    from absurd_contimg.products.store import product_folders

    paths = settings.pipeline.paths
    products = [Path(each) for each in wrong if not Path(each).is_relative_to(paths.published)]
    if not products:
        return {}
    folders = chain(product_folders(paths.output_dir), product_folders(paths.published))
    return {
        str(product): {str(folder): manifest.created_at for folder, manifest in made.items()}
        for product, made in made_from(products, folders).items()
    }


def _dependent_texts(made: Mapping[str, Mapping[str, str]]) -> list[str]:
    return [
        f"{folder} was made from {changed} at {made_at}: if that had been changed before, move "
        "this away too and have it made again."
        for changed, dependents in made.items()
        for folder, made_at in dependents.items()
    ]


def _known(settings: Settings, wrong: dict[str, str]) -> dict[Path, str]:
    """The products that the registry knows, and the copies that are gone, with what is wrong.

    What is wrong of a product counts if it is not read.
    """
    from absurd_contimg.operations.services import has_registry, is_gone, open_registry
    from absurd_contimg.products.store import why_unread

    try:
        if not has_registry(settings):
            return {}
        with closing(open_registry(settings)) as registry:
            output_dir = settings.pipeline.paths.output_dir
            products = {each: why_unread(each, output_dir) for each in registry.needed_folders()}
            copies = [each.destination for each in registry.publications.all() if is_gone(each)]
    except AwayError as error:  # what was read is told nevertheless
        wrong[_REGISTRY] = f"Whether a product is gone is not known: {error}"
        return {}
    gone = {
        each: f"{each} is gone, and the registry knows it: contimg registry check"
        for each in copies
    }
    return products | gone


def _products_at(path: Path, wrong: dict[str, str], progress: _Progress) -> list[Path]:
    """The products below a path, or the one that it lies in. The path may be a link.

    Folders that are not read go into `wrong`, by their path.
    """
    from absurd_contimg.products.manifest import MANIFEST_NAME
    from absurd_contimg.products.store import product_folders

    def on_unread(folder: Path, text: str) -> None:
        wrong[str(folder)] = text

    # A product that is a link keeps its name: its manifest has it.
    if path.is_symlink() and os.path.lexists(path / MANIFEST_NAME):
        return [path.parent.resolve() / path.name]
    path = path.resolve()
    below, progress.below = list[Path](), path
    for folder in product_folders(path, like_products=True, on_unread=on_unread):
        below.append(folder)
        progress.n_products += 1
    progress.below = None
    around = [folder for folder in path.parents if (folder / MANIFEST_NAME).is_file()]
    return below or around[:1]


def _verify_copies(publish_dir: Path, wrong: dict[str, str], progress: _Progress) -> int:
    """Verify the published copies, except those that are being made; how many there are."""
    from absurd_contimg.products.publication import is_staged

    copies = [
        folder for folder in _products_at(publish_dir, wrong, progress) if not is_staged(folder)
    ]
    for folder in copies:
        _verify(folder, wrong, progress, "Move this copy away, then: contimg publish retry")
    return len(copies)


def _verify(
    folder: Path, wrong: dict[str, str], progress: _Progress, remedy: str | None = None
) -> None:
    from absurd_contimg.products.store import load_committed, verify

    progress.product = folder
    try:
        manifest = load_committed(folder)
        verify(folder, manifest, deep=True)
    except UserError as error:
        advice = "" if remedy is None else f"{error.problem} {remedy} {folder.name}"
        wrong[str(folder)] = advice or str(error)
    except OSError as error:
        wrong[str(folder)] = f"{folder} cannot be read ({error})."
    progress.n_verified += 1
