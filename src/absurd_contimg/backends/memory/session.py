"""Sessions: settings, transactions, savepoints, and waiting for others.

A session is what a connection to Postgres is on the server's side. Its statements run one at a
time under the database's mutex. A statement that needs a lock of another session's transaction is
undone, waits without the mutex, and is run again; so others see none of its work before it is
done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from datetime import UTC, tzinfo
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, TypeVarTuple

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.locks import WouldBlock
from absurd_contimg.backends.memory.settings import (
    DEFAULTS,
    DEFERRABLE,
    OF_TRANSACTION,
    READ_ONLY,
    Mode,
    checked,
    duration_seconds,
)
from absurd_contimg.backends.memory.transaction import Transaction
from absurd_contimg.backends.memory.values.timestamps import timestamptz_in
from absurd_contimg.backends.memory.values.zones import session_zone

if TYPE_CHECKING:
    from absurd_contimg.backends.memory.database import MemoryDatabase

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

FAKE_NOW = "absurd.fake_now"


class TransactionStatus(Enum):
    """What libpq calls the transaction status."""

    IDLE = "idle"
    OPEN = "open"
    FAILED = "failed"


class _Savepoint(NamedTuple):
    name: str
    position: int
    settings: dict[str, str]
    local: dict[str, str]


class Session:
    """One client of the database."""

    def __init__(self, db: MemoryDatabase, session_id: int) -> None:
        self.db = db
        self.session_id = session_id
        self.transaction: Transaction | None = None
        self.failed = False
        self.closed = False
        self.settings: dict[str, str] = {}
        self.local: dict[str, str] = {}
        self.known: set[str] = set()
        self._at_begin: dict[str, str] = {}
        self._savepoints: list[_Savepoint] = []
        self._statement = Transaction(db, self, explicit=False)
        """The transaction of each statement that is one of its own."""
        self.clock = 0
        """The database's clock at the statement's begin: a statement takes no time."""
        self._fake: tuple[str, tzinfo, int] | None = None
        self.queried = False
        """Whether the transaction has run a query, after which some modes are fixed."""
        self._chained: tuple[Mode, ...] = ()
        self._reads: list[tuple[Hashable, Any]] = []
        """What the statement read before it had to wait, in order."""
        self._waited = False
        """Whether the statement begins anew because it had to wait."""
        self._reads_used = 0

    # -- settings ---------------------------------------------------------------------------

    def setting(self, name: str) -> str | None:
        """``current_setting(name, true)``."""
        key = name.lower()
        value = self.local.get(key)
        if value is None:
            value = self.settings.get(key)
        if value is None and key in OF_TRANSACTION:
            value = self.setting(f"default_{key}")
        if value is None:
            value = DEFAULTS.get(key)
        if value is None and key in self.known:
            return ""
        return value

    def set(self, name: str, value: str | None, *, local: bool = False) -> None:
        """``set`` or ``set local``; None is ``default``. Undone with the transaction.

        A local value outside of one lasts to the end of the statement. What a transaction is
        like does not change with the defaults.
        """
        key = name.lower()
        value = checked(name, value)
        self.known.add(key)
        if key in OF_TRANSACTION:
            self._check_mode(key, value)
        elif self.transaction is not None and key.startswith("default_transaction_"):
            self._keep(key.removeprefix("default_"))
        if local or key in OF_TRANSACTION:
            self.local = {**self.local, key: DEFAULTS.get(key, "") if value is None else value}
            return
        settings = {**self.settings}
        settings.pop(key, None)
        if value is not None:
            settings[key] = value
        self.settings = settings
        if key in self.local:
            self.local = {name: text for name, text in self.local.items() if name != key}

    def _keep(self, mode: str) -> None:
        """Note what the transaction is, since its default is about to change."""
        kept = {mode: self.setting(mode) or ""}
        self.local = kept | self.local
        self._savepoints = [one._replace(local=kept | one.local) for one in self._savepoints]

    def reset_all(self) -> None:
        """``reset all``, which leaves a transaction what it is."""
        within = self.transaction is not None
        modes = {key: self.setting(key) or "" for key in OF_TRANSACTION} if within else {}
        self.settings, self.local = {}, modes

    def _check_mode(self, key: str, value: str | None) -> None:
        """25001 for a mode that a transaction no longer takes."""
        if self.transaction is None:
            return
        if key == DEFERRABLE:
            what = "SET TRANSACTION [NOT] DEFERRABLE"
            inside, late = "cannot be called within a subtransaction", "must be called"
        elif key == READ_ONLY and value == "off" and self.setting(READ_ONLY) == "on":
            what = "transaction read-write mode"
            inside, late = "inside a read-only transaction", "must be set"
        else:
            return
        if self._savepoints:
            before = "cannot set " if key == READ_ONLY else ""
            raise EngineError("25001", f"{before}{what} {inside}")
        if self.queried:
            raise EngineError("25001", f"{what} {late} before any query")

    @property
    def zone(self) -> tzinfo:
        """The session's time zone."""
        if not self.settings and not self.local:
            return UTC
        name = self.setting("timezone") or "UTC"
        return session_zone(name) or UTC

    @property
    def lock_timeout_seconds(self) -> float | None:
        """How long a statement waits for a lock; None without end."""
        return duration_seconds(self.setting("lock_timeout") or "0") or None

    # -- time -------------------------------------------------------------------------------

    def current_time(self) -> int:
        """``absurd.current_time()`` in a statement: the session's fake time, or the clock."""
        if not self.known:
            return self.clock
        fake = self.setting(FAKE_NOW)
        if fake is None or not fake.strip(" "):
            return self.clock
        zone = self.zone
        if self._fake is not None and self._fake[0] == fake and self._fake[1] is zone:
            return self._fake[2]
        time = timestamptz_in(fake, zone, self.clock)
        if fake[:1].isdigit():
            self._fake = (fake, zone, time)
        return time

    def transaction_time(self) -> int:
        """``now()``: when the transaction began."""
        return self.clock if self.transaction is None else self.transaction.started_at

    def next_uuid(self) -> int:
        """``absurd.portable_uuidv7()``, which on Postgres 18 is the server's own."""
        return self.db.uuids.next(self.clock)

    # -- transactions -----------------------------------------------------------------------

    @property
    def status(self) -> TransactionStatus:
        """Idle, in a transaction, or in one that has failed."""
        if self.transaction is None:
            return TransactionStatus.IDLE
        return TransactionStatus.FAILED if self.failed else TransactionStatus.OPEN

    def begin(self, *modes: Mode) -> None:
        """``begin``; within a transaction Postgres warns and sets its modes."""
        if self.transaction is None:
            with self.db.mutex:
                self.transaction = Transaction(self.db, self, explicit=True)
            self._at_begin = self.settings
            self.queried = False
        for name, value in modes:
            self.set(name, value)

    def check_writable(self, command: str) -> None:
        """25006 in a transaction that may only read."""
        if not self.settings and not self.local:
            return
        by_default = self.settings.get(f"default_{READ_ONLY}")
        if self.local.get(READ_ONLY, by_default) == "on":
            raise EngineError("25006", f"cannot execute {command} in a read-only transaction")

    def commit(self) -> bool:
        """``commit``; False if the transaction had failed and was rolled back."""
        if self.failed:
            self.rollback()
            return False
        self._end()
        return True

    def rollback(self) -> None:
        """``rollback``: data, locks and settings are as they were at ``begin``."""
        if self.transaction is not None:
            with self.db.mutex:
                self.transaction.rollback_to(0)
            self.settings = self._at_begin
        self._end()

    def chain(self, command: str) -> bool:
        """``commit`` or ``rollback`` with ``and chain``; whether it was committed.

        The next transaction may only read if this one might. A rollback first undoes what was set
        since the oldest savepoint, an error outside of savepoints what this transaction set itself.
        """
        self._in_transaction(f"{command} AND CHAIN")
        undoes = self.failed or command == "ROLLBACK"
        local = self._savepoints[0].local if undoes and self._savepoints else self.local
        modes = tuple((key, local[key]) for key in (READ_ONLY, DEFERRABLE) if key in local)
        if self.failed and not self._savepoints:
            modes = self._chained
        committed = command == "COMMIT" and self.commit()
        if command == "ROLLBACK":
            self.rollback()
        self.begin(*modes)
        self._chained = modes
        return committed

    def _end(self) -> None:
        self.local = {}
        self.failed = False
        self._savepoints = []
        self._chained = ()
        if self.transaction is not None:
            with self.db.mutex:
                self.transaction.finish()
                self.transaction = None
                self.db.transaction_ended()

    def savepoint(self, name: str) -> None:
        """``savepoint``; 25P01 outside a transaction."""
        tx = self._in_transaction("SAVEPOINT")
        self._savepoints.append(_Savepoint(name, len(tx.undo), self.settings, self.local))

    def release_savepoint(self, name: str) -> None:
        """``release savepoint``, after which the transaction may write if it might before."""
        self._in_transaction("RELEASE SAVEPOINT")
        index = self._find_savepoint(name)
        before = self._savepoints[index].local
        del self._savepoints[index:]
        if before.get(READ_ONLY) != self.local.get(READ_ONLY):
            self.local = {key: text for key, text in self.local.items() if key != READ_ONLY}
            if READ_ONLY in before:
                self.local[READ_ONLY] = before[READ_ONLY]

    def rollback_to_savepoint(self, name: str) -> None:
        """``rollback to savepoint``: undoes what came after it and heals a failed transaction."""
        tx = self._in_transaction("ROLLBACK TO SAVEPOINT")
        index = self._find_savepoint(name)
        kept = self._savepoints[index]
        with self.db.mutex:
            tx.rollback_to(kept.position)
            self.db.transaction_ended()
        self.settings, self.local = kept.settings, kept.local
        del self._savepoints[index + 1 :]
        self.failed = False

    def fail(self) -> None:
        """The transaction has failed: what came after its last savepoint is gone at once.

        So are the locks taken since, as in Postgres, although the session has yet to say
        ``rollback``.
        """
        tx = self.transaction
        if tx is None or self.failed:
            return
        self.failed = True
        with self.db.mutex:
            tx.rollback_to(self._savepoints[-1].position if self._savepoints else 0)
            self.db.transaction_ended()

    def _in_transaction(self, command: str) -> Transaction:
        if self.transaction is None:
            raise EngineError("25P01", f"{command} can only be used in transaction blocks")
        return self.transaction

    def _find_savepoint(self, name: str) -> int:
        for index in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[index].name == name:
                return index
        self.fail()
        raise EngineError("3B001", f'savepoint "{name}" does not exist')

    # -- statements -------------------------------------------------------------------------

    def attempt(self, work: Callable[[Transaction, *Ts], T], *arguments: *Ts) -> T:
        """Run one statement; it has taken effect wholly, or not at all and raised.

        Raises `WouldBlock` where it would have to wait. The caller holds the mutex.
        """
        tx = self.transaction
        if tx is None:
            tx = self._statement
            tx.begin_statement()
        elif self.failed:
            raise in_failed_transaction()
        if not self._waited:  # a procedure asks for the time once, before it has to wait
            self.clock = self.db.now()
        self._reads_used = 0
        position, settings, local = len(tx.undo), self.settings, self.local
        try:
            done = work(tx, *arguments)
            if self.local and not tx.explicit:
                self.local = {}  # the transaction was this statement
            if self._waited or self._reads:
                self._forget_reads()
            return done
        except BaseException as error:
            if isinstance(error, WouldBlock):
                self._waited = True
            else:
                self._forget_reads()
            tx.rollback_to(position)
            self.settings, self.local = settings, local
            if tx.explicit and not isinstance(error, WouldBlock):
                self.fail()
            raise

    def read_once(self, key: Hashable, read: Callable[[], T]) -> T:
        """What `read` gives, and gave when this statement read it before it had to wait.

        A procedure of Postgres goes on after waiting with what it has read; ours begins anew.
        """
        place = self._reads_used
        self._reads_used += 1
        if place < len(self._reads) and self._reads[place][0] == key:
            known: T = self._reads[place][1]
            return known
        del self._reads[place:]
        value = read()
        self._reads.append((key, value))
        return value

    def _forget_reads(self) -> None:
        self._reads, self._waited = [], False

    def wait(self, holder: Transaction) -> None:
        """Block this thread until a transaction ends; 55P03 after the session's lock timeout."""
        with self.db.mutex:
            if holder.finished:
                return
            self._begin_wait(holder)
            seen = self.db.releases
            try:
                ended = self.db.ended.wait_for(
                    lambda: self.db.releases != seen, self.lock_timeout_seconds
                )
            except BaseException:
                self._forget_reads()
                raise
            finally:
                self._end_wait()
        if not ended:
            self._time_out()

    async def wait_async(self, holder: Transaction) -> None:
        """`wait` without blocking the event loop."""
        with self.db.mutex:
            if holder.finished:
                return
            self._begin_wait(holder)
            waiter = self.db.wait_async(asyncio.get_running_loop())
        try:
            await asyncio.wait_for(waiter, self.lock_timeout_seconds)
        except TimeoutError:
            self._time_out()
        except BaseException:
            self._forget_reads()
            raise
        finally:
            self._end_wait()

    def _begin_wait(self, holder: Transaction) -> None:
        mine = self.transaction
        if mine is None:
            return
        other: Transaction | None = holder
        while other is not None:
            if other is mine:
                self._forget_reads()
                self.fail()
                raise EngineError("40P01", "deadlock detected")
            other = other.waiting_for
        mine.waiting_for = holder

    def _end_wait(self) -> None:
        if self.transaction is not None:
            self.transaction.waiting_for = None

    def _time_out(self) -> None:
        self._forget_reads()
        self.fail()
        raise EngineError("55P03", "canceling statement due to lock timeout")

    def close(self) -> None:
        """Roll back what is open."""
        self.rollback()
        self.closed = True


def in_failed_transaction() -> EngineError:
    """25P02."""
    return EngineError(
        "25P02",
        "current transaction is aborted, commands ignored until end of transaction block",
    )
