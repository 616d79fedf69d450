"""Checks the arguments of `Backend`'s methods, the same for every backend, before it acts.

A backend would refuse some by its driver's or its database's error, take some that the other one
refuses, and store some that block the queue. Here each is a `ValueRefused` that names the method
and the argument. What Absurd's procedures refuse themselves is theirs to refuse.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import partial, wraps
from inspect import Parameter, signature
from typing import Any, TypeVar, get_args
from uuid import UUID

from absurd_contimg.core.backend import CALLS, Backend
from absurd_contimg.core.errors import ValueRefused
from absurd_contimg.core.foreign_objects import ask
from absurd_contimg.core.records import SpawnOptions, State
from absurd_contimg.core.row_values import JSON_DEPTH_MAX, json_text, key_problem
from absurd_contimg.core.task_queries import TaskFilter

INTEGER_MAX = 2**31 - 1
"""Of Postgres' ``integer``, which counts seconds, attempts and rows in Absurd's procedures."""
QUEUE_NAME_BYTES_MAX = 57
"""As `absurd.validate_queue_name` says: its indexes' names must fit into 63 bytes."""
NAME_BYTES_MAX = 2600
"""Of names and keys: a row of an index holds 2,704 bytes at most, other columns included."""
_REFUSED_CHARACTERS = re.compile("[\0\ud800-\udfff]")
_STATES = frozenset(get_args(State))

_Check = Callable[[Any], str | None]
"""What is wrong with a value, None if nothing is."""


def text_problem(value: object) -> str | None:
    """What is wrong with a name or a key."""
    if not isinstance(value, str) or isinstance(value, Enum):
        return f"is of type {type(value).__name__}, not a text"
    if not value.isascii() or "\0" in value:
        if _REFUSED_CHARACTERS.search(value):
            return "holds NUL or characters that UTF-8 cannot encode"
        length = len(value.encode())
    else:
        length = len(value)
    return f"has {length} bytes, at most {NAME_BYTES_MAX}" if length > NAME_BYTES_MAX else None


def queue_problem(value: object) -> str | None:
    """What is wrong with a queue's name."""
    problem = text_problem(value)
    if problem or not isinstance(value, str):
        return problem
    if not value:
        return "is empty"
    length = len(value.encode())
    limit = QUEUE_NAME_BYTES_MAX
    return f"has {length} bytes, at most {limit}" if length > limit else None


def integer_problem(value: object) -> str | None:
    """What is wrong with a number of seconds, attempts or rows."""
    if type(value) is not int:
        return f"is of type {type(value).__name__}, not a whole number"
    if -INTEGER_MAX - 1 <= value <= INTEGER_MAX:
        return None
    shown = str(value) if value.bit_length() < 100 else f"a number of {value.bit_length()} bits"
    return f"is {shown}, between {-INTEGER_MAX - 1} and {INTEGER_MAX} are possible"


def _count_problem(value: object) -> str | None:
    problem = integer_problem(value)
    return problem or (f"is {value}, not negative" if value < 0 else None)  # type: ignore[operator]


def _id_problem(value: object) -> str | None:
    return None if isinstance(value, UUID) else f"is of type {type(value).__name__}, not a UUID"


def _ids_problem(value: object) -> str | None:
    if isinstance(value, str) or not isinstance(value, Collection):
        return f"is of type {type(value).__name__}, not a sequence of UUIDs"
    return next((f"holds what {problem}" for each in value if (problem := _id_problem(each))), None)


def _moment_problem(value: object) -> str | None:
    if not isinstance(value, datetime):
        return f"is of type {type(value).__name__}, not a datetime"
    if value.tzinfo is None:
        return f"is {value!r} without a time zone; give an aware datetime"
    try:
        value.astimezone(UTC)
    except (OverflowError, ValueError):
        return f"is {value!r}, which has no year between 1 and 9999 in UTC"
    return None


def _states_problem(value: object) -> str | None:
    if isinstance(value, str) or not isinstance(value, Collection):
        return f"is of type {type(value).__name__}, not a sequence of states"
    unknown = [each for each in value if not isinstance(each, str) or each not in _STATES]
    return f"holds {ascii(unknown[0])[:80]}, which is no state" if unknown else None


def _flag_problem(value: object) -> str | None:
    return None if isinstance(value, bool) else f"is of type {type(value).__name__}, not a bool"


def _mapping_problem(value: object) -> str | None:
    return None if isinstance(value, Mapping) else f"is of type {type(value).__name__}, no mapping"


