"""How a run differs from the baseline run, in words: which task, which checkpoint, where in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absurd_contimg.core.step_order_check import STEPS_CHANGED

SHOWN_MAX = 3
"""Differences inside one value that are named."""
_LENGTH_MAX = 100
_NESTED = (
    ". Steps that are asked for inside the function of another step do this too: ask for them in "
    "the handler, before or after it"
)


def task_differences(tasks: Sequence[Any], baseline: Sequence[Any]) -> Iterator[str]:
    """One sentence for each difference.

    A task is name, key, state, result, checkpoints, parameters.
    """
    unmatched = list(baseline)
    new = []
    for task in tasks:
        same = next((each for each in unmatched if each == task), None)
        unmatched.remove(same) if same is not None else new.append(task)
    for task in new:
        alike = next((each for each in unmatched if each[:2] == task[:2]), None)
        if alike is None:
            yield f"{_name(task)} is new: {short(task[2:])}"
        else:
            unmatched.remove(alike)
            yield from _differences_of_one(task, alike)
    for task in unmatched:
        yield f"{_name(task)} is missing"


def _differences_of_one(task: Sequence[Any], baseline: Sequence[Any]) -> Iterator[str]:
    name = _name(task)
    _, _, state, result, saved, params = task
    _, _, baseline_state, baseline_result, baseline_saved, baseline_params = baseline
    if state != baseline_state:
        yield f"{name} is {state}, in the baseline run {baseline_state}"
    if result != baseline_result:
        yield f"{name}: its result differs {_where(result, baseline_result)}"
    if params != baseline_params:
        yield f"{name}: its parameters differ {_where(params, baseline_params)}"
    for step in baseline_saved.keys() - saved.keys():
        yield f"{name}: checkpoint {step!r} is missing: {short(baseline_saved[step])}"
    for step in saved.keys() - baseline_saved.keys():
        if step == STEPS_CHANGED:
            yield f"{name}: its steps change between attempts: {saved[step]['difference']}{_NESTED}"
            continue
        yield f"{name}: checkpoint {step!r} is new: {short(saved[step])}"
    for step in saved.keys() & baseline_saved.keys():
        if saved[step] != baseline_saved[step]:
            where = _where(saved[step], baseline_saved[step])
            yield f"{name}: checkpoint {step!r} differs {where}"


def _name(task: Sequence[Any]) -> str:
    name, key = task[:2]
    return f"task {name!r}" + ("" if key is None else f" ({key})")


def value_differences(what: str, values: Sequence[Any], baseline: Sequence[Any]) -> Iterator[str]:
    """One sentence for each of the other things: products by their path, records as a whole."""
    new = [each for each in values if each not in baseline]
    missing = [each for each in baseline if each not in values]
    for value in new:
        alike = next((each for each in missing if _key(each) == _key(value)), None)
        if alike is None:
            yield f"{what} {short(value)} is new"
        else:
            missing.remove(alike)
            yield f"{what} {_key(value)} differs {_where(value, alike)}"
    for value in missing:
        yield f"{what} {short(value)} is missing"
    if not new and not missing:
        yield f"{what}s are there a different number of times"


def _key(value: Any) -> object:
    return value[0] if isinstance(value, list | tuple) and value else value


def _where(value: Any, baseline: Any) -> str:
    """``at receipt.cents: 96, in the baseline run 95``."""
    parts = list(_paths(value, baseline))
    texts = [
        (f"at {path}: " if path else "") + f"{short(item)}, in the baseline run {short(expected)}"
        for path, item, expected in parts[:SHOWN_MAX]
    ]
    more = f"; and {len(parts) - SHOWN_MAX} more" if len(parts) > SHOWN_MAX else ""
    return "; ".join(texts) + more


_ABSENT = object()


def _paths(value: Any, baseline: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if value == baseline:
        return
    if isinstance(value, Mapping) and isinstance(baseline, Mapping):
        for key in sorted({*value, *baseline}, key=str):
            below = f"{path}.{key}" if path else str(key)
            yield from _paths(value.get(key, _ABSENT), baseline.get(key, _ABSENT), below)
    elif _is_sequence(value) and _is_sequence(baseline) and len(value) == len(baseline):
        for number, (item, expected) in enumerate(zip(value, baseline, strict=True)):
            yield from _paths(item, expected, f"{path}[{number}]")
    else:
        yield path, value, baseline


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple)


def short(value: Any) -> str:
    """A value as JSON, its middle left out where it is long."""
    if value is _ABSENT:
        return "nothing"
    text = value if isinstance(value, str) and " " in value else json.dumps(value, sort_keys=True)
    if len(text) <= _LENGTH_MAX:
        return text
    half = _LENGTH_MAX // 2
    return f"{text[:half]} ... {text[-half:]} ({len(text)} characters)"
