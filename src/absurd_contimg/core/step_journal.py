"""The step journal: what the history holds of a tracked step, beside its result.

The checkpoint ``$start:<step>`` lists the starts of the step, how each of them ended, and how
often the step waited for each resource: for history, and for the next start. The step name ``""``
stands for the work outside of tracked steps, which has no starts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any, cast

from absurd_contimg.core.failures import PoisonStep
from absurd_contimg.core.jsonb_sanitizer import sanitized
from absurd_contimg.core.records import Json
from absurd_contimg.core.run_session import RunSession

START_PREFIX = "$start:"
LOST_PREFIX = "$lost:"
"""A lease that a living worker lost is noted beside the step's record, which by then belongs to a
later run."""
DEATH_PREFIX = "$deaths:"
"""Ends of the worker in plain handler code, by the number of the attempt: `core.worker_deaths`."""
_OLD_WAITS_PREFIX = "$parked:"
"""Earlier versions counted the waits for resources in a checkpoint of this prefix."""
JOURNAL_PREFIXES = (START_PREFIX, LOST_PREFIX, DEATH_PREFIX, _OLD_WAITS_PREFIX)
"""Checkpoints whose names begin so belong to the journal."""

_STARTS_KEPT = 20
"""Older starts of a step are dropped from its record, so that it stays small."""
STALLS_MAX = 10
"""How often a step may stop its worker's event loop for longer than the lease: pauses of the
process count too, because nobody can tell them apart."""
LOSSES_MAX = 20
"""How often in a row a step may lose its lease. Outages of the database count too: so many during
one step, without a start that ended otherwise, are more likely the step's own doing."""
STALLED = "stalled"
"""The rule of the outcome ``lost`` of a worker that stood still."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """How a start of a step ended, as its worker noted it.

    `action` is ``failed`` (the task with it), ``retry``, ``fallback`` (started again in another
    way), ``waiting`` (for a resource), ``released`` (back to the queue at once), ``lost`` (the
    lease, by a worker that lives) or ``poison``.
    """

    action: str
    kind: str | None = None
    """The failure kind, and the rule that decided it."""
    rule: str | None = None
    message: str | None = None
    evidence: Mapping[str, Json] = field(default_factory=dict)
    """What decided: ``errno``, ``signal``, ``exit_code``, ``matched``, as far as there is."""
    path: str | None = None
    """The file, folder or file system concerned."""
    advice: str | None = None
    """What an operator should do."""
    until: datetime | None = None
    """When it is tried again; None: not before an operator acts, or by Absurd's own strategy."""

    def __str__(self) -> str:
        return self.action if self.kind is None else f"{self.action}: {self.kind} ({self.rule})"

    def to_json(self) -> dict[str, Json]:
        """Only the fields that are set."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields["until"] = None if self.until is None else self.until.isoformat()
        return {name: sanitized(value) for name, value in fields.items() if value}

    @classmethod
    def from_json(cls, saved: Json) -> StepOutcome | None:
        """What `to_json` wrote, or the sentence of an earlier version; None: no outcome yet."""
        if saved is None:
            return None
        if isinstance(saved, Mapping):
            texts = {name: str(saved[name]) for name in _TEXTS if saved.get(name) is not None}
            evidence = saved.get("evidence")
            until = None if saved.get("until") is None else _time(saved["until"])
            known = evidence if isinstance(evidence, Mapping) else {}
            return cls(**texts, evidence=known, until=until)
        match = _SENTENCE.fullmatch(saved) if isinstance(saved, str) else None
        if match is None:
            return None
        action, kind, rule = match.groups()
        return cls(_OLD_ACTIONS.get(action, action), kind, rule)


_TEXTS = ("action", "kind", "rule", "message", "path", "advice")
_SENTENCE = re.compile(r"([^:]+)(?:: (\S+)(?: \((.*)\))?)?")
_OLD_ACTIONS = {"escalated": "fallback", "parked": "waiting", "handed back": "released"}


@dataclass(frozen=True, slots=True)
class StartRecord:
    """One start of a tracked step. Without an outcome, it runs or its worker died."""

    number: int
    """From 1, ascending: it names logs and scratch folders."""
    attempt: int
    """Of the task, by Absurd's count."""
    run_id: str
    worker: str
    started_at: datetime
    outcome: StepOutcome | None = None
    fallbacks: tuple[str, ...] = ()
    """What this start did differently than the first one."""
    fallback: str | None = None
    """What its failure asked the next start to do differently."""
    ended_at: datetime | None = None
    """When it ended with its outcome; None where nobody noted it."""

    def to_json(self) -> dict[str, Json]:
        """The form in the checkpoint."""
        return {
            "start": self.number,
            "attempt": self.attempt,
            "run_id": self.run_id,
            "worker": self.worker,
            "started_at": self.started_at.isoformat(),
            "outcome": None if self.outcome is None else self.outcome.to_json(),
            **({"fallbacks": list(self.fallbacks)} if self.fallbacks else {}),
            **({} if self.fallback is None else {"fallback": self.fallback}),
            **({} if self.ended_at is None else {"ended_at": self.ended_at.isoformat()}),
        }

    def loss_of(self, step: str) -> str:
        """The name of the checkpoint that says that the start lost its lease."""
        return f"{LOST_PREFIX}{self.number}:{step}"

    def with_loss(self, saved: Json) -> StartRecord:
        """With the outcome of that checkpoint, if it has none."""
        if self.outcome is not None or saved is None:
            return self
        return replace(self, outcome=StepOutcome.from_json(saved))

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> StartRecord:
        """What `to_json` of this or an earlier version wrote."""
        fallback = saved.get("fallback", saved.get("escalation"))
        return cls(
            int(saved["start"]),
            int(saved["attempt"]),
            str(saved["run_id"]),
            str(saved["worker"]),
            _time(saved["started_at"]),
            StepOutcome.from_json(saved.get("outcome")),
            tuple(map(str, saved.get("fallbacks") or saved.get("escalations") or ())),
            None if fallback is None else str(fallback),
            None if saved.get("ended_at") is None else _time(saved["ended_at"]),
        )


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What the journal holds of one step."""

    step: str
    starts: tuple[StartRecord, ...] = ()
    waits: Mapping[str, int] = field(default_factory=dict)
    """How often it waited for a resource, by failure rule."""
    outside: StepOutcome | None = None
    """The last outcome of work outside of tracked steps."""

    @classmethod
    def read(cls, step: str, checkpoints: Mapping[str, Json]) -> StepRecord:
        """The record of a step among the checkpoints of its task; empty if there is none.

        What another client wrote under the journal's names, and no journal is, counts for nothing.
        """
        saved = checkpoints.get(START_PREFIX + step)
        fields = cast(Mapping[str, Any], saved) if isinstance(saved, Mapping) else {}
        waits = fields.get("waits", checkpoints.get(_OLD_WAITS_PREFIX + step))
        if not fields and not waits:
            return cls(step)
        try:
            noted = map(StartRecord.from_json, fields.get("starts") or ())
            starts = tuple(each.with_loss(checkpoints.get(each.loss_of(step))) for each in noted)
            outside = StepOutcome.from_json(fields.get("outside"))
            counts = {str(rule): int(n) for rule, n in dict(cast(Any, waits or {})).items()}
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            return cls(step)
        return cls(step, starts, counts, outside)

    def to_json(self) -> dict[str, Json]:
        """The state of its checkpoint."""
        starts = [start.to_json() for start in self.starts[-_STARTS_KEPT:]]
        outside = {} if self.outside is None else {"outside": self.outside.to_json()}
        return {"starts": starts, "waits": dict(self.waits), **outside}

    @property
    def last_outcome(self) -> StepOutcome | None:
        """How its last start ended, or the work outside of tracked steps."""
        return self.starts[-1].outcome if self.starts else self.outside

    @property
    def silent(self) -> int:
        """How many starts have no outcome: their workers died."""
        return sum(start.outcome is None for start in self.starts)

    @property
    def stalled(self) -> int:
        """How many starts stopped the event loop of their worker past its lease."""
        return sum(s.outcome is not None and s.outcome.rule == STALLED for s in self.starts)

    @property
    def lost(self) -> int:
        """How many of its last starts lost their lease, one after the other."""
        outcomes = (start.outcome for start in reversed(self.starts))
        return sum(1 for _ in takewhile(lambda o: o is not None and o.action == "lost", outcomes))

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What the next start has to do differently, in the order in which it was asked for.

        Nothing after a final failure: an operator who retries has changed something.
        """
        if not self.starts:
            return ()
        last = self.starts[-1]
        if last.outcome is not None and last.outcome.action in ("failed", "poison"):
            return ()
        return last.fallbacks if last.fallback is None else (*last.fallbacks, last.fallback)

    def started(self, attempt: int, run_id: str, worker: str, now: datetime) -> StepRecord:
        """With one more start, under the fallbacks that are due."""
        number = 1 + max((start.number for start in self.starts), default=0)
        start = StartRecord(number, attempt, run_id, worker, now, fallbacks=self.fallbacks)
        return StepRecord(self.step, (*self.starts, start), self.waits, self.outside)

    def ended(
        self, outcome: StepOutcome, fallback: str | None = None, ended_at: datetime | None = None
    ) -> StepRecord:
        """With the outcome of its last start; `fallback` is for the next one."""
        waits = dict(self.waits)
        if outcome.action == "waiting":
            waits[str(outcome.rule)] = waits.get(str(outcome.rule), 0) + 1
        elif outcome.action == "failed":
            waits = {}  # an operator's retry has the full budget
        if not self.starts:
            return replace(self, waits=waits, outside=outcome)
        last = replace(self.starts[-1], outcome=outcome, fallback=fallback, ended_at=ended_at)
        return replace(self, waits=waits, starts=(*self.starts[:-1], last))

    def ended_as_poison(self) -> StepRecord:
        """With an outcome for what was counted, so that an operator's retry counts from 0."""
        poison = StepOutcome("poison")
        starts = tuple(
            replace(start, outcome=poison)
            if start.outcome is None or start.outcome.action == "lost"
            else start
            for start in self.starts
        )
        return replace(self, starts=starts)


