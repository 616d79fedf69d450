"""A stage process: what it reports, how it ends, and that nothing of it outlives its worker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_disk import mounted
from stage_executors import isolated
from toy_stages import TOYS_FOLDER, request_for

from absurd_contimg.core.errors import LeaseLost
from absurd_contimg.core.failures import Classifier, FailureKind
from absurd_contimg.core.generic_rules import GENERIC_RULES
from absurd_contimg.execution.executor import (
    ResourceLimits,
    StageFailed,
    StageReport,
    StageRequest,
    StageTimeout,
)
from absurd_contimg.execution.fallback import ONE_THREAD, with_fallbacks
from absurd_contimg.execution.folder_identity import FolderIdentity
from absurd_contimg.products.store import load_committed, publish
from absurd_contimg.workflows.failure_rules import STAGE_RULES

pytestmark = pytest.mark.usefixtures("start")


def execute(request: StageRequest, **options: object) -> StageReport:
    return asyncio.run(isolated(**options).execute(request))


def failure_of(request: StageRequest, **options: object) -> StageFailed:
    with pytest.raises(StageFailed) as caught:
        execute(request, **options)
    return caught.value


async def pids_of(casa_log: Path) -> list[int]:
    """The processes that the stage has named in its file; waits for the file."""
    path = casa_log.with_suffix(".pids")
    while not path.exists():
        await asyncio.sleep(0.01)
    return [int(pid) for pid in path.read_text().split()]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_success_leaves_a_sealed_product_in_scratch(tmp_path: Path) -> None:
    """The stage process checks and writes the manifest; the worker publishes."""
    request = request_for(tmp_path)
    report = execute(request)
    assert report.committed is not None
    assert report.product == request.scratch / "product"
    assert not report.committed.exists()
    assert report.outputs == {"made": str(report.committed / "whole")}
    publish(report.product, report.committed)
    manifest = load_committed(report.committed)
    assert [entry.path for entry in manifest.files] == ["table/part", "whole"]
    assert manifest.attempt == "1"


@pytest.mark.parametrize(
    ("do", "now"),
    [
        ("move scratch", "it is not there any more"),
        ("replace scratch", "something else is in its place"),
        ("link scratch", "something else is in its place, a link to"),
        ("forge a result", "something else is in its place"),
    ],
)
def test_folder_that_is_replaced_during_a_stage_is_named(tmp_path: Path, do: str, now: str) -> None:
    """CASA takes it for a damaged table, and another's result must not count."""
    request = request_for(tmp_path, do)
    failure = failure_of(request)
    verdict = Classifier(STAGE_RULES).classify(failure.evidence)
    assert (verdict.rule_id, verdict.kind) == ("scratch-replaced", FailureKind.TRANSIENT)
    assert verdict.path == str(request.scratch.parent)
    assert f"{request.scratch.parent} was moved, removed or replaced" in str(failure)
    assert now in str(failure)


def test_folder_that_is_reached_by_another_path_is_the_same(tmp_path: Path) -> None:
    """A disk that is mounted elsewhere, with a link where it was."""
    folder = tmp_path / "scratch" / "owner"
    folder.mkdir(parents=True)
    identity = FolderIdentity.of(folder)
    assert identity.is_same()
    assert identity.change() is None
    (tmp_path / "scratch").rename(tmp_path / "elsewhere")
    assert not identity.is_same()
    (tmp_path / "scratch").symlink_to(tmp_path / "elsewhere")
    assert identity.is_same()
    assert identity.change() == (
        tmp_path / "scratch",
        f"something else is in its place, a link to {tmp_path / 'elsewhere'}",
    )


def test_one_thread_is_given_and_noted_after_a_shortage_of_memory(tmp_path: Path) -> None:
    """The fallback reaches the process and the manifest, and changes nothing of the product."""
    request = request_for(tmp_path, "say threads")
    first = execute(request)
    assert "threads 2" in request.output_log.read_text()
    request = request_for(tmp_path, "say threads")
    request = replace(request, context=with_fallbacks(request.context, [ONE_THREAD]))
    second = execute(request)
    assert "threads 1" in request.output_log.read_text()
    assert first.committed == second.committed
    assert second.product is not None
    assert second.committed is not None
    publish(second.product, second.committed)
    assert load_committed(second.committed).fallbacks == (ONE_THREAD,)


def test_committed_product_is_adopted_without_work(tmp_path: Path) -> None:
    """The second run would fail if it executed anything: its input says so."""
    first = execute(request_for(tmp_path))
    assert first.product is not None
    assert first.committed is not None
    publish(first.product, first.committed)
    again = execute(request_for(tmp_path, "segfault"))
    assert (again.adopted, again.product) == (True, None)
    assert again.outputs == first.outputs


