"""How long simulated stages take, what they write and how they fail.

Durations and sizes are measurements of the existing code (docs/telescope.md) unless they are fitted
from a real history. Failures are entries of the real failure table, raised as the real errors, so
that the real classifier judges them. Every draw depends only on the seed and on its purpose,
never on the order of the draws.
"""

from __future__ import annotations

import errno
import os
import signal
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random

from absurd_contimg import errors
from absurd_contimg.core.evidence import Evidence, ExceptionEvidence
from absurd_contimg.core.records import History
from absurd_contimg.execution.executor import StageFailed, StageRequest, StageTimeout
from absurd_contimg.history.metrics import measure

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class StageCost:
    """Duration, product size and memory of one run of a stage."""

    seconds: float
    output_bytes: int = 0
    memory_bytes: int = 0


DEFAULT_COSTS: Mapping[str, StageCost] = {
    "catalog_setup": StageCost(5.0, 1_000_000, GIB),
    "convert": StageCost(250.0, 2_200_000_000, 4 * GIB),  # asv: 243 and 264 s
    "flag": StageCost(27.0, 2_200_000_000, 2 * GIB),  # asv: reset 9 s and zeros 18 s
    "calibrate_solve": StageCost(41.0, 20_000_000, 6 * GIB),  # asv: 31 s and gains 10.5 s
    "select_calibration": StageCost(0.1),
    "calibrate_apply": StageCost(4.2, 2_200_000_000, 4 * GIB),  # asv
    "image": StageCost(180.0, 100_000_000, 6 * GIB),  # guide: 2 to 5 min
    "validate": StageCost(30.0, 1_000_000, 2 * GIB),  # guide: photometry about 30 s
}
"""By stage. The sum, 537 s, is within the guide's 8 to 12 minutes a group."""

UNLISTED = StageCost(10.0, 1_000_000, GIB)


@dataclass(frozen=True, slots=True)
class Draw(StageCost):
    """One run of a stage, decided before it starts."""

    failure: str | None = None
    """An id of `FAILURES`, raised when the share `fails_at` of the time is over."""
    fails_at: float = 1.0


@dataclass(frozen=True, slots=True)
class StageModel:
    """Draws the runs of stages.

    `spread` is the standard deviation of the logarithm of a duration. `failure_rates` are
    probabilities for one start of any stage, by id of `FAILURES`; `planned` failures come first:
    by group and stage, that of the first, second, ... start (None: none).
    """

    seed: int = 0
    costs: Mapping[str, StageCost] = field(default_factory=lambda: DEFAULT_COSTS)
    spread: float = 0.1
    failure_rates: Mapping[str, float] = field(default_factory=dict)
    planned: Mapping[tuple[str, str], tuple[str | None, ...]] = field(default_factory=dict)

    def draw(self, stage: str, group_id: str, start: int) -> Draw:
        """The run of this start (from 1) of a group's stage; always the same for a seed."""
        seed = f"{self.seed}/{stage}/{group_id}/{start}"
        factor, first, second = _random_numbers(seed, self.spread)
        cost = self.costs.get(stage, UNLISTED)
        seconds = cost.seconds * factor
        planned = self.planned.get((group_id, stage), ())
        if start <= len(planned):
            failure, chance = planned[start - 1], first
        else:
            failure, chance = self._random_failure(first), second
        fails_at = 0.05 + 0.9 * chance
        if failure == "stage-deadline":
            seconds, fails_at = max(seconds, 3600.0), 1.0
        return Draw(seconds, cost.output_bytes, cost.memory_bytes, failure, fails_at)

    def _random_failure(self, chance: float) -> str | None:
        for name, rate in self.failure_rates.items():
            if chance < rate:
                return name
            chance -= rate
        return None


@lru_cache(maxsize=4096)
def _random_numbers(seed: str, spread: float) -> tuple[float, float, float]:
    """The factor of a duration, and two between 0 and 1.

    Cached: an exploration draws the same start thousands of times, and seeding is slow.
    """
    random = Random(seed)
    return random.lognormvariate(0.0, spread), random.random(), random.random()


def fit_costs(histories: Iterable[History]) -> dict[str, StageCost]:
    """The median duration of each stage in real histories; sizes stay those of the defaults.

    Raises `ValueError` where no stage has ever completed.
    """
    seconds = measure(histories).step_seconds
    if not seconds:
        raise ValueError("nothing to fit: no stage has completed in these histories")
    costs = dict(DEFAULT_COSTS)
    for stage, durations in seconds.items():
        known = DEFAULT_COSTS.get(stage, UNLISTED)
        costs[stage] = replace(known, seconds=statistics.median(durations))
    return costs


ENDS_WORKER = "ends-worker"
"""A planned failure that ends the whole worker, not only the stage."""

# -- failures -----------------------------------------------------------------------------

Failure = Callable[[StageRequest], Exception]


def _died(signal_number: int, *messages: str) -> Failure:
    def make(request: StageRequest) -> Exception:
        name = signal.Signals(signal_number).name
        text = f"Stage {request.stage_name}: its process was ended by {name}."
        return StageFailed(text, request, Evidence(signal=signal_number, log_messages=messages))

    return make


def _raised(error: Callable[[], Exception], *messages: str) -> Failure:
    """Raised inside the stage's process: the worker sees only its report."""

    def make(request: StageRequest) -> Exception:
        inner = error()
        evidence = Evidence((ExceptionEvidence.of(inner),), exit_code=1, log_messages=messages)
        return StageFailed(f"Stage {request.stage_name}: {inner}", request, evidence)

    return make


def _os(code: int) -> Failure:
    return _raised(lambda: OSError(code, os.strerror(code), "simulated"))


def _deadline(request: StageRequest) -> Exception:
    text = f"Stage {request.stage_name} was still running after {request.deadline_seconds} s."
    error = StageTimeout(text, request, Evidence())
    error.evidence = Evidence((ExceptionEvidence.of(error),), signal=signal.SIGKILL)
    return error


FAILURES: Mapping[str, Failure] = {
    "disk-full": _os(errno.ENOSPC),
    "abort-disk-full": _died(signal.SIGABRT, "No space left on device"),
    "abort-memory": _died(signal.SIGABRT, "terminate called: std::bad_alloc"),
    "descriptors": _os(errno.EMFILE),
    "killed": _died(signal.SIGKILL),
    "crashed": _died(signal.SIGSEGV),
    "stage-deadline": _deadline,
    "casa-table-lock": _raised(lambda: RuntimeError("table is locked"), "acquiring lock on t"),
    "casa-bad-table": _raised(lambda: RuntimeError("bad table"), "no magic value found"),
    "casa-selection": _raised(lambda: RuntimeError("MSSelectionNullSelection: no match")),
    "input-output": _os(errno.EIO),
    "busy": _os(errno.EBUSY),
    "permission": _os(errno.EACCES),
    "connection": _raised(lambda: ConnectionResetError(errno.ECONNRESET, "reset")),
    "bad-input": _raised(lambda: errors.CorruptInputError("sub-band 7 is truncated")),
    "data-quality": _raised(lambda: errors.DataQualityError("all data are flagged")),
    "bad-output": _raised(lambda: errors.OutputError("the image is all zero")),
    "bad-setting": _raised(lambda: errors.SettingError("imsize is odd")),
    "wrong-value": _raised(lambda: ValueError("negative frequency")),
    "unrecognised": _raised(lambda: RuntimeError("an error without a rule")),
}
"""By the id of the rule that the classifier must find; ``unrecognised`` matches none."""
