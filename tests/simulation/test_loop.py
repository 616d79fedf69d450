"""Virtual time: one order for timers and SimPy's events; kill, pause and resume."""

from __future__ import annotations

import asyncio
import gc
import warnings
from pathlib import Path
from typing import Any

import pytest

import absurd_contimg
from absurd_contimg.simulation.runtime.kernel import Deadlock, Kernel, Livelock
from absurd_contimg.simulation.runtime.loop import (
    ProcessDied,
    SimLoop,
    UnkillableTask,
    in_virtual_time,
)


def test_waiting_a_year_costs_nothing() -> None:
    async def main() -> float:
        await asyncio.sleep(365 * 86400)
        return asyncio.get_running_loop().time()

    assert in_virtual_time(main()) == 365 * 86400


def test_timers_and_simpy_events_happen_in_one_order() -> None:
    kernel = Kernel()
    loop = SimLoop(kernel)
    log: list[str] = []

    def process(env: Any) -> Any:
        for delay in (1, 2):
            yield env.timeout(delay)
            log.append(f"simpy {env.now:.0f}")

    async def main() -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            log.append(f"asyncio {loop.time():.0f}")

    kernel.env.process(process(kernel.env))
    loop.run_until_complete(main())
    assert log == ["asyncio 1", "simpy 1", "asyncio 2", "simpy 3", "asyncio 3"]


def test_deadlock_names_the_waiting_tasks() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match=r"Waiting: main: task 1 in .*main"):
        in_virtual_time(main())


def test_cancelled_timers_do_not_move_the_clock() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(100, print).cancel()
        await asyncio.sleep(1)
        return loop.time()

    assert in_virtual_time(main()) == 1


def test_timeouts_threads_and_queues_of_asyncio_work() -> None:
    async def main() -> list[Any]:
        result: list[Any] = [await asyncio.to_thread(lambda: 3)]
        try:
            async with asyncio.timeout(5):
                await asyncio.sleep(10)
        except TimeoutError:
            result.append(asyncio.get_running_loop().time())
        queue: asyncio.Queue[int] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(queue.put(4))
            result.append(await queue.get())
        return result

    assert in_virtual_time(main()) == [3, 5, 4]


def _order(shuffle_seed: int | None) -> list[int]:
    async def main() -> list[int]:
        seen: list[int] = []

        async def one(number: int) -> None:
            await asyncio.sleep(1)
            seen.append(number)

        await asyncio.gather(*(one(number) for number in range(20)))
        return seen

    return in_virtual_time(main(), shuffle_seed=shuffle_seed)


def test_order_is_first_come_or_drawn_from_the_seed() -> None:
    assert _order(None) == list(range(20))
    assert _order(1) == _order(1) != list(range(20))
    assert _order(1) != _order(2)


def test_livelock_is_stopped_by_a_bound() -> None:
    loop = SimLoop(Kernel())

    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    loop.create_task(main())
    with pytest.raises(Livelock):
        loop.kernel.run(callbacks_max=1000)
    loop.close()


# -- kill and pause ----------------------------------------------------------------------


def _two_processes() -> tuple[Kernel, SimLoop, SimLoop]:
    kernel = Kernel()
    return kernel, SimLoop(kernel, "victim"), SimLoop(kernel, "other")


def test_dead_process_has_no_effect_and_no_clock() -> None:
    _, victim, other = _two_processes()
    reached: list[str] = []

    def effect(name: str) -> None:
        victim.check_alive()
        reached.append(name)

    async def worker() -> None:
        try:
            await asyncio.sleep(100)
        except BaseException:  # noqa: BLE001 - what user code may do
            try:
                effect("except")
            finally:
                try:
                    await asyncio.sleep(1)
                    effect("finally, after a wait")
                finally:
                    asyncio.get_running_loop().time()
                    reached.append("clock")

    async def killer() -> None:
        await asyncio.sleep(50)
        victim.kill()
        await asyncio.sleep(100)
        reached.append("other")

    victim.create_task(worker())
    other.run_until_complete(killer())
    assert reached == ["other"]


def test_process_that_kills_itself_ends_every_task() -> None:
    _, victim, other = _two_processes()
    ended: list[str] = []

    async def wait(number: int) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append(f"other {number}")

    async def kill_own_process() -> None:
        for number in range(3):
            victim.create_task(wait(number))
        await asyncio.sleep(1)
        victim.kill()
        victim.check_alive()

    victim.create_task(kill_own_process())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.run_until_complete(asyncio.sleep(5))
        gc.collect()
    assert ended == ["other 0", "other 1", "other 2"]
    assert asyncio.all_tasks(victim) == set() or all(
        task.get_coro().cr_frame is None  # type: ignore[union-attr]
        for task in asyncio.all_tasks(victim)
    )


def test_dead_process_starts_no_task() -> None:
    _, victim, other = _two_processes()
    refused: list[bool] = []

    async def worker() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            try:
                asyncio.create_task(asyncio.sleep(1))  # noqa: RUF006 - it is refused
            except ProcessDied:
                refused.append(True)

    async def killer() -> None:
        await asyncio.sleep(1)
        victim.kill()
        await asyncio.sleep(1)

    victim.create_task(worker())
    other.run_until_complete(killer())
    assert refused == [True]


def test_task_that_cannot_be_killed_is_named() -> None:
    _, victim, other = _two_processes()

    over: list[bool] = []

    async def unkillable() -> None:
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except BaseException:  # the mistake under test, until the test is over
                if over:
                    raise

    async def killer() -> None:
        await asyncio.sleep(1)
        victim.kill()
        await asyncio.sleep(1)

    victim.create_task(unkillable(), name="unkillable")
    with pytest.raises(UnkillableTask, match="unkillable"):
        other.run_until_complete(killer())
    over.append(True)


def test_death_of_a_process_releases_its_resources() -> None:
    _, victim, _ = _two_processes()
    released: list[str] = []
    victim.at_death("lock", lambda: released.append("lock"))
    victim.at_death("core", lambda: released.append("core"))
    victim.at_death("core", None)
    victim.kill()
    assert released == ["lock"]


def test_timers_of_a_paused_process_are_due_when_it_resumes() -> None:
    kernel, victim, other = _two_processes()
    log: list[tuple[str, float]] = []

    async def worker() -> None:
        for _ in range(3):
            await asyncio.sleep(10)
            log.append(("worker", kernel.now))

    async def killer() -> None:
        await asyncio.sleep(15)
        victim.pause()
        await asyncio.sleep(100)
        victim.resume()
        await asyncio.sleep(20)

    victim.create_task(worker())
    other.run_until_complete(killer())
    assert log == [("worker", 10), ("worker", 115), ("worker", 125)]


def test_production_code_does_not_know_the_simulation() -> None:
    """No module outside simulation, testing and the command line names this package."""
    root = Path(absurd_contimg.__file__).parent
    knowing = {
        str(path.relative_to(root).parts[0])
        for path in root.rglob("*.py")
        if "absurd_contimg.simulation" in path.read_text()
    }
    assert knowing <= {"simulation", "testing", "operations"}
