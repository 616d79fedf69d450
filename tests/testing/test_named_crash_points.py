"""Schedules that name the effect at which a fault is injected, not the number of a crash point."""

from __future__ import annotations

from typing import Any

import pytest

from absurd_contimg.simulation.model.faults import FaultKind, InjectedFault, parse_schedule
from absurd_contimg.testing import outside, replay_handler


async def order(params: Any, ctx: Any) -> Any:
    async def charge() -> int:
        await outside("charge")
        return 95

    await ctx.step("charge", charge)
    await ctx.sleep_for("pause", 60)
    return await ctx.step("ship", charge)


@pytest.mark.parametrize(
    ("schedule", "line"),
    [
        (
            "kill@checkpoint_state 'charge'",
            "kill at call set_task_checkpoint_state 'charge', before",
        ),
        (
            "kill@checkpoint_state 'charge', committed",
            "kill at call set_task_checkpoint_state 'charge', committed, reply pending",
        ),
        ("kill@complete_run", "kill at call complete_run, before"),
        ("kill@own charge", "kill at own charge, before"),
    ],
)
def test_fault_is_injected_at_the_first_effect_with_the_text(schedule: str, line: str) -> None:
    finding = replay_handler(order, {}, schedule, repeats=["charge"])
    assert finding.missed == ()
    (fault, *_) = [each for each in finding.trace if ": kill at" in each]
    assert fault.endswith(line)


def test_texts_with_commas_and_numbers_stand_beside_each_other() -> None:
    schedule = parse_schedule("kill@checkpoint_state 'charge', committed, pause@4,term@claim")
    assert schedule == (
        InjectedFault(FaultKind.KILL, "checkpoint_state 'charge', committed"),
        InjectedFault(FaultKind.PAUSE, 4),
        InjectedFault(FaultKind.TERM, "claim"),
    )
    assert parse_schedule(",".join(map(str, schedule))) == schedule


def test_second_fault_is_of_the_next_process() -> None:
    finding = replay_handler(
        order, {}, "kill@checkpoint_state 'charge',kill@checkpoint_state 'ship'"
    )
    assert finding.missed == ()
    assert sum(": kill at" in each for each in finding.trace) == 2


def test_text_that_no_effect_has_is_named() -> None:
    finding = replay_handler(order, {}, "kill@checkpoint_state 'chrage'")
    assert "kill@checkpoint_state 'chrage' was not injected" in finding.missed_text
    assert "none of its" in finding.missed_text


@pytest.mark.parametrize("text", ["kill", "kill@", "kill@0", "kill@-1", "kill@,pause@4"])
def test_fault_without_a_crash_point_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a kind and a crash point"):
        parse_schedule(text)