def test_exception_arrives_with_its_cause_chain(tmp_path: Path) -> None:
    """The errno under CASA's own words is what tells a full disk; first what was free then."""
    evidence = failure_of(request_for(tmp_path, "raise from errno")).evidence
    assert [e.type_names[0] for e in evidence.exceptions] == [
        "builtins.OSError",
        "builtins.RuntimeError",
        "builtins.OSError",
    ]
    assert evidence.exceptions[2].errno == 28
    assert " free around " in evidence.exceptions[0].message
    assert evidence.traceback is not None
    assert "toy_stages.py" in evidence.traceback


def test_severe_messages_of_casa_are_evidence(tmp_path: Path) -> None:
    """CASA says only in its log what went wrong."""
    evidence = failure_of(request_for(tmp_path, "severe")).evidence
    assert evidence.log_messages == ("task::x Table x.ms does not exist",)


@pytest.mark.parametrize(
    ("do", "number"), [("segfault", signal.SIGSEGV), ("abort", signal.SIGABRT)]
)
def test_death_by_signal_is_told_as_such(tmp_path: Path, do: str, number: int) -> None:
    """A crash of C++ is a failure with the signal and the runtime's last words."""
    error = failure_of(request_for(tmp_path, do))
    assert error.evidence.signal == number
    assert error.evidence.exit_code is None
    assert error.evidence.log_messages
    assert str(error.request.output_log) in str(error)


@pytest.mark.parametrize(
    ("do", "rule"),
    [
        ("abort on full disk", "abort-disk-full"),
        ("bus error on full disk", "abort-disk-full"),
        ("error on full disk", "disk-full"),
    ],
)
def test_end_on_a_full_disk_is_a_shortage(small_disk: Path, do: str, rule: str) -> None:
    """CASA cannot log why it ends; the fault campaign met it in solve and apply."""
    request = request_for(small_disk, do)
    (request.scratch / ".reserved").write_text("1000000")
    error = failure_of(request)
    verdict = Classifier((*STAGE_RULES, *GENERIC_RULES)).classify(error.evidence)
    assert (verdict.kind, verdict.rule_id) == (FailureKind.RESOURCE, rule)
    assert "No space left on device: 0 B free around" in str(error)
    assert "was expected to write 1.0 MB and has written 8." in str(error)
    assert str(error.request.output_log.parent) in str(error)


def test_end_on_a_disk_that_became_read_only_is_no_crash(tmp_path: Path) -> None:
    """The kernel makes a disk with errors read-only; it cost the task an attempt."""
    with mounted(tmp_path / "disk", 4) as disk:
        outside = request_for(tmp_path, "abort on read-only disk")
        scratch = disk / "attempt"
        scratch.mkdir()
        error = failure_of(replace(outside, scratch=scratch))
    verdict = Classifier((*STAGE_RULES, *GENERIC_RULES)).classify(error.evidence)
    assert (verdict.kind, verdict.rule_id) == (FailureKind.RESOURCE, "abort-read-only-disk")
    assert error.evidence.path == str(scratch)
    assert f"Read-only file system: {scratch}" in str(error)


def test_lack_of_descriptors_for_the_report_is_a_shortage(tmp_path: Path) -> None:
    """The stage was done and could not report it; the fault campaign met it in validate."""
    error = failure_of(request_for(tmp_path, "use up descriptors"))
    verdict = Classifier(STAGE_RULES).classify(error.evidence)
    assert (verdict.kind, verdict.rule_id) == (FailureKind.RESOURCE, "casa-descriptors")


@pytest.mark.parametrize("do", ["leave with 0", "sys.exit"])
def test_exit_code_zero_without_result_is_failure(tmp_path: Path, do: str) -> None:
    """An exit code alone proves nothing."""
    assert failure_of(request_for(tmp_path, do)).evidence.exit_code == 0


def test_process_that_cannot_even_begin_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken installation shows in the error itself, not only in a log."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no module named numpy' >&2\nexit 1\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setattr("stage_executors.servers", [])  # that is, an interpreter for each stage
    error = failure_of(request_for(tmp_path))
    assert "no module named numpy" in str(error)
    assert error.evidence.exit_code == 1


def test_abort_after_the_result_is_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CASA's destructors abort when all is done; the result counts."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n{sys.executable} "$@"\nkill -ABRT $$\n', encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setattr("stage_executors.servers", [])  # that is, an interpreter for each stage
    assert execute(request_for(tmp_path)).product is not None


def test_failed_post_condition_fails_the_stage(tmp_path: Path) -> None:
    """validate_outputs decides, not that execute returned."""
    evidence = failure_of(request_for(tmp_path, "spoil")).evidence
    assert evidence.exceptions[0].type_names[0] == "absurd_contimg.errors.OutputError"


def test_link_in_a_product_is_refused(tmp_path: Path) -> None:
    """A product stands on its own."""
    assert "link" in str(failure_of(request_for(tmp_path, "link")))


