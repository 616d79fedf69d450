"""What to say of values from outside that a model refuses: a sentence for each.

A sentence has the name, the value, what is possible, and where the value came from. Pydantic's own
text lacks most of that and may show whole objects.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

_SHOWN_MAX = 80
_SHOWN_BITS_MAX = 256
_KINDS: Mapping[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
_DOTTED_NAME = re.compile(r"[a-z_]+(?:\.[a-z_]+)+")


def refusal_sentences(
    error: ValidationError, model: type[BaseModel], origin_of: Callable[[str], str] | None = None
) -> str:
    """All that is wrong; `origin_of` a dotted name says where its value came from."""
    return "; ".join(
        _sentence(problem, model, origin_of or (lambda _: "")) for problem in error.errors()
    )


def _sentence(
    problem: Mapping[str, Any], model: type[BaseModel], origin_of: Callable[[str], str]
) -> str:
    location, kind = problem["loc"], problem["type"]
    name = ".".join(map(str, location)) or "''"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return _unknown_name(name, model)
    if kind == "missing":
        return f"{name} is missing"
    field = _field_at(model, location)
    is_check = kind == "value_error"
    if is_check and (field is None or _is_model(_kinds_in(field)[0])):  # of values together
        origins = {each: origin_of(each) for each in _DOTTED_NAME.findall(message)}
        places = "; ".join(f"{each}: {place}" for each, place in origins.items() if place)
        return f"{message} ({places})" if places else message
    expected = None if is_check or field is None else _expected(field)
    place = f" ({origin})" if (origin := origin_of(name)) else ""
    value = shown_value(problem["input"])
    if expected is None and not is_check:
        return f"{name} is {value}{place}: {message}"
    return f"{name} is {value}{place}: it must be {expected or message}"


def shown_value(value: object) -> str:
    """A value as a message shows it: short, and also where Python prints no such number."""
    if isinstance(value, int) and value.bit_length() > _SHOWN_BITS_MAX:
        return f"a number of {int(value.bit_length() * 0.30103) + 1} digits"
    try:
        text = repr(value)
    except ValueError:  # a list with such a number
        text = "a list with a number that is too long"
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


def _unknown_name(name: str, model: type[BaseModel]) -> str:
    names = _names(model)
    if near := get_close_matches(name, names, n=1):
        return f"{name} is unknown (did you mean {near[0]}?)"
    above = name.rpartition(".")[0]
    beside = [each for each in names if each.rpartition(".")[0] == above]
    return f"{name} is unknown (there are {', '.join(beside)})" if beside else f"{name} is unknown"


def _names(model: type[BaseModel], above: str = "") -> list[str]:
    """The dotted names of a model's fields, and of those of the models in it."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(above + name)
        if _is_model(kind := _kinds_in(field)[0]):
            names += _names(kind, f"{above}{name}.")
    return names


def _field_at(model: type[BaseModel], location: Sequence[int | str]) -> FieldInfo | None:
    """The field that a location leads to, or whose list or table it leads into."""
    field: FieldInfo | None = None
    kind: Any = model
    for part in location:
        if not _is_model(kind):
            break
        field = kind.model_fields.get(str(part))
        if field is None:
            return None
        kind = _kinds_in(field)[0]
    return field


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _kinds_in(field: FieldInfo) -> tuple[Any, ...]:
    """What a field takes beside None."""
    kind = field.annotation
    parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return tuple(part for part in parts if part is not type(None))


def _expected(field: FieldInfo) -> str | None:
    kinds = [_kind_text(kind) for kind in _kinds_in(field)]
    bounds = [
        f"{words} {getattr(bound, name):.15g}"
        for bound in field.metadata
        for name, words in _BOUNDS.items()
        if hasattr(bound, name)
    ]
    bounds += [
        f"at most {bound.max_length} of them"
        for bound in field.metadata
        if hasattr(bound, "max_length")
    ]
    text = " or ".join(kind for kind in kinds if kind is not None)
    if None in kinds:
        return None
    return f"{text}, {' and '.join(bounds)}" if bounds else text


def _kind_text(kind: Any) -> str | None:
    """None for what pydantic has to explain."""
    if _is_model(kind):
        return f"a section with {', '.join(kind.model_fields)}"
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _kind_text(parts[0])
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (list, tuple):
        inner = _kind_text(parts[0])
        count = f" of {len(parts)}" if origin is tuple and parts[-1] is not Ellipsis else ""
        return None if inner is None else f"a list{count}, each {inner}"
    if origin is dict:
        inner = _kind_text(parts[1])
        return None if inner is None else f"a table of values, each {inner}"
    return _KINDS.get(kind)
