"""`Trace`: what happened in a world, one line an event, for a person who looks for the cause."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from absurd_contimg.backends.memory import MemoryDatabase
from absurd_contimg.backends.memory.store import Operation
from absurd_contimg.core.records import History
from absurd_contimg.core.step_journal import START_PREFIX, StepRecord
from absurd_contimg.simulation.model.effect_gateway import BEFORE, Effect, EffectPhase
from absurd_contimg.simulation.runtime.loop import SimLoop

_ID = re.compile(r"[0-9a-f]{8}\b")
"""The end of a task's or a run's id, as the emulator's timeline shows it."""


class Trace:
    """An `Observer` that only listens, and takes notes from others.

    Reads are left out, and so is a claim that finds nothing: the process claims again.
    """

    def __init__(self) -> None:
        self._lines: list[tuple[str, str] | None] = []
        self.database: MemoryDatabase | None = None
        """The arguments of calls are taken from its timeline."""
        self._claims: dict[SimLoop, int] = {}

    def note(self, seconds: float, text: str, process: str = "") -> None:
        """Add a line."""
        source = f"{process}: " if process else ""
        self._lines.append((process, f"{seconds:12.3f} s  {source}{text}"))

    def __call__(self, process: SimLoop, effect: Effect, phase: EffectPhase) -> None:
        """Add a line for a committed effect."""
        if phase is BEFORE or not (effect.changes or effect.kind == "stage"):
            return
        empty_claim = self._claims.pop(process, None)
        if effect.name == "claim_task":
            if empty_claim is not None:
                self._lines[empty_claim] = None
            self._claims[process] = len(self._lines)
        self.note(process.kernel.now, self._text(effect), process.name)

    def _text(self, effect: Effect) -> str:
        """An effect by its name, a call of the database with its arguments and its answer."""
        if effect.kind == "call" and self.database is not None and self.database.noted:
            last = Operation(*self.database.noted[-1])
            if last.procedure == effect.name:
                return str(last).split("  ", 2)[2] + _outcome_noted_by(last)
        return f"{effect.kind} {effect.name}"

    def text(self) -> list[str]:
        """All lines, in the order in which they happened."""
        return [line[1] for line in self._lines if line is not None]

    def about(self, histories: Iterable[History]) -> list[str]:
        """The lines about these tasks, and the notes: faults, deaths, the operator.

        A line of a process without any id is about the task of its line before. Operations on
        files are left out.
        """
        names: set[str] = set()
        for history in histories:
            names |= {str(history.task.task_id)[-8:]}
            names |= {str(run.run_id)[-8:] for run in history.runs}
        lines, concerned = [], {"": True}
        for process, line in filter(None, self._lines):
            ids = set(_ID.findall(line))
            if process and ids:
                concerned[process] = bool(ids & names)
            about_them = concerned.get(process) and (process or not ids or ids & names)
            if ": file " not in line and about_them:
                lines.append(line)
        return lines


def _outcome_noted_by(operation: Operation) -> str:
    """How a step ended, if a worker notes that in the step journal by this call."""
    if operation.procedure != "set_task_checkpoint_state":
        return ""
    _queue, _task, name, state, *_ = map(str, operation.arguments)
    if not name.startswith(START_PREFIX):
        return ""
    outcome = StepRecord.read(
        name.removeprefix(START_PREFIX), {name: json.loads(state)}
    ).last_outcome
    if outcome is None:
        return ""
    until = "" if outcome.until is None else f", until {outcome.until:%Y-%m-%d %H:%M:%S}"
    return f" [{outcome}{'' if outcome.path is None else f' {outcome.path}'}{until}]"
