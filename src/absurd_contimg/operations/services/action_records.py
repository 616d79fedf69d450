"""The record of what operators do: who, through what, to what, why, and how it ended."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from absurd_contimg.core.errors import BackendError
from absurd_contimg.core.jsonb_sanitizer import sanitized
from absurd_contimg.errors import AwayError, UserError
from absurd_contimg.file_owners import user_name
from absurd_contimg.operations.services.registry_tables import Tables
from absurd_contimg.registry.ingestion import IngestionTables
from absurd_contimg.registry.operator_actions import OperatorAction, store_action
from absurd_contimg.secrets import mask

_log = logging.getLogger(__name__)

Source = Literal["command line", "api", "dashboard"]
"""Through what somebody acts."""

_TEXT_CHARACTERS_MAX = 2000


def operator_name() -> str:
    """Who runs this process, for other operators."""
    return f"{user_name(os.geteuid())}@{socket.gethostname()}"


@dataclass(frozen=True, slots=True)
class ActionRecords:
    """Enters what one operator does."""

    tables: Tables
    """Of the registry."""
    by: str
    """User and host, or what the token is called."""
    source: Source
    is_required: bool = False
    """Raise where an action that is done cannot be entered, instead of a line in the log."""
    unrecorded: list[str] | None = None
    """Takes what is done and could not be entered, instead of the log."""

    @asynccontextmanager
    async def recorded(self, action: str, target: str, reason: str) -> AsyncIterator[None]:
        """Record what is done in this context, and how it ends."""
        try:
            yield
        except (UserError, BackendError) as error:
            await self.record(action, target, reason, str(error))
            raise
        except asyncio.CancelledError:
            unknown = "interrupted: it may have taken effect"
            await asyncio.shield(self.record(action, target, reason, unknown))
            raise
        await self.record(action, target, reason, "done")

    async def record(self, action: str, target: str, reason: str, outcome: str) -> None:
        """Enter an action; while the registry is away, the log alone has it."""
        await self.record_each(action, [target], reason, outcome)

    async def record_each(
        self, action: str, targets: Sequence[str], reason: str, outcome: str
    ) -> None:
        """Enter an action on each of these; the first that cannot be entered ends it."""
        if not targets:
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        targets = [_recordable(each) for each in targets]
        reason, outcome = _recordable(reason), _recordable(outcome)
        # Who types a command reads what it prints.
        level = logging.DEBUG if self.source == "command line" else logging.INFO
        for target in targets:
            _log.log(level, "%s by %s (%s): %s: %s", action, self.by, self.source, target, outcome)
        entries = [
            OperatorAction(at, self.by, self.source, action, target, reason, outcome)
            for target in targets
        ]
        try:
            await asyncio.to_thread(self._store, entries)
        except AwayError as error:
            more = f" and {len(targets) - 1} more" if targets[1:] else ""
            self._note_missing(action, f"{targets[0]}{more}", outcome, error)

    def _note_missing(self, action: str, target: str, outcome: str, error: AwayError) -> None:
        if str(error) in outcome:  # that is why it was not done, and is told by it
            return
        if self.is_required and outcome == "done":
            raise AwayError(
                error.failed_path,
                f"The action {action!r} of {target} (done) is not in the registry: {error.problem}",
                f"{error.remedy} Then repeat the command.".strip(),
            ) from error
        if self.unrecorded is not None and outcome == "done":
            self.unrecorded.append(unrecorded_action(action, target, error))
            return
        text = "%s of %s (%s) is not in the registry: %s"
        _log.error(text, action, target, outcome, error)

    def _store(self, entries: Sequence[OperatorAction]) -> None:
        database = self.tables.existing()
        if database is not None:
            for entry in entries:
                store_action(database, entry)


def unrecorded_action(action: str, target: str, error: AwayError) -> str:
    """What an operator has to know of an action that is done and could not be entered."""
    return (
        f"The action {action!r} of {target} is done, but is in no record: {error.problem} "
        f"{error.remedy} Do not repeat it; tell the other operators."
    )


async def reopen_group(records: ActionRecords, group_id: str, now: float, reason: str = "") -> int:
    """Collect the files of a closed group again; the new version of its files.

    `now` is the site's time in Unix seconds: the daemon counts from it how long they are unchanged.
    """
    async with records.recorded("reopen", group_id, reason):
        tables = IngestionTables(await asyncio.to_thread(records.tables.made))
        return await asyncio.to_thread(tables.reopen_group, group_id, now)


def _recordable(text: str) -> str:
    """The text as every registry can store it: without passwords, NUL and half characters."""
    return str(sanitized(mask(text)))[:_TEXT_CHARACTERS_MAX]
