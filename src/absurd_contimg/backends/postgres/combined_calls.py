"""Calls of one procedure that many runs make at the same time, as one statement.

While a call goes on, others wait for their turn and are then made together: one round trip, one
transaction and one flush of the server's log for all. A call that is alone is made at once. None
is delayed by the others for more than `_TURN_SECONDS` and `_LOCK_MILLISECONDS`: a silent connection
or a locked row of one run costs the others no lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from absurd_contimg.backends.postgres.connections import Connections
from absurd_contimg.core.errors import BackendUnavailable, ControlFlow
from absurd_contimg.core.evidence import reason_of

_log = logging.getLogger(__name__)

_TURN_SECONDS = 0.05
_LOCK_MILLISECONDS = 200
_JOIN_SECONDS = 0.001
_CALLS_MAX = 100
"""In one statement."""

_Arguments = tuple[Any, ...]
_Call = tuple[_Arguments, asyncio.Future[list[Any] | None]]
"""Its result is None if it has to be made alone."""


class CombinedCalls:
    """One procedure, whose calls return their rows; arguments of the given types of Postgres.

    A call raises what it would raise alone: when a statement of several calls is refused, nothing
    of it has happened, and they are made one by one.
    """

    def __init__(
        self, database: Connections, procedure: str, types: Sequence[str], columns: str = ""
    ) -> None:
        self._database = database
        self._changes = database.changes(procedure)
        names = ", ".join(f"a{number}" for number in range(len(types)))
        arrays = ", ".join(f"%s::{kind}[]" for kind in types)
        self._statement = (
            f"select number, {columns or 'null'} from"
            f" (select set_config('lock_timeout', '{_LOCK_MILLISECONDS}', true)) as bound,"
            f" unnest({arrays}) with ordinality as calls ({names}, number),"
            f" lateral absurd.{procedure}({names}) as result order by number"
        ).encode()
        values = ", ".join(f"%s::{kind}" for kind in types)
        self._single = f"select {columns or 'null'} from absurd.{procedure}({values})".encode()
        self._under_way = 0
        self._waiting: list[_Call] = []
        self._turn: asyncio.TimerHandle | None = None
        self._statements: set[asyncio.Task[None]] = set()

    async def __call__(self, *arguments: Any) -> list[Any]:
        """The rows that the procedure returns."""
        result: asyncio.Future[list[Any] | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((arguments, result))
        if self._turn is None:
            self._turn_in(_TURN_SECONDS if self._under_way else 0.0)
        answer = await result
        return await self._alone(arguments) if answer is None else answer

    def _turn_in(self, seconds: float) -> None:
        if self._turn is not None:
            self._turn.cancel()
        self._turn = asyncio.get_running_loop().call_later(seconds, self._next)

    async def _alone(self, arguments: _Arguments) -> list[Any]:
        self._under_way += 1
        try:
            async with self._database.connection(changes=self._changes) as connection:
                return await (await connection.execute(self._single, arguments)).fetchall()
        finally:
            self._ended()

    def _ended(self) -> None:
        self._under_way -= 1
        if self._waiting:  # the callers that have their answer now may join them
            self._turn_in(_JOIN_SECONDS)

    def _next(self) -> None:
        """Make the calls that wait."""
        self._turn = None
        waiting = [each for each in self._waiting if not each[1].done()]
        calls, self._waiting = waiting[:_CALLS_MAX], waiting[_CALLS_MAX:]
        if self._waiting:
            self._turn_in(0.0)
        if len(calls) == 1:
            calls[0][1].set_result(None)
        if len(calls) < 2:
            return
        self._under_way += 1
        statement = asyncio.create_task(self._together(calls))
        self._statements.add(statement)
        statement.add_done_callback(self._statements.discard)
        left = len(calls)

        def leave(_: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                statement.cancel()

        for _, result in calls:
            result.add_done_callback(leave)

    async def _together(self, calls: list[_Call]) -> None:
        answers: list[list[Any] | None] = [None for _ in calls]
        failure: BackendUnavailable | None = None
        try:
            columns = [list(column) for column in zip(*(call for call, _ in calls), strict=True)]
            async with self._database.connection(changes=self._changes) as connection:
                cursor = await connection.execute(self._statement, columns)
                rows = await cursor.fetchall()
            answers = [[] for _ in calls]
            for number, *values in rows:
                answers[number - 1].append(values)
        except BackendUnavailable as error:
            failure = error
        except (Exception, ControlFlow) as error:  # noqa: BLE001 - each call raises its own, alone
            _log.debug("%d calls are made one by one: %s", len(calls), reason_of(error))
        finally:
            self._ended()
        for (_, result), answer in zip(calls, answers, strict=True):
            if result.done():
                continue
            if failure is not None:
                result.set_exception(failure)
            else:
                result.set_result(answer)
