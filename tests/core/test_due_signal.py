"""What ends the pause of a worker, and how many idle workers share a run."""

from __future__ import annotations

import asyncio
import time

from absurd_contimg.core.due_signal import DueSignal


async def seconds_until_due(signal: DueSignal) -> float:
    began = time.perf_counter()
    signal.ring()
    await signal.due
    return time.perf_counter() - began


async def test_a_worker_that_finds_something_is_signalled_at_once() -> None:
    signal = DueSignal()
    signal.ring()  # nobody waits: the first claim is to come
    for _ in range(5):
        signal.before_claim()
        signal.has_claimed()
        assert not signal.due.done()
        signal.ring()
        assert signal.due.done()


async def test_claims_in_vain_spread_the_next_ones_up_to_a_bound() -> None:
    signals = [DueSignal() for _ in range(50)]
    for signal in signals:
        for _ in range(40):
            signal.before_claim()
            signal.ring()
        signal.before_claim()
    delays = sorted(await asyncio.gather(*map(seconds_until_due, signals)))
    assert delays[0] < 0.2, "one of many is first, on a busy machine too"
    assert delays[25] - delays[0] > 0.02, "and the others come later"
    assert delays[-1] < 1.0
    signals[0].has_claimed()
    signals[0].before_claim()
    signals[0].has_claimed()
    signals[0].ring()
    assert signals[0].due.done()


async def test_a_claim_takes_up_what_was_signalled_before_it() -> None:
    signal = DueSignal()
    signal.before_claim()
    signal.ring()
    signal.before_claim()  # in vain
    signal.ring()  # with a delay
    assert not signal.due.done()
    signal.before_claim()
    await asyncio.sleep(0.02)
    assert not signal.due.done(), "the claim came after the signal"