def _retry_problem(value: object) -> str | None:
    problem = _mapping_problem(value)
    if problem or not isinstance(value, Mapping):
        return problem
    attempts = value.get("max_attempts")
    problem = None if attempts is None else integer_problem(attempts)
    return f".max_attempts{_joined(problem)}" if problem else None


def _retries_problem(value: object) -> str | None:
    problem = _mapping_problem(value)
    if problem or not isinstance(value, Mapping):
        return problem
    problem = _ids_problem(value)
    return problem or next(
        (text for each in value.values() if (text := _retry_problem(each))), None
    )


def _spawn_problem(value: object) -> str | None:
    if not isinstance(value, SpawnOptions):
        return f"is of type {type(value).__name__}, not SpawnOptions"
    checks: tuple[tuple[str, object, _Check], ...] = (
        ("max_attempts", value.max_attempts, integer_problem),
        ("idempotency_key", value.idempotency_key, text_problem),
        ("cancellation", value.cancellation, _cancellation_problem),
    )
    return _member_problem(checks)


def _cancellation_problem(value: object) -> str | None:
    """Rules that are no numbers would make every claim of the queue fail."""
    if not isinstance(value, Mapping):
        return None
    names = ("max_delay", "max_duration")
    return _member_problem([(name, value.get(name), _rule_problem) for name in names])


def _rule_problem(value: object) -> str | None:
    is_number = isinstance(value, str) and _DIGITS.fullmatch(value)
    return _count_problem(int(value) if is_number else value)  # type: ignore[call-overload]


_DIGITS = re.compile("[0-9]{1,10}")


def _filter_problem(value: object) -> str | None:
    if not isinstance(value, TaskFilter):
        return f"is of type {type(value).__name__}, not a TaskFilter"
    return _member_problem([(name, getattr(value, name), check) for name, check in _FILTER.items()])


def params_problem(value: object) -> str | None:
    """What is wrong with members to search for: short, so their JSON is looked at here."""
    problem = _mapping_problem(value)
    if problem is None:
        try:
            json_text(value, json.dumps)
        except (ValueRefused, TypeError) as error:
            return f"cannot be searched for: {error}"
        problem = json_problem(value)
    return problem


def _member_problem(checks: Sequence[tuple[str, object, _Check]]) -> str | None:
    for name, member, check in checks:
        problem = None if member is None else check(member)
        if problem:
            return f".{name}{_joined(problem)}"
    return None


def _joined(problem: str) -> str:
    """After the name of what has it: the problem of a member begins with the member's name."""
    return problem if problem[0] == "." else f" {problem}"


_FILTER: dict[str, _Check] = {
    "states": _states_problem,
    "task_name": text_problem,
    "id_suffix": text_problem,
    "params": params_problem,
    "task_ids": _ids_problem,
    "failure": text_problem,
    "enqueued_from": _moment_problem,
    "enqueued_before": _moment_problem,
}
_CHECKS: dict[str, _Check] = {
    **dict.fromkeys(("task_name", "worker_id", "step_name", "event_name"), text_problem),
    **dict.fromkeys(("id_suffix", "claimed_by", "storage_mode"), text_problem),
    **dict.fromkeys(("extend_by", "extend_claim_by", "timeout", "ttl_seconds"), integer_problem),
    **dict.fromkeys(("limit", "qty", "claim_timeout"), _count_problem),
    **dict.fromkeys(("task_id", "run_id", "owner_run", "before"), _id_problem),
    **dict.fromkeys(("wake_at", "retry_at", "since"), _moment_problem),
    "policy": _mapping_problem,
    "list_tasks params": params_problem,
    "queue_name": queue_problem,
    "task_ids": _ids_problem,
    "states": _states_problem,
    "include_pending": _flag_problem,
    "wanted": _filter_problem,
    "spawn_task options": _spawn_problem,
    "retry_task options": _retry_problem,
    "retry_tasks options": _retries_problem,
}
"""By argument, after the method's name where it means something else elsewhere."""
_JSON = ("params", "state", "reason", "payload")
"""Looked at by who turns them into text, which takes long; here only to name what was refused."""

_Backend = TypeVar("_Backend", bound=type[Backend])


def with_checked_arguments(backend: _Backend) -> _Backend:
    """The class, whose methods of the protocol check their arguments first."""
    for name in CALLS:
        setattr(backend, name, _checked(name, getattr(backend, name)))
    return backend


