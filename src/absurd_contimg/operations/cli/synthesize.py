"""``contimg synth``: options from the command line into a `SynthesisConfig`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from absurd_contimg.errors import SettingError
from absurd_contimg.synthesis import SynthesisConfig, SynthesisResult, synthesize

_PRESETS = {
    "tiny": SynthesisConfig.tiny,
    "demo": SynthesisConfig.demo,
    "full": SynthesisConfig.full,
}


def make_observations(
    folder: Path, preset: str, options: Sequence[str], faults: Sequence[str]
) -> SynthesisResult:
    """Write observations into a folder; raises `SettingError` that names a wrong option."""
    if preset not in _PRESETS:
        raise SettingError(f"There is no preset {preset!r}.", f"Choose from {', '.join(_PRESETS)}.")
    changes: dict[str, object] = dict(_split(option) for option in options)
    if faults:
        changes["faults"] = [_fault(text) for text in faults]
    try:
        config = _PRESETS[preset](**changes)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        raise SettingError(
            f"The options of the observations are not valid: {wrong}.",
            f"Options are {', '.join(SynthesisConfig.model_fields)}.",
        ) from error
    return synthesize(folder, config)


def _split(option: str) -> tuple[str, str]:
    name, separator, value = option.partition("=")
    if not separator:
        raise SettingError(f"{option!r} is not an option.", "Write it as name=value.")
    return name.strip(), value.strip()


def _fault(text: str) -> dict[str, object]:
    parts = text.split(":")
    if len(parts) != 3:
        raise SettingError(f"{text!r} is not a fault.", "Write kind:group:subband, as missing:0:3.")
    return {"kind": parts[0], "group": parts[1], "subband": parts[2]}