def test_memory_limit_holds(tmp_path: Path) -> None:
    """A stage that wants more than its limit fails by itself, not the machine."""
    limits = ResourceLimits(memory_bytes=4 << 30)
    evidence = failure_of(request_for(tmp_path, "eat memory"), limits=limits).evidence
    assert evidence.exceptions[0].type_names[0] == "builtins.MemoryError"


@pytest.mark.parametrize("do", ["hang", "stop", "hang with helper"])
async def test_deadline_kills_whatever_the_stage_does(tmp_path: Path, do: str) -> None:
    """A stage that ignores SIGTERM, is stopped, or has helpers is gone at its deadline."""
    for deadline in (2.5, 10.0, 40.0):  # on a busy machine a process takes long to begin
        request = request_for(tmp_path, do, deadline=deadline)
        with pytest.raises(StageTimeout) as caught:
            await isolated().execute(request)
        if request.casa_log.with_suffix(".pids").exists():
            break
    assert not [pid for pid in await pids_of(request.casa_log) if lives(pid)]
    assert caught.value.evidence.exceptions[0].type_names[0].endswith("StageTimeout")


async def test_cancellation_returns_only_when_nothing_lives(tmp_path: Path) -> None:
    """Self-fencing: after the cancelled call has ended another worker may start the stage.

    The helper holds half a gigabyte, so that its death takes longer than that of the stage.
    """
    request = request_for(tmp_path, "hang with heavy helper")
    task = asyncio.create_task(isolated().execute(request))
    pids = await pids_of(request.casa_log)
    assert all(map(lives, pids))
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # an impatient caller changes nothing
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [pid for pid in pids if lives(pid)]


async def test_helper_left_behind_by_a_finished_stage_is_killed(tmp_path: Path) -> None:
    """Success does not leave processes either."""
    request = request_for(tmp_path, "leave helper")
    await isolated().execute(request)
    assert not [pid for pid in await pids_of(request.casa_log) if lives(pid)]


def test_everything_dies_with_a_killed_worker(tmp_path: Path, start: str) -> None:
    """SIGKILL to the worker leaves neither the stage nor a program that the stage started."""
    command = [sys.executable, "-c", _WORKER, str(tmp_path), TOYS_FOLDER, start]
    worker = subprocess.Popen(command)
    pids = asyncio.run(pids_of(tmp_path / "logs" / "0.casa.log"))
    assert all(map(lives, pids))
    worker.kill()
    worker.wait()
    while [pid for pid in pids if lives(pid)]:
        time.sleep(0.001)  # the test's timeout bounds it


_WORKER = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from stage_executors import isolated_by
from toy_stages import request_for
request = request_for(Path(sys.argv[1]), "hang with helper")
asyncio.run(isolated_by(sys.argv[-1], Path(sys.argv[1])).execute(request))
"""


def test_output_is_kept_within_bounds(tmp_path: Path) -> None:
    """Beginning and end of a log that is far too long remain."""
    request = request_for(tmp_path, "talk")
    execute(request, log_bytes_max=10_000)
    text = request.output_log.read_text()
    assert len(text) < 6_000
    assert text.startswith("line 0 ")
    assert "line 19999 " in text


def test_stage_process_of_a_dead_parent_does_not_begin(tmp_path: Path) -> None:
    """A closed pipe to the parent ends the process before it reads its request."""
    read_end, write_end = os.pipe()
    os.close(write_end)
    process = subprocess.run(
        [sys.executable, "-m", "absurd_contimg.execution.stage_process", "/nowhere", str(read_end)],
        pass_fds=(read_end,),
        start_new_session=True,
        check=False,
    )
    os.close(read_end)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("printed", "end", "rule"),
    [
        ("/x/_core.so: failed to map segment from shared object", "exit 1", "casa-memory"),
        ("LLVM ERROR: out of memory", "kill -ABRT $$", "abort-memory"),
    ],
)
def test_lack_of_memory_in_a_library_is_a_shortage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, end: str, rule: str
) -> None:
    """The words of the loader and of numba's compiler, as the campaign met them."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{printed}' >&2\n{end}\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setattr("stage_executors.servers", [])  # that is, an interpreter for each stage
    verdict = Classifier(STAGE_RULES).classify(failure_of(request_for(tmp_path)).evidence)
    assert (verdict.kind, verdict.rule_id) == (FailureKind.RESOURCE, rule)


async def test_stage_that_the_watchdog_has_killed_is_lost_though_its_lease_was_extended_since(
    tmp_path: Path,
) -> None:
    """A paused worker goes on and its heartbeat comes first: that was no death of the stage."""
    request, lease = request_for(tmp_path, "hang"), [time.monotonic() + 2.0]
    request = replace(request, may_live_until=lambda: lease[0])
    stage = asyncio.create_task(isolated().execute(request))
    (pid, *_) = await pids_of(request.casa_log)
    while lives(pid):
        time.sleep(0.05)  # noqa: ASYNC251 - the worker stands still
    lease[0] = time.monotonic() + 60.0
    with pytest.raises(LeaseLost):
        await stage
