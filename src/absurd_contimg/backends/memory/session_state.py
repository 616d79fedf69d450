"""What the statements of a session read and set: settings, time, and what they read before a wait.

It knows nothing of transactions: those are in `session`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, tzinfo
from typing import Any, TypeVar, TypeVarTuple

from absurd_contimg.backends.memory.settings import DEFAULTS, check_name, checked, session_zone
from absurd_contimg.backends.memory.store import Store
from absurd_contimg.backends.memory.values.times import timestamptz_in

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

FAKE_NOW = "absurd.fake_now"


class SessionState:
    """Settings, time and reads of one client of the database."""

    def __init__(self, db: Store) -> None:
        self.db = db
        self.session_id = db.next_session_id()
        self.settings: dict[str, str] = {}
        """What ``set`` has set; replaced, never changed in place, so that a savepoint keeps it."""
        self.local: dict[str, str] = {}
        """What ``set local`` has set, in the same way."""
        self.known: set[str] = set()
        """Every setting that was ever set: a custom one stays known when its value is undone."""
        self.clock = 0
        """The database's clock at the statement's begin: a statement takes no time."""
        self.transaction_began: int | None = None
        """The clock at ``begin``, None outside of a transaction."""
        self._fake: tuple[str, tzinfo, int] | None = None
        self._reads: list[tuple[object, Any]] = []
        """What the statement read before it had to wait, in order."""
        self._reads_used = 0

    def setting(self, name: str) -> str | None:
        """``current_setting(name, true)``; 0A000 for a setting that the emulator lacks."""
        return self._value(check_name(name))

    def _value(self, key: str) -> str | None:
        for values in (self.local, self.settings, DEFAULTS):
            if key in values:
                return values[key]
        return "" if key in self.known else None

    def set(self, name: str, value: str | None, *, local: bool = False) -> None:
        """``set`` or ``set local``; None is ``default``. Undone with the transaction.

        A local value outside of a transaction lasts to the end of the statement.
        """
        key = check_name(name)
        shown = None if value is None else checked(key, value)
        self.known.add(key)
        if local:
            self.local = {**self.local, key: DEFAULTS.get(key, "") if shown is None else shown}
            return
        self.local = {name: text for name, text in self.local.items() if name != key}
        self.settings = {name: text for name, text in self.settings.items() if name != key}
        if shown is not None:
            self.settings[key] = shown

    @property
    def zone(self) -> tzinfo:
        """The session's time zone."""
        if not self.settings and not self.local:
            return UTC
        return session_zone(self._value("timezone") or "UTC") or UTC

    def current_time(self) -> int:
        """``absurd.current_time()`` in a statement: the session's fake time, or the clock."""
        if not self.known:
            return self.clock
        fake = self._value(FAKE_NOW)
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
        return self.clock if self.transaction_began is None else self.transaction_began

    def next_uuid(self) -> int:
        """``absurd.portable_uuidv7()``, which on Postgres 18 is the server's own."""
        return self.db.uuids.next(self.clock)

    def read_once(self, read: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """What `read` returns, or returned when this statement read it before it had to wait.

        A procedure of Postgres goes on after waiting with what it has read; ours begins again.
        """
        key, place = (read, arguments), self._reads_used
        self._reads_used += 1
        if place < len(self._reads) and self._reads[place][0] == key:
            known: T = self._reads[place][1]
            return known
        del self._reads[place:]
        value = read(*arguments)
        self._reads.append((key, value))
        return value
