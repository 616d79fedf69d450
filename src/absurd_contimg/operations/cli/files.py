"""Commands that look at files: what a raw file is, and whether products are as they were made."""

# NumPy takes time to import: imported where it is used.
# ruff: noqa: PLC0415

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from absurd_contimg.config import SiteConfig
from absurd_contimg.errors import MissingInputError, UserError
from absurd_contimg.operations.cli.app import AsJson, app, console, print_json, state

if TYPE_CHECKING:
    from absurd_contimg.science.raw_file import RawHeader


@app.command("inspect")
def inspect_files(
    files: Annotated[list[Path], typer.Argument(help="Raw sub-band files (UVH5).")],
    data: Annotated[
        bool, typer.Option("--data", help="Read the visibilities too: how many are missing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what raw files are, and why the pipeline would refuse them.

    Exit code 1 if it would refuse one.
    """
    site = state.settings().pipeline.site
    reports = [(path, *_inspect(path, site, data)) for path in files]
    if as_json:
        keys = ("file", "traits", "refused_for")
        print_json([dict(zip(keys, report, strict=True)) for report in reports])
    else:
        for path, traits, reasons in reports:
            console.out(path, style="bold")
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
            for name, value in traits.items():
                table.add_row(f"  {name}", value)
            console.print(table)
            for reason in reasons:
                console.out(f"  refused: {reason}")
            if not reasons:
                console.out("  accepted")
    if any(reasons for _, _, reasons in reports):
        raise typer.Exit(1)


def _inspect(path: Path, site: SiteConfig, data: bool) -> tuple[dict[str, str], list[str]]:
    """The traits of one file, and the reasons for which it is refused."""
    from absurd_contimg.science.raw_checks import deviations
    from absurd_contimg.science.raw_file import read_raw_header, read_visibilities

    try:
        header = read_raw_header(path)
        wrong = [f"{each.key} {each.problem}. {each.remedy}" for each in deviations(header, site)]
        if wrong:
            return {"sub-band": f"{header.index:02d}"}, wrong
        traits = _traits(header)
        if data:
            _values, flags, _samples = read_visibilities(header, (-5, -6))
            traits["missing or flagged"] = f"{flags.mean():.2%} of XX and YY"
    except (UserError, OSError) as error:
        return {}, [str(error)]
    return traits, []


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
        "time in the name": f"{header.name_late_s:+.0f} s from the beginning of the data",
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


@app.command("verify")
def verify_products(
    products: Annotated[
        list[Path] | None, typer.Argument(help="Product folders. Default: all of the output.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the bytes of committed products with the digests in their manifests.

    Reads every byte. Exit code 1 if one differs.
    """
    from absurd_contimg.products.store import load_committed, product_folders, verify

    output_dir = state.settings().pipeline.paths.output_dir
    if not products and not output_dir.is_dir():
        raise MissingInputError(f"There is no folder {output_dir}.", "Check --output-dir.")
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
            console.out(text)
        console.out(f"{len(folders)} products verified, {len(wrong)} differ.")
    if wrong:
        raise typer.Exit(1)
