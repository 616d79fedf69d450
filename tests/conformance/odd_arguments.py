# ruff: noqa: DTZ001, DTZ901, E501 - times without a zone are odd, and values are many
"""Odd values for every argument of every method of `Backend`, and what a backend does with each."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum
from inspect import signature
from typing import Any
from uuid import UUID

from absurd_contimg.core.backend import CALLS, READS, Backend
from absurd_contimg.core.errors import QueueNotFound
from absurd_contimg.core.records import SpawnOptions
from absurd_contimg.core.task_queries import TaskFilter

QUEUE = "odd"
REFUSED = "refused:"
"""What the outcome of a call begins with that raised something."""
NOBODY = UUID(int=0)


class _Text(str):
    __slots__ = ()


class _Number(IntEnum):
    TWO = 2


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _random_text(length: int) -> str:
    """Text that does not compress."""
    number = int.from_bytes(b"odd arguments")
    letters = []
    while len(letters) < length:
        number = (number * 6364136223846793005 + 1442695040888963407) % 2**64
        letters.append(chr(33 + (number >> 40) % 90))
    return "".join(letters)


_CIRCULAR: list[Any] = []
_CIRCULAR.append(_CIRCULAR)
TEXTS: tuple[Any, ...] = (
    *("", " ", "\t", "a\nb", "a\0b", "\ud800", "\x1b[31m", "\u202e", "x" * 57, "x" * 58, "é" * 29),
    *("q\"x'%s{}", "Q", " odd", "x" * 100_000, _random_text(2590), _random_text(2650)),
    *(_random_text(9000), _Text("odd"), None, 5, True, 1.5, b"odd", ["odd"], object),
)
NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63, 2**64, 10**5000, 1.0, 1.5),
    *(
        float("nan"),
        -float("inf"),
        True,
        "5",
        "x",
        None,
        Decimal(5),
        _Number.TWO,
        [5],
        timedelta(1),
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, -0.0, 1.5, 10**299, 10**310, -(10**5000), 1e308, float("nan"), float("inf")),
    *("a\0b", "\ud800", "\udc00\ud800", "\ud83d\ude00", {"a\0": 1}, {"\ud800": 1}, {"": ""}),
    *({"a": ["\0"]}, {"a": -float("inf")}, {1: 2}, {None: 1, True: 2, 1.5: 3}, {"\ud83d\ude00": 1}),
    *({(1, 2): 3}, (1, 2), {1, 2}, b"x", object(), object, UUID(int=1), datetime.now(UTC)),
    *(Decimal("1.5"), _Text("x"), _Number.TWO, range(3), _nested(200), _nested(201), _nested(5000)),
    *({"a": _nested(200)}, _CIRCULAR, _random_text(9000), [[]] * 300),
)
MAPPINGS: tuple[Any, ...] = (
    {}, {"x": 1}, {"max_attempts": 5}, {"spawn_new": True}, {"spawn_new": "x"}, {1: 2}, [], None, 5,
    "x", [("a", 1)], {"a\0": 1}, {"\ud800": 1},
    *({"max_attempts": number} for number in NUMBERS),
    *({"cleanup_limit": number} for number in NUMBERS),
    *({"cleanup_ttl": text} for text in ("1 day", "-1 day", "soon", "\0", "", 5, None, "1e9 days")),
    *({"detach_mode": text} for text in ("none", "empty", "x", None, 5, "\0")),
)  # fmt: skip
IDS: tuple[Any, ...] = (
    NOBODY, str(NOBODY), "{" + str(NOBODY) + "}", NOBODY.hex, "x", "", None, 5, NOBODY.bytes, [],
    "\0", "\ud800", UUID(int=2**128 - 1),
)  # fmt: skip
MOMENTS: tuple[Any, ...] = (
    datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 1), datetime.min, datetime.max,
    datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), date(2030, 1, 1), None,
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
    "2030-01-01", "infinity", "x", 0, 1.9e9, timedelta(1),
)  # fmt: skip
STATES: tuple[Any, ...] = (
    None, [], (), ["running"], ("x",), "running", [None], ["a\0"], ["\ud800"], [5], {"running"},
    frozenset(), 5, iter(["running"]), ["running"] * 3,
)  # fmt: skip
OPTIONS: tuple[Any, ...] = (
    None, {}, 5, "x",
    *(SpawnOptions(max_attempts=number) for number in NUMBERS),
    *(SpawnOptions(idempotency_key=text) for text in TEXTS),
    *(SpawnOptions(headers=value) for value in VALUES),
    *(SpawnOptions(retry_strategy={"kind": "fixed", "base_seconds": number}) for number in NUMBERS),
    *(SpawnOptions(cancellation={"max_delay": number}) for number in NUMBERS),
    *(SpawnOptions(retry_strategy=value) for value in VALUES[:12]),
    *(SpawnOptions(cancellation=value) for value in VALUES[:12]),
)  # fmt: skip
FILTERS: tuple[Any, ...] = (
    *(TaskFilter(), None, {}, 5),
    *(TaskFilter(states=value) for value in STATES),
    *(TaskFilter(task_name=value) for value in TEXTS),
    *(TaskFilter(params={"x": value}) for value in VALUES),
    *(TaskFilter(params=value) for value in MAPPINGS[:13]),
    *(TaskFilter(task_ids=[value]) for value in IDS),
    *(TaskFilter(failure=value) for value in TEXTS[:8]),
    *(TaskFilter(enqueued_from=value) for value in MOMENTS),
)
MODES: tuple[Any, ...] = ("unpartitioned", " Partitioned ", "x", "", None, 5, "\0", "\ud800")

_VALUES_OF: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("queue_name", "task_name", "id_suffix", "worker_id", "claimed_by"), TEXTS),
    **dict.fromkeys(("step_name", "event_name"), TEXTS),
    **dict.fromkeys(("limit", "claim_timeout", "qty", "extend_by", "extend_claim_by"), NUMBERS),
    **dict.fromkeys(("timeout", "ttl_seconds"), NUMBERS),
    **dict.fromkeys(("state", "reason", "payload"), VALUES),
    **dict.fromkeys(("task_id", "run_id", "owner_run", "before"), IDS),
    **dict.fromkeys(("wake_at", "retry_at", "since"), MOMENTS),
    "task_ids": (*([value] for value in IDS), None, 5, "x", (), {NOBODY}),
    "states": STATES,
    "storage_mode": MODES,
    "include_pending": (True, False, 1, 0, None, "x", "true", [], 2.5),
    "policy": MAPPINGS,
    "wanted": FILTERS,
}


def values_of(method: str, argument: str) -> tuple[Any, ...]:
    """The odd values for an argument of a method."""
    match method, argument:
        case "spawn_task", "params":
            return VALUES
        case _, "params":
            return ({"x": float("nan")}, {"x": object()}, *MAPPINGS[:13])
        case "spawn_task", "options":
            return OPTIONS
        case "retry_tasks", "options":
            ids = [value for value in IDS if not isinstance(value, list)]
            return (*({value: {}} for value in ids), *({NOBODY: value} for value in MAPPINGS[:20]))
        case _, "options":
            return MAPPINGS[:36]
    return _VALUES_OF[argument]


@dataclass(frozen=True, slots=True)
class OddCall:
    """A call of which one argument is odd."""

    method: str
    argument: str
    value: Any

    def __str__(self) -> str:
        return f"{self.method}({self.argument}={shown(self.value)})"


def shown(value: object) -> str:
    """The value in a short line."""
    if isinstance(value, int) and abs(value) > 10**30:
        return f"<{value.bit_length()} bits>"
    try:
        text = ascii(value)
    except (ValueError, RecursionError) as error:
        text = f"<{type(value).__name__}: {type(error).__name__}>"
    return text if len(text) < 100 else f"{text[:60]}... ({len(text)})"


def odd_calls() -> Iterator[OddCall]:
    """Every odd value at every argument of every method."""
    for method in sorted(CALLS):
        for argument in list(signature(getattr(Backend, method)).parameters)[1:]:
            for value in values_of(method, argument):
                yield OddCall(method, argument, value)


_VARIABLE = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|datetime\([^)]*\)|\d+\.\d\d\d+")
"""Ids, times and long fractions in an answer."""


class Subject:
    """A backend with a queue in which a run is claimed, for one call after the other."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.usual: dict[str, Any] = {}

    async def prepare(self, method: str) -> None:
        """A task that no earlier call has touched: running, or failed where that is retried."""
        spawned = await self.backend.spawn_task(QUEUE, "task", {"x": 1})
        await self.backend.claim_task(QUEUE, "worker", 600, 10_000)
        if method.startswith("retry"):
            await self.backend.fail_run_permanently(QUEUE, spawned.run_id, {})
        self.usual = {
            "queue_name": QUEUE,
            "task_name": "task",
            "worker_id": "worker",
            "step_name": "step",
            "event_name": "event",
            "task_id": spawned.task_id,
            "run_id": spawned.run_id,
            "owner_run": spawned.run_id,
            "task_ids": [spawned.task_id],
            "options": {spawned.task_id: {}} if method == "retry_tasks" else {},
            "policy": {},
            "params": {"x": 1},
            "reason": {},
            "wanted": TaskFilter(),
            "ttl_seconds": 60,
            "extend_by": 60,
            "wake_at": datetime(2030, 1, 1, tzinfo=UTC),
            "since": datetime(2020, 1, 1, tzinfo=UTC),
            "state": {},
        }

    async def outcomes(self) -> AsyncIterator[tuple[OddCall, str]]:
        """Each call with what came of it, the same on two backends that do the same."""
        method = ""
        for call in odd_calls():
            if call.method != method:
                method = call.method
                await self.backend.drop_queue(QUEUE)
                await self.backend.create_queue(QUEUE)
                await self.prepare(method)
            outcome = await self.outcome(call)
            yield call, outcome
            if method not in READS and not outcome.startswith(REFUSED):
                if method == "drop_queue":
                    await self.backend.create_queue(QUEUE)
                await self.prepare(method)

    async def outcome(self, call: OddCall) -> str:
        """The kind and the text of what is raised, or the shape of the answer."""
        method = getattr(self.backend, call.method)
        arguments: dict[str, Any] = {}
        for name, parameter in list(signature(method).parameters.items()):
            if name == call.argument:
                arguments[name] = call.value
            elif parameter.default is parameter.empty:
                arguments[name] = self.usual[name]
        if call.method == "spawn_task" and call.argument != "options":
            arguments["options"] = None
        try:
            answer = await method(**arguments)
        except BaseException as error:  # noqa: BLE001 - compared with the other backend's
            state = getattr(error, "sqlstate", None)
            text = "" if isinstance(error, QueueNotFound) else _VARIABLE.sub("_", str(error))[:300]
            return f"{REFUSED} {type(error).__name__} {state}: {text}"
        if isinstance(answer, dict):
            answer = sorted(answer.items())
        if call.method == "suspect_tasks":
            answer = None  # those of the protocol's own body are more
        return _VARIABLE.sub("_", repr(answer))[:500]
