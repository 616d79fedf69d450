"""Commands that look at files: what a raw file is, and whether products are as they were made."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from absurd_contimg.config import SiteConfig
from absurd_contimg.core.records import Json
from absurd_contimg.errors import UserError
from absurd_contimg.operations.cli.app import app, console, print_json, state
from absurd_contimg.products.store import load_committed, product_folders, verify
from absurd_contimg.science.antenna_names import station_name
from absurd_contimg.science.raw_checks import LINEAR, deviations, integrations
from absurd_contimg.science.raw_file import RawHeader, read_raw_header, read_visibilities

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_JD_OF_1970 = 2440587.5


@app.command("inspect")
def inspect_files(
    files: Annotated[list[Path], typer.Argument(help="Raw sub-band files (UVH5).")],
    data: Annotated[
        bool, typer.Option("--data", help="Read the visibilities too and count what is missing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what raw files are, what is wrong with them, and what the pipeline would do.

    Exit code 1 if a file would be refused.
    """
    site = state.settings().pipeline.site
    reports = [_inspect(path, site, data) for path in files]
    if as_json:
        print_json(reports)
    else:
        for path, report in zip(files, reports, strict=True):
            _show(path, report)
    if any(report["refused_for"] for report in reports):
        raise typer.Exit(1)


def _inspect(path: Path, site: SiteConfig, data: bool) -> dict[str, Json]:
    """The traits of one file and the reasons for which it is refused."""
    report: dict[str, Json] = {"file": str(path), "traits": {}, "refused_for": []}
    try:
        header = read_raw_header(path)
    except (UserError, OSError) as error:
        return report | {"refused_for": [str(error)]}
    wrong = [f"{each.key} {each.problem}. {each.remedy}" for each in deviations(header, site)]
    traits = dict(_traits(header)) if not wrong else {"sub-band": f"{header.index:02d}"}
    if data and not wrong:
        _values, flags, _samples = read_visibilities(header, (-5, -6))
        traits["missing or flagged"] = f"{flags.mean():.2%} of XX and YY"
    return report | {"traits": traits, "refused_for": wrong}


def _traits(header: RawHeader) -> Iterator[tuple[str, Json]]:
    length = float(np.median(header.integration_s))
    number, middles = integrations(header.times_jd, length)
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=middles[0] - _JD_OF_1970)
    cross = header.first != header.second
    used = np.union1d(header.first, header.second)
    frequencies = header.frequencies_hz / 1e6
    names = [station_name(name) for name in header.antenna_names]
    yield "form", "the writer's" if header.phased_to_meridian else "the converter's"
    yield "sub-band", f"{header.index:02d}"
    yield "first integration", f"{start:%Y-%m-%d %H:%M:%S.%f} UTC"
    yield "integrations", f"{len(middles)} of {length:.6f} s"
    yield (
        "antennas",
        f"{len(used)} with data, of {len(names)}: {names[0]} to {names[-1]}",
    )
    yield "baselines", f"{int((cross & (number == 0)).sum())}, without autocorrelations"
    yield (
        "channels",
        f"{len(frequencies)} of {abs(header.channel_width_hz[0]) / 1e3:.3f} kHz, "
        f"{frequencies.min():.3f} to {frequencies.max():.3f} MHz, "
        f"{'ascending' if frequencies[-1] > frequencies[0] else 'descending'}",
    )
    yield "polarisations", ", ".join(LINEAR[code] for code in header.polarizations)
    yield "declination", f"{np.degrees(header.declination_rad):.4f} deg, apparent"
    yield (
        "place",
        f"{header.latitude_deg:.4f}, {header.longitude_deg:.4f} deg, {header.altitude_m:g} m",
    )
    yield "sidereal times", "absent" if header.lst_rad is None else "in the header"


def _show(path: Path, report: dict[str, Json]) -> None:
    console.print(str(path), markup=False, highlight=False, style="bold", soft_wrap=True)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    traits = report["traits"]
    assert isinstance(traits, dict)
    for name, value in traits.items():
        table.add_row(f"  {name}", str(value))
    console.print(table)
    refused = report["refused_for"]
    assert isinstance(refused, list)
    for reason in refused:
        console.print(f"  refused: {reason}", markup=False, highlight=False, soft_wrap=True)
    if not refused:
        console.print("  accepted")


@app.command("verify")
def verify_products(
    products: Annotated[
        list[Path] | None, typer.Argument(help="Product folders; all of them by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the bytes of committed products with the digests in their manifests.

    Reads every byte. Exit code 1 if one differs.
    """
    output_dir = state.settings().pipeline.paths.output_dir
    folders = products or list(product_folders(output_dir))
    wrong: dict[str, str] = {}
    for folder in folders:
        try:
            verify(folder, load_committed(folder.absolute()), deep=True)
        except UserError as error:
            wrong[str(folder)] = str(error)
    if as_json:
        print_json({"verified": len(folders), "differ": wrong})
    else:
        for text in wrong.values():
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        console.print(f"{len(folders)} products verified, {len(wrong)} differ.")
    if wrong:
        raise typer.Exit(1)
