"""The checks of a run with a fault: equal products, nothing executed twice, the right end."""

from __future__ import annotations

import re
import threading
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from campaign_faults import FAULTS
from campaign_run import Run
from casacore.tables import table
from committed_products import committed_products

from absurd_contimg.core.records import History
from absurd_contimg.history.timeline import StepStart, step_starts
from absurd_contimg.products.store import verify

_CASACORE = threading.Lock()
"""casacore's tables are not safe for threads."""


def numbers_of(root: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every pixel and every solution among a site's products, by name."""
    result: dict[str, np.ndarray[Any, Any]] = {}
    for path in sorted((root / "products" / "images").glob("*/*.fits")):
        assert path.name not in result, f"two products hold {path.name}"
        result[path.name] = np.asarray(fits.getdata(path))
    for path in sorted((root / "products" / "calibration").glob("*/*cal")):
        assert f"{path.name} FLAG" not in result, f"two products hold {path.name}"
        with _CASACORE, table(str(path), ack=False) as solutions:
            for column in ("TIME", "ANTENNA1", "SPECTRAL_WINDOW_ID", "CPARAM", "SNR", "FLAG"):
                result[f"{path.name} {column}"] = solutions.getcol(column)
    return result


def differences(
    result: Mapping[str, np.ndarray[Any, Any]], expected: Mapping[str, np.ndarray[Any, Any]]
) -> list[str]:
    """The names of arrays that are missing or not equal, bit by bit."""
    return sorted(
        name
        for name in result.keys() | expected.keys()
        if name not in result
        or name not in expected
        or not np.array_equal(
            result[name], expected[name], equal_nan=result[name].dtype.kind == "f"
        )
    )


def judge(run: Run, injected: bool, expected: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """One result of the campaign."""
    fault = FAULTS[run.fault]
    (history,) = run.site.histories()
    starts = step_starts(history)
    n_copied = len(starts) - len([s for s in starts if s.worker in ("one", "two")])
    run_starts = starts[n_copied:]
    problems = [*run.problems, *executed_twice(run, history, run_starts, fault.may_overlap)]
    outcomes = [start.ending for start in run_starts if start.outcome != "done"]
    if fault.shortage:
        injected = injected and bool(outcomes)
        wrong = [outcome for outcome in outcomes if not outcome.startswith("waiting: resource")]
        problems += [f"the shortage was classified as {outcome}" for outcome in wrong]
    state = history.task.state
    reason: Any = history.runs[-1].failure_reason if state == "failed" else None
    unequal: list[str] | None = None
    if state == "completed":
        unequal = differences(numbers_of(run.root), expected)
        problems += [f"{name} differs" for name in unequal]
        for folder, manifest in committed_products(run.root / "products"):
            verify(folder, manifest, deep=True)
    if state != ("completed" if fault.ends_well else "failed"):
        problems.append(f"ended as {state}")
    if reason is not None:
        problems += wrong_failure(run, reason, history)
    return {
        "fault": run.fault,
        "number": run.number,
        "stage": run.stage,
        "offset": round(run.offset, 3),
        "lease": run.lease_seconds,
        "injected": injected,
        "state": state,
        "runs": len(history.runs),
        "attempts_spent": len(history.runs) - 1,
        "wasted_seconds": round(wasted(run_starts), 2),
        "outcomes": outcomes,
        "adopted": sum(start.adopted for start in run_starts),
        "overlaps": sum(process.overlaps for process in run.process_starts),
        "equal": None if unequal is None else not unequal,
        "rule": None if reason is None else f"{reason['kind']}: {reason['rule']}",
        "message": None if reason is None else f"{reason['message']} | {reason['advice']}"[:600],
        "damaged_file": run.damaged_file,
        "problems": problems,
    }


def executed_twice(
    run: Run, history: History, starts: list[StepStart], may_overlap: bool
) -> list[str]:
    """Work that was repeated after it was committed, or done by two processes at once."""
    problems = []
    committed = {c.checkpoint_name: c.updated_at.timestamp() for c in history.checkpoints}
    for process in run.process_starts:
        stage = process.stage
        if stage in committed and process.time > committed[stage] and not may_overlap:
            problems.append(f"{stage} was started after its commit")
        if process.overlaps and not may_overlap:
            problems.append(f"two processes of {stage} at one time")
    done = Counter(re.findall(r": (\w+) done in ", run.log))
    problems += [f"{name} was done {n} times" for name, n in done.items() if n > 1 + may_overlap]
    by_step = defaultdict(list)
    for start in starts:
        by_step[start.step].append(start)
    for step, of_step in by_step.items():
        if any(start.outcome == "done" for start in of_step[:-1]):
            problems.append(f"{step} was started after it was done")
    return problems


def wasted(starts: list[StepStart]) -> float:
    """From the first start of each step to its last: lost work and the wait for the next."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for start in starts:
        first.setdefault(start.step, start.started_at.timestamp())
        last[start.step] = start.started_at.timestamp()
    return sum(last[step] - first[step] for step in first)


def wrong_failure(run: Run, reason: Mapping[str, Any], history: History) -> list[str]:
    """The differences of a failure from a permanent one in the first attempt, with advice."""
    problems = []
    if reason["kind"] != "permanent":
        problems.append(f"its kind is {reason['kind']} ({reason['rule']})")
    if len(history.runs) != 1:
        problems.append(f"it was tried {len(history.runs)} times")
    if not reason["advice"]:
        problems.append("no advice")
    damaged = run.damaged_file and Path(run.damaged_file)
    if damaged and not names_damaged_file(str(reason["message"]), damaged, run.root / "products"):
        problems.append("the message does not name the damaged file or its product")
    return problems


def names_damaged_file(message: str, damaged_file: Path, products: Path) -> bool:
    """Whether a message names the file, or the product that the file belongs to."""
    folders = [path for path in damaged_file.parents if path.is_relative_to(products)]
    product_folders = [path for path in folders if len(path.relative_to(products).parts) > 1]
    return any(str(path) in message for path in (damaged_file, *product_folders))