_USUAL_TEXT = (
    '{{0}}.__class__ is str and 0 < len({{0}}) <= {0} and {{0}}.isascii() and "\\0" not in {{0}}'
)
_USUAL: dict[_Check, str] = {
    text_problem: _USUAL_TEXT.format(NAME_BYTES_MAX),
    queue_problem: _USUAL_TEXT.format(QUEUE_NAME_BYTES_MAX),
    integer_problem: f"{{0}}.__class__ is int and {-INTEGER_MAX - 1} <= {{0}} <= {INTEGER_MAX}",
    _count_problem: f"{{0}}.__class__ is int and 0 <= {{0}} <= {INTEGER_MAX}",
    _id_problem: "{0}.__class__ is UUID",
}
"""What is true of the values in nearly all calls; the others are looked at by the check."""


def _checked(method_name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method after its checks; made from text, a quarter of the time of a loop."""
    parameters = list(signature(method).parameters.values())[1:]
    known: dict[str, Any] = {"UUID": UUID, "ValueRefused": ValueRefused, "method": method}
    heads, requirements, passed = ["self"], "", ["self"]
    for parameter in parameters:
        name, by_keyword = parameter.name, parameter.kind is Parameter.KEYWORD_ONLY
        known[f"default_{name}"] = parameter.default
        is_first = by_keyword and "*" not in heads
        default = "" if parameter.default is Parameter.empty else f" = default_{name}"
        heads += ["*"] * is_first + [f"{name}{default}"]
        passed.append(f"{name} = {name}" if by_keyword else name)
        check = _CHECKS.get(f"{method_name} {name}") or _CHECKS.get(name)
        if check is not None:
            known[f"require_{name}"] = _requirement(f"{method_name}: {name}", check)
            usual = _USUAL.get(check, "False").format(name)
            if parameter.default is None:
                usual = f"{name} is None or {usual}"
            requirements += f"    if not ({usual}): require_{name}({name})\n"
        elif name not in _JSON:
            raise TypeError(f"{method_name}: no check is known for argument {name!r}")
    given = ", ".join(f"{parameter.name!r}: {parameter.name}" for parameter in parameters)
    known["name_json"] = partial(_name_json, method_name)
    code = compile(
        f"async def checked({', '.join(heads)}):\n{requirements}"
        f"    try: return await method({', '.join(passed)})\n"
        f"    except ValueRefused as error: name_json(error, {{{given}}}); raise\n",
        __file__,  # a traceback shows it as a part of this package
        "exec",
    )
    exec(code, known)
    checked: Callable[..., Any] = wraps(method)(known["checked"])
    return checked


def _requirement(owner: str, check: _Check) -> Callable[[object], None]:
    def require(value: object) -> None:
        if problem := check(value):
            raise ValueRefused(f"{owner}{_joined(problem)}.")

    return require


def _name_json(method_name: str, error: ValueRefused, given: Mapping[str, object]) -> None:
    """Raise which argument was refused, if it is one whose JSON cannot be stored."""
    for name, value in given.items():
        if problem := json_problem(value):
            text = f"{method_name}: {name} cannot be stored: it {problem}."
            raise ValueRefused(text, error.sqlstate) from error


def json_problem(value: object) -> str | None:
    """What jsonb does not take in a value, the first that is found; None if there is nothing."""
    level: list[object] = [value]
    for _ in range(JSON_DEPTH_MAX + 1):
        for each in level:
            if isinstance(each, float) and not math.isfinite(each):
                return f"holds {each!r}, which JSON does not have"
            if isinstance(each, str) and _REFUSED_CHARACTERS.search(_PAIR.sub("", each)):
                return f"holds NUL or half a surrogate pair: {ascii(each)[:80]}"
            if isinstance(each, Mapping) and (problem := _problem_of_keys(each)):
                return problem
        level = [inner for each in level for inner in _members(each)]
        if not level:
            return None
    return f"has more than {JSON_DEPTH_MAX} levels"


def _problem_of_keys(members: Mapping[Any, object]) -> str | None:
    """`key_problem`; of keys that are no JSON at all, its encoder says so."""
    return ask(lambda: key_problem(members), lambda _: None)


def _members(value: object) -> list[object]:
    if isinstance(value, SpawnOptions):
        return [value.to_json()]
    if isinstance(value, TaskFilter):
        return [value.params]
    if isinstance(value, Mapping):
        return [*value, *value.values()]
    return list(value) if isinstance(value, list | tuple) else []


_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
"""One character in JSON, which escapes them."""
