"""The JSON of stages' outputs: written and read without loss, also that of earlier versions."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from absurd_contimg.products import outputs
from absurd_contimg.products.outputs import (
    CalibrateApplyOutputs,
    CalibrateSolveOutputs,
    ConvertOutputs,
    FlagOutputs,
    UnsolvedCaltables,
    from_json,
    is_within,
    names,
    to_json,
)

STAGE_OUTPUTS = [kind for name, kind in vars(outputs).items() if name.endswith("Outputs")]
MS: dict[str, Any] = {
    "path": "/a.ms", "beam_centres": "/b.json", "n_rows": 1, "n_channels": 2,
    "channel_width_hz": 244e3, "n_antennas": 3, "start_mjd": 61065.8, "end_mjd": 61066.0,
    "mid_mjd": 61065.9, "ra_deg": 1.0, "dec_deg": 2.0, "declination_deg": 2.1,
    "flagged_fraction": 0.25,
}  # fmt: skip

st.register_type_strategy(Path, st.just(Path("/data/x")))
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))


@given(record=st.one_of(map(st.from_type, STAGE_OUTPUTS)))
def test_what_is_written_is_read_back(record: Any) -> None:
    """Every type, through JSON text."""
    text = json.dumps(to_json(record), allow_nan=False)
    assert from_json(type(record), json.loads(text)) == record


def test_each_output_has_one_stage() -> None:
    """The names in the context do not collide."""
    assert len(STAGE_OUTPUTS) == 9 == len(names(*STAGE_OUTPUTS))


def test_keys_of_earlier_versions_are_read() -> None:
    """`stand_ins` is now `placeholder_subbands`; keys that are not known are ignored."""
    earlier = {"measurement_set": {**MS, "stand_ins": [0, 5], "unknown": 1}, "image": {}}
    assert from_json(ConvertOutputs, earlier).measurement_set.placeholder_subbands == (0, 5)


def test_solved_and_unsolved_are_told_apart() -> None:
    unsolved = {"caltables": {"solved": False, "reason": "no calibrator"}}
    read = from_json(CalibrateSolveOutputs, unsolved)
    assert read == CalibrateSolveOutputs(UnsolvedCaltables("no calibrator"))
    assert to_json(read) == unsolved
    with pytest.raises(ValueError, match=r"caltables\..*\.refant"):
        from_json(CalibrateSolveOutputs, {"caltables": {"solved": True, "set_name": "x"}})


def test_calibrated_set_has_no_keys_of_flagging() -> None:
    """It is made from the flagged one, whose JSON says more."""
    flagged = from_json(FlagOutputs, {"flagged_ms": {**MS, "dead_antennas": ["DSA1"]}}).flagged_ms
    calibrated = CalibrateApplyOutputs(replace(flagged, n_channels=1))
    written = to_json(calibrated)["calibrated_ms"]
    uncalibrated = ("uncalibrated_antennas", "uncalibrated_subbands")
    names = ("placeholder_subbands", "empty_subbands", *uncalibrated)
    empty = {"uncalibrated_channels": 0, **{name: [] for name in names}}
    assert written == {**MS, "n_channels": 1, **empty}


def test_error_names_every_field_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"measurement_set\.n_rows.*measurement_set\.mid_mjd"):
        from_json(ConvertOutputs, {"measurement_set": {**MS, "n_rows": "x", "mid_mjd": None}})


RECORDS = [
    kind
    for kind in vars(outputs).values()
    if getattr(kind, "__module__", "") == outputs.__name__ and is_dataclass(kind)
]


def _example(kind: Any, path: str) -> Any:
    """JSON that fits an annotation, with this path wherever it wants one."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: _example(hints[field.name], path) for field in fields(kind)}
    if get_origin(kind) is Annotated or get_origin(kind) in (Union, UnionType):
        return _example(get_args(kind)[0], path)
    if get_origin(kind) is tuple:
        return [_example(get_args(kind)[0], path)]
    if get_origin(kind) is Literal:
        return get_args(kind)[0]
    return {Path: path, str: "x", int: 1, float: 1.0, bool: True}[kind]


def _path_fields(data: Any, path: str, name: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if data == path:
        return [name]
    parts: Any = enumerate(data) if isinstance(data, list) else ()
    parts = data.items() if isinstance(data, dict) else parts
    return [each for key, part in parts for each in _path_fields(part, path, (*name, key))]


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_every_path_of_outputs_is_confined(kind: type, tmp_path: Path) -> None:
    """A role that may write checkpoints names a key file of the worker: in any field, refused."""
    key, output = tmp_path / "key", tmp_path / "output"
    key.write_text("private")
    output.mkdir()
    (output / "link").symlink_to(key)
    (output / "folder").symlink_to(tmp_path)
    inside = str(output / "ms" / "a.ms")
    paths = _path_fields(_example(kind, inside), inside)
    assert from_json(kind, _example(kind, inside), [output])
    hostile_paths = (
        *(key, output / ".." / "key", output / "link", output / "folder" / "key"),
        *("key", "/proc/self/environ", f"{output}2/key", "a\0b"),
    )
    for field in paths:
        for hostile in hostile_paths:
            data = _example(kind, inside)
            target = data
            for part in field[:-1]:
                target = target[part]
            target[field[-1]] = str(hostile)
            with pytest.raises(ValueError, match=r"lies in none of"):
                from_json(kind, data, [output])


def test_product_that_was_moved_with_a_link_stays_in_its_folder(tmp_path: Path) -> None:
    """What lies outside of the product does not, whatever links there are."""
    output, disk = tmp_path / "output", tmp_path / "disk"
    product = disk / "images" / "a"
    product.mkdir(parents=True)
    output.mkdir()
    (product / "manifest.json").write_text("{}")
    (disk / "key").write_text("private")
    (product / "link").symlink_to(disk / "key")
    (output / "a").symlink_to(product)
    (output / "images").symlink_to(disk / "images")
    for name in ("a", "images/a"):
        assert is_within(output / name / "image.fits", [output])
        assert not is_within(output / name / "link", [output])
        assert not is_within(output / name / ".." / "key", [output])
    assert not is_within(output / "images" / "other", [output])
    assert not is_within(product / "image.fits", [output])
