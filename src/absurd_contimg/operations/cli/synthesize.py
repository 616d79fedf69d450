"""``contimg synth``: options from the command line into a `SynthesisConfig`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Group

from absurd_contimg.config.meanings import field_meanings
from absurd_contimg.config.refused_values import refusal_sentences
from absurd_contimg.errors import SettingError
from absurd_contimg.operations.cli.app import AsJson, app, print_json
from absurd_contimg.operations.console import console
from absurd_contimg.terminal_tables import KeyedTable

_PRESETS = ("tiny", "demo", "full")


def _list_options(wanted: bool) -> None:
    if not wanted:
        return
    from absurd_contimg.synthesis import FAULT_MEANINGS, SynthesisConfig  # noqa: PLC0415 - casa extra

    options = KeyedTable("option", "default", "meaning")
    for name, meaning in field_meanings(SynthesisConfig).items():
        options.add_row(name, str(SynthesisConfig.model_fields[name].default), meaning)
    faults = KeyedTable("fault", "meaning")
    for kind, meaning in FAULT_MEANINGS.items():
        faults.add_row(f"{kind}:GROUP:SUBBAND", meaning)
    presets = KeyedTable("preset", "sets, beside the defaults")
    for name in _PRESETS:
        values = getattr(SynthesisConfig, name)()
        given = [f"{field}={value}" for field, value in values if field in values.model_fields_set]
        presets.add_row(name, ", ".join(given) or "nothing: the defaults")
    console.print(Group(options, "", faults, "", presets))
    raise typer.Exit


@app.command()
def synth(
    folder: Annotated[Path, typer.Argument(help="Where to write the observations.")],
    preset: Annotated[str, typer.Option(help=f"Size: {', '.join(_PRESETS)}.")] = "demo",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="As n_antennas=48; repeatable. --list names them."),
    ] = None,
    fault: Annotated[
        list[str] | None, typer.Option(help="As missing:0:3 (kind, group, sub-band); repeatable.")
    ] = None,
    _list: Annotated[
        bool,
        typer.Option(
            "--list",
            callback=_list_options,
            is_eager=True,
            help="List options and faults.",
        ),
    ] = False,
    speed: Annotated[
        float | None,
        typer.Option(
            help="Write as the correlator does, this many times faster: files grow, then are "
            "renamed. Default: at once.",
            min=0.1,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write synthetic UVH5 observations of a known sky."""
    from absurd_contimg.synthesis import SynthesisConfig, synthesize  # noqa: PLC0415 - casa extra
    from absurd_contimg.synthesis.replay import Pace, synthesize_at_pace  # noqa: PLC0415 - casa extra

    if preset not in _PRESETS:
        raise SettingError(f"There is no preset {preset!r}.", f"Choose from {', '.join(_PRESETS)}.")
    changes: dict[str, object] = dict(_split(text) for text in option or [])
    if fault:
        changes["faults"] = [_fault(text) for text in fault]
    try:
        config = getattr(SynthesisConfig, preset)(**changes)
    except ValidationError as error:
        raise SettingError(
            f"{refusal_sentences(error, SynthesisConfig)}.",
            f"Options are {', '.join(SynthesisConfig.model_fields)}.",
        ) from error
    if speed is None:
        result = synthesize(folder, config)
    else:
        result = synthesize_at_pace(folder, config, Pace(speed))
    if as_json:
        print_json(result)
        return
    table = KeyedTable("group", "files", "calibrator")
    for group in result.groups:
        table.add_row(group.group_id, str(len(group.files)), "yes" if group.calibrator else "")
    console.print(table)
    console.out(f"Catalogue {result.catalog}")
    console.out(f"Truth     {result.truth}")


def _split(option: str) -> tuple[str, str]:
    name, separator, value = option.partition("=")
    if not separator:
        raise SettingError(f"{option!r} is not an option.", "Write it as name=value.")
    return name.strip(), value.strip()


def _fault(text: str) -> dict[str, str]:
    parts = text.split(":")
    if len(parts) != 3:
        raise SettingError(f"{text!r} is not a fault.", "Write kind:group:subband, as missing:0:3.")
    return dict(zip(("kind", "group", "subband"), parts, strict=True))
