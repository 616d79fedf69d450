"""Sessions: transactions, savepoints, and waiting for others.

A session is what a connection to Postgres is on the server's side. Its statements run one at a
time under the database's mutex. A statement that needs a lock of another session's transaction is
undone, waits without the mutex, and runs again; so others see none of its work before it is done.
A session knows nothing of procedures, SQL or psycopg.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple, NoReturn, TypeVar, TypeVarTuple

from absurd_contimg.backends.memory.errors import EngineError
from absurd_contimg.backends.memory.session_state import SessionState
from absurd_contimg.backends.memory.settings import duration_seconds
from absurd_contimg.backends.memory.store import Store
from absurd_contimg.backends.memory.transaction import NO_TABLES, Transaction, WouldBlock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _Savepoint(NamedTuple):
    name: str
    position: int
    settings: dict[str, str]
    local: dict[str, str]


class Session(SessionState):
    """One client of the database."""

    def __init__(self, db: Store) -> None:
        super().__init__(db)
        self.transaction: Transaction | None = None
        self.failed = False
        self._at_begin: dict[str, str] = {}
        self._savepoints: list[_Savepoint] = []
        self._statement = Transaction(db, self, explicit=False)
        """The transaction of each statement that is one of its own."""
        self._waited = False
        """Whether the statement begins again because it had to wait."""

    def begin(self) -> None:
        """``begin``; within a transaction Postgres only warns."""
        if self.transaction is None:
            with self.db.mutex:
                self.transaction = Transaction(self.db, self, explicit=True)
                self.transaction_began = self.db.now()
            self._at_begin = self.settings

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

    def abandon(self) -> None:
        """Roll back as the connection is forgotten, perhaps in the midst of another's statement."""
        with self.db.mutex:
            if self.db.is_running:
                self.db.abandoned.append(self)
            else:
                self.rollback()

    def _end(self) -> None:
        self.local = {}
        self.failed = False
        self._savepoints = []
        if self.transaction is not None:
            with self.db.mutex:
                self.transaction.finish()
                self.transaction = self.transaction_began = None
                self.db.transaction_ended()

    def savepoint(self, name: str) -> None:
        """``savepoint``; 25P01 outside a transaction."""
        tx = self._in_transaction("SAVEPOINT")
        self._savepoints.append(_Savepoint(name, len(tx.undo), self.settings, self.local))

    def release_savepoint(self, name: str) -> None:
        """``release savepoint``."""
        self._in_transaction("RELEASE SAVEPOINT")
        del self._savepoints[self._find_savepoint(name) :]

    def rollback_to_savepoint(self, name: str) -> None:
        """``rollback to savepoint``: undoes what came after it; the transaction works again."""
        tx = self._in_transaction("ROLLBACK TO SAVEPOINT")
        index = self._find_savepoint(name)
        kept = self._savepoints[index]
        self._undo_to(tx, kept.position)
        self.settings, self.local = kept.settings, kept.local
        del self._savepoints[index + 1 :]
        self.failed = False

    def fail(self) -> None:
        """Note that the transaction has failed: what came after its last savepoint is undone.

        The locks taken since are released too, as in Postgres, before the client sends
        ``rollback``.
        """
        if self.transaction is not None and not self.failed:
            self.failed = True
            position = self._savepoints[-1].position if self._savepoints else 0
            self._undo_to(self.transaction, position)

    def _undo_to(self, tx: Transaction, position: int) -> None:
        with self.db.mutex:
            tx.rollback_to(position)
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

    def attempt(self, work: Callable[[Transaction, *Ts], T], arguments: tuple[*Ts]) -> T:
        """Run one statement: it takes effect as a whole, or raises and has no effect.

        Raises `WouldBlock` where it would have to wait.
        """
        if self.failed:
            raise in_failed_transaction()
        db, settings, local = self.db, self.settings, self.local
        tx = self.transaction or self._statement
        position = len(tx.undo) if tx.explicit else 0
        db.mutex.acquire()  # half the time of `with`
        try:
            db.is_running = True
            if not tx.explicit:  # the transaction of one statement, for which nobody ever waits
                relations = db.relations
                tx.alone = not (db.table_locks or relations.uncommitted)
                tx.tables = relations.of_queues if tx.alone else NO_TABLES
                tx.undo = []
            if not self._waited:  # a procedure asks for the time once, before it has to wait
                self.clock = db.now()
            answer = work(tx, *arguments)
        except BaseException as error:
            if isinstance(error, WouldBlock):
                self._waited, self._reads_used = True, 0
            else:
                self._forget_reads()
            tx.rollback_to(position)
            self.settings, self.local = settings, local
            if tx.explicit and not isinstance(error, WouldBlock):
                self.fail()
            raise
        finally:
            db.is_running = False
            while db.abandoned:
                db.abandoned.pop().rollback()
            db.mutex.release()
        if self.local and not tx.explicit:
            self.local = {}  # the transaction was this statement
        if self._waited or self._reads:
            self._forget_reads()
        return answer

    def _forget_reads(self) -> None:
        self._reads, self._reads_used, self._waited = [], 0, False

    def wait(self, holder: Transaction) -> None:
        """Block this thread until a transaction ends; 55P03 or 57014 after the session's timeout.

        Each wait may take the whole ``lock_timeout`` or ``statement_timeout``.
        """
        with self.db.mutex:
            if holder.finished:
                return
            self._begin_wait(holder)
            seen = self.db.releases
            seconds, timeout = self._timeout()
            try:
                ended = self.db.ended.wait_for(lambda: self.db.releases != seen, seconds)
            except BaseException:
                self._forget_reads()
                raise
            finally:
                self._end_wait()
        if not ended:
            self._give_up(timeout)

    async def wait_async(self, holder: Transaction) -> None:
        """`wait` without blocking the event loop."""
        with self.db.mutex:
            if holder.finished:
                return
            self._begin_wait(holder)
            waiter = self.db.wait_async(asyncio.get_running_loop())
            seconds, timeout = self._timeout()
        try:
            await asyncio.wait_for(waiter, seconds)
        except TimeoutError:
            self._give_up(timeout)
        except BaseException:
            self._forget_reads()
            raise
        finally:
            self._end_wait()

    def _timeout(self) -> tuple[float | None, EngineError]:
        """How long this session waits, None without end, and its error afterwards."""
        lock = duration_seconds(self._value("lock_timeout") or "0")
        statement = duration_seconds(self._value("statement_timeout") or "0")
        if lock and not 0 < statement < lock:
            return lock, EngineError("55P03", "canceling statement due to lock timeout")
        error = EngineError("57014", "canceling statement due to statement timeout")
        return statement or None, error

    def _begin_wait(self, holder: Transaction) -> None:
        waiting = self.transaction
        if waiting is None:
            return
        other: Transaction | None = holder
        while other is not None:
            if other is waiting:
                self._give_up(EngineError("40P01", "deadlock detected"))
            other = other.waiting_for
        waiting.waiting_for = holder

    def _end_wait(self) -> None:
        if self.transaction is not None:
            self.transaction.waiting_for = None

    def _give_up(self, error: EngineError) -> NoReturn:
        self._forget_reads()
        self.fail()
        raise error


def in_failed_transaction() -> EngineError:
    """25P02."""
    return EngineError(
        "25P02", "current transaction is aborted, commands ignored until end of transaction block"
    )