def _time(text: Any) -> datetime:
    """A saved time in UTC; `ValueError` or `TypeError` if it is none."""
    return datetime.fromisoformat(text).astimezone(UTC)


class StepJournal:
    """Keeps the journal of the run of a `RunSession`."""

    def __init__(self, session: RunSession, worker_id: str, poison_limit: int) -> None:
        self._session = session
        self._worker_id = worker_id
        self._poison_limit = poison_limit
        self._tracked_step: str | None = None
        self._start: StartRecord | None = None
        """Of the tracked step, once it is saved."""
        self._begun = 0.0
        """When it was, by the clock of the event loop."""
        self.fallbacks: tuple[str, ...] = ()
        """What this start of the tracked step has to do differently than its first one."""

    def _record(self) -> StepRecord:
        return StepRecord.read(self._tracked_step or "", self._session.checkpoints)

    async def _save(self, record: StepRecord) -> None:
        await self._session.save(START_PREFIX + record.step, record.to_json())

    async def begin(self, step: str) -> int:
        """Note the start of a tracked step; its number, from 1.

        Raises `PoisonStep` when earlier starts ended too many workers without an outcome.
        """
        record = StepRecord.read(step, self._session.checkpoints)
        is_poison = record.silent >= self._poison_limit or record.stalled >= STALLS_MAX
        if is_poison or record.lost >= LOSSES_MAX:
            await self._save(record.ended_as_poison())
            ends = {
                "{} times its worker died": record.silent,
                "{} times it stood still for longer than its lease": record.stalled,
                "the last {} times it lost its lease": record.lost,
            }
            counts = ", ".join(text.format(count) for text, count in ends.items() if count)
            raise PoisonStep(
                f"Step {step!r} was started {len(record.starts)} times; {counts}: the step is not "
                "started again."
            )
        now, self._begun = await self._session.now(), asyncio.get_running_loop().time()
        claimed = self._session.claimed
        self.fallbacks = record.fallbacks
        self._tracked_step, self._start = step, None
        record = record.started(claimed.attempt, str(claimed.run_id), self._worker_id, now)
        await self._save(record)
        self._start = record.starts[-1]
        return self._start.number

    def start_under_way(self) -> tuple[str, StartRecord] | None:
        """The tracked step that runs, and its start; None outside of tracked steps."""
        if self._tracked_step is None or self._start is None:
            return None
        return self._tracked_step, self._start

    def completed(self) -> None:
        """The tracked step has its checkpoint: work is outside of tracked steps again."""
        self._tracked_step = None

    async def end(self, outcome: StepOutcome, fallback: str | None = None) -> None:
        """Note how the work under way ended, before the run is failed, released or put to sleep.

        Work outside of tracked steps leaves its waits for resources and nothing else.
        """
        record = self._record()
        if self._tracked_step is None and outcome.action != "waiting" and not record.waits:
            return
        await self._save(record.ended(outcome, fallback, self._ended_at()))

    def _ended_at(self) -> datetime | None:
        """Now, by the database's clock: when the tracked step began, and how long ago that is."""
        if self._tracked_step is None or self._start is None:
            return None
        seconds = asyncio.get_running_loop().time() - self._begun
        return self._start.started_at + timedelta(seconds=seconds)

    def may_use_fallback(self, fallback: str) -> bool:
        """Whether the next start can be made differently in this way: once a tracked step."""
        return self._tracked_step is not None and fallback not in self.fallbacks

    def resource_waits(self, rule_id: str | None = None) -> int:
        """How often the work under way waited for a resource (by this rule), over all attempts."""
        waits = self._record().waits
        return sum(waits.values()) if rule_id is None else waits.get(rule_id, 0)
