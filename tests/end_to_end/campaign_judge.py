"""What a disturbed run came to: equal products, nothing executed twice, the right end."""

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

from absurd_contimg.core.records import History
from absurd_contimg.history.timeline import StepStart, step_starts
from absurd_contimg.products.store import committed_products, verify

_CASACORE = threading.Lock()
"""Its tables are not made for threads."""


def numbers_of(root: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every pixel and every solution among a site's products, by name."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for path in sorted((root / "products" / "images").glob("*/*.fits")):
        assert path.name not in found, f"two products hold {path.name}"
        found[path.name] = np.asarray(fits.getdata(path))
    for path in sorted((root / "products" / "calibration").glob("*/*cal")):
        assert f"{path.name} FLAG" not in found, f"two products hold {path.name}"
        with _CASACORE, table(str(path), ack=False) as solutions:
            for column in ("TIME", "ANTENNA1", "SPECTRAL_WINDOW_ID", "CPARAM", "SNR", "FLAG"):
                found[f"{path.name} {column}"] = solutions.getcol(column)
    return found


def differences(
    found: Mapping[str, np.ndarray[Any, Any]], expected: Mapping[str, np.ndarray[Any, Any]]
) -> list[str]:
    """The names of what is not equal, bit by bit."""
    return sorted(
        name
        for name in found.keys() | expected.keys()
        if name not in found
        or name not in expected
        or not np.array_equal(found[name], expected[name], equal_nan=found[name].dtype.kind == "f")
    )


def judge(run: Run, landed: bool, expected: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """One line of the campaign's results."""
    fault = FAULTS[run.fault]
    (history,) = run.site.histories()
    starts = step_starts(history)
    begun_before = len(starts) - len([s for s in starts if s.worker in ("one", "two")])
    ours = starts[begun_before:]
    problems = [*run.problems, *executed_twice(run, history, ours, fault.may_overlap)]
    outcomes = [one.ending for one in ours if one.outcome != "done"]
    if fault.shortage:
        landed = landed and bool(outcomes)
        wrong = [one for one in outcomes if not one.startswith("waiting: resource")]
        problems += [f"the shortage was taken for {one}" for one in wrong]
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
        "landed": landed,
        "state": state,
        "runs": len(history.runs),
        "attempts_spent": len(history.runs) - 1,
        "wasted_seconds": round(wasted(ours), 2),
        "outcomes": outcomes,
        "adopted": sum(one.adopted for one in ours),
        "overlaps": sum(one.overlaps for one in run.diary),
        "equal": None if unequal is None else not unequal,
        "rule": None if reason is None else f"{reason['kind']}: {reason['rule']}",
        "message": None if reason is None else f"{reason['message']} | {reason['advice']}"[:600],
        "victim": run.victim,
        "problems": problems,
    }


def executed_twice(
    run: Run, history: History, starts: list[StepStart], may_overlap: bool
) -> list[str]:
    """What was done again although it was done, or done by two at once."""
    found = []
    committed = {one.checkpoint_name: one.updated_at.timestamp() for one in history.checkpoints}
    for one in run.diary:
        if one.stage in committed and one.time > committed[one.stage] and not may_overlap:
            found.append(f"{one.stage} was begun after its commit")
        if one.overlaps and not may_overlap:
            found.append(f"two processes of {one.stage} at one time")
    done = Counter(re.findall(r": (\w+) done in ", run.log))
    found += [f"{name} was done {n} times" for name, n in done.items() if n > 1 + may_overlap]
    by_step = defaultdict(list)
    for start in starts:
        by_step[start.step].append(start)
    for step, of_step in by_step.items():
        if any(one.outcome == "done" for one in of_step[:-1]):
            found.append(f"{step} was started after it was done")
    return found


def wasted(starts: list[StepStart]) -> float:
    """From the first start of each step to its last: lost work and the wait for the next."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for one in starts:
        first.setdefault(one.step, one.started_at.timestamp())
        last[one.step] = one.started_at.timestamp()
    return sum(last[step] - first[step] for step in first)


def wrong_failure(run: Run, reason: Mapping[str, Any], history: History) -> list[str]:
    """What a failure should have said or cost, and did not."""
    found = []
    if reason["kind"] != "permanent":
        found.append(f"its kind is {reason['kind']} ({reason['rule']})")
    if len(history.runs) != 1:
        found.append(f"it was tried {len(history.runs)} times")
    if not reason["advice"]:
        found.append("no advice")
    if run.victim and not names_victim(
        str(reason["message"]), Path(run.victim), run.root / "products"
    ):
        found.append("the message does not name what is wrong")
    return found


def names_victim(message: str, victim: Path, products: Path) -> bool:
    """Whether it names the file, or the product that the file belongs to."""
    inside = (one for one in victim.parents if one.is_relative_to(products))
    whole = [one for one in inside if len(one.relative_to(products).parts) > 1]
    return any(str(one) in message for one in (victim, *whole))
