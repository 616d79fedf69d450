"""How a stage runs: in a process of its own, of which nothing lives when `execute` ends.

A result that the process wrote after its checks is success even if CASA's destructors abort
afterwards; no result is failure even with code 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from absurd_contimg.core.errors import LeaseLost
from absurd_contimg.core.evidence import Evidence, ExceptionEvidence
from absurd_contimg.core.records import Json
from absurd_contimg.errors import ScratchReplacedError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.disk_reservation import (
    files_at_size_limit,
    full_disks,
    read_only_folders,
    shortage_text,
)
from absurd_contimg.execution.fallback import ONE_THREAD, fallbacks_of
from absurd_contimg.execution.folder_identity import FolderIdentity
from absurd_contimg.execution.lease_watchdog import MARK, LeaseWatchdog
from absurd_contimg.execution.logs import death_messages, last_line, severe_messages, trim_log
from absurd_contimg.execution.output_log import OutputLog
from absurd_contimg.execution.processes import (
    StageProcess,
    completed,
    end_stage,
    uninterrupted,
)
from absurd_contimg.execution.stage_process import REQUEST_NAME, RESULT_NAME
from absurd_contimg.execution.stage_server import (
    Environment,
    StageServer,
    StageServerError,
    module_path,
)
from absurd_contimg.owned_folders import make_private
from absurd_contimg.regular_files import read_json
from absurd_contimg.secrets import without_secrets

_log = logging.getLogger(__name__)

_NOT_IMPORTED = re.compile(
    r"No module named|cannot import name|: can't open file |"
    r"cannot open shared object file: No such file|^(Syntax|Indentation|Tab)Error: "
)
"""The last line of a Python that cannot begin: its package is away, or is being replaced."""

_TRIM_SECONDS = 2.0
_LEASE_SECONDS = 0.5
"""How often the watchdog gets the time until which a stage may live."""
_WATCHDOG = LeaseWatchdog()
"""One for each worker process; it starts when a stage first runs under a lease."""


@dataclass(frozen=True, slots=True)
class StageRequest:
    """One attempt of one stage."""

    stage: str
    """``module:Class``, as the stage process imports it."""
    stage_name: str
    context: PipelineContext
    attempt: str
    """Names the attempt in logs and manifests; no part of what is computed."""
    scratch: Path
    """An empty folder for this attempt alone, on the file system of the output folder."""
    casa_log: Path
    output_log: Path
    """Standard output and standard error of the process."""
    deadline_seconds: float
    may_live_until: Callable[[], float] | None = None
    """The end of the worker's lease, as `time.monotonic`, asked again and again: the process is
    killed at that time. None: it lives as long as the worker waits for it."""

    def written_logs(self) -> list[str]:
        """The paths of the logs that are not empty."""
        logs = (self.casa_log, self.output_log)
        return [str(log) for log in logs if log.is_file() and log.stat().st_size > 0]


@dataclass(frozen=True, slots=True)
class StageReport:
    """What a stage process has made. Nothing is published yet."""

    outputs: Mapping[str, Json]
    committed: Path | None
    """The place of its product; None: the stage makes no product."""
    adopted: bool
    """The product was already there; nothing was computed."""
    product: Path | None
    """The finished product in scratch; None when adopted or when there is none."""
    seconds: float
    """On the event loop's clock, from start to end of the process."""


class StageExecutor(Protocol):
    """Runs one attempt of a stage."""

    async def execute(self, request: StageRequest) -> StageReport:
        """Run it to its end; raises `StageFailed`. When cancelled, stops the stage first."""


class StageFailed(Exception):
    """A stage process failed; `evidence` and the logs say how."""

    def __init__(self, text: str, request: StageRequest, evidence: Evidence) -> None:
        super().__init__(text)
        self.request = request
        self.evidence = evidence

    @property
    def failure_details(self) -> Mapping[str, Json]:
        """What the failure reason in the history adds to the evidence."""
        return {
            "stage": self.request.stage_name,
            "start": self.request.attempt,
            "host": socket.gethostname(),
            "logs": self.request.written_logs(),
        }


class StageTimeout(StageFailed):
    """A stage process was still running at its deadline and was killed."""


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """Limits of a stage process."""

    memory_bytes: int | None = None
    """RLIMIT_AS, at which CASA aborts. None: no limit."""
    open_files: int = 65536
    """RLIMIT_NOFILE, as far as the hard limit allows: CASA keeps many tables open."""


def no_environment(_scratch: Path, _casa_log: Path) -> Mapping[str, str]:
    """For stages that need nothing but Python."""
    return {}


class EndOfProcess(NamedTuple):
    """How a stage process has ended."""

    code: int
    """The exit code; negative: the signal."""
    in_time: bool
    """Before its deadline."""
    by_watchdog: bool
    """Killed when the lease ran out of which the watchdog knew."""


@dataclass(frozen=True, slots=True)
class IsolatedStageExecutor:
    """Runs stages in processes on this machine (Linux)."""

    environment: Environment
    """Usually `absurd_contimg.execution.casa_environment.casa_environment`."""
    limits: ResourceLimits = field(default_factory=ResourceLimits)
    server: StageServer | None = None
    """Forks the stages' processes, unless it cannot or a stage needs other threads."""
    log_bytes_max: int = 8_000_000
    """Of each log file that is kept; the middle of a longer one is cut out."""

    async def execute(self, request: StageRequest) -> StageReport:
        """Run it; raises `StageTimeout` or `StageFailed`; when cancelled, ends the group first.

        And `LeaseLost` where the watchdog has killed it, which is no failure of the stage.
        """
        environment = await uninterrupted(self._prepare, request)
        scratch = FolderIdentity.of(request.scratch)
        clock = asyncio.get_running_loop().time
        started = clock()
        ended = await self._run_process(request, environment)
        if ended.by_watchdog:
            raise LeaseLost(f"stage {request.stage_name!r} was ended when its lease ran out")
        return await uninterrupted(self._conclude, request, scratch, ended, clock() - started)

    def _prepare(self, request: StageRequest) -> dict[str, str]:
        """Write the request and make the folders; returns the environment of the process."""
        for log in (request.casa_log, request.output_log):
            for folder in (log.parent.parent, log.parent):
                make_private(folder)
        temporary = request.scratch / "tmp"
        temporary.mkdir()
        config = request.context.config
        document = {
            "stage": request.stage,
            "context": request.context.to_json(),
            "config": config.model_dump(mode="json"),
            "attempt": request.attempt,
            "scratch": str(request.scratch),
            "casa_log": str(request.casa_log),
            "limits": asdict(self.limits),
            "module_path": module_path(),
        }
        text = json.dumps(document, indent=1, allow_nan=False)
        (request.scratch / REQUEST_NAME).write_text(text, encoding="utf-8")
        one_thread = ONE_THREAD in fallbacks_of(request.context)
        threads = "1" if one_thread else str(config.execution.threads)
        return {
            **without_secrets(os.environ),
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "TMPDIR": str(temporary),
            MARK: str(request.scratch),
            **self.environment(request.scratch, request.casa_log),
        }

    async def _run_process(
        self, request: StageRequest, environment: Mapping[str, str]
    ) -> EndOfProcess:
        read_end, write_end = os.pipe()
        log = OutputLog(request.output_log, self.log_bytes_max)
        try:
            process = await self._start(request, environment, read_end, log.write_end)
            try:
                in_time, lease_over = await self._wait(process, request, write_end)
            finally:
                await completed(end_stage(process, os.fsencode(f"{MARK}={request.scratch}")))
                _WATCHDOG.forget(process.pid)
        finally:
            # Closing the write end kills the stage process and its children, so it comes last.
            os.close(write_end)
            os.close(read_end)
            await uninterrupted(log.close)
        assert process.returncode is not None
        code = process.returncode
        return EndOfProcess(code, in_time, by_watchdog=lease_over and code == -signal.SIGKILL)

    async def _start(
        self, request: StageRequest, environment: Mapping[str, str], pipe: int, output: int
    ) -> StageProcess:
        """A process that waits for the first byte of the pipe."""
        path = request.scratch / REQUEST_NAME
        threads = environment["OMP_NUM_THREADS"]
        if self.server is not None and threads == str(self.server.threads):
            try:
                return await self.server.start(request.stage_name, path, environment, pipe, output)
            except StageServerError as error:
                _log.warning("stage %s starts without its server: %s", request.stage_name, error)
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "absurd_contimg.execution.stage_process"),
                *(str(path), str(pipe)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=request.scratch,
                env=environment,
                start_new_session=True,
                pass_fds=(pipe,),
            )
        except OSError as error:
            if error.filename != sys.executable:  # as of its folder, or no more processes
                raise
            text = f"Python itself cannot be started: {error}"
            evidence = Evidence((ExceptionEvidence.of(ImportError(text)),))
            raise StageFailed(text, request, evidence) from None

    async def _wait(
        self, process: StageProcess, request: StageRequest, parent_pipe: int
    ) -> tuple[bool, bool]:
        """Whether the process ended by itself in time, and whether its watchdog's time is over.

        It begins when the watchdog knows until when it may live: not if that time is over. Keeps
        its output within bounds. A worker that was stopped may extend its lease when it goes on,
        but the stage has been killed by then: what counts is the time that the watchdog knows.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + request.deadline_seconds
        trimmed_at = clock()
        lease, begun, until = request.may_live_until, False, math.inf
        while (left := deadline - clock()) > 0 and until > time.monotonic():
            until = math.inf if lease is None else lease()
            if lease is not None:
                _WATCHDOG.watch(process.pid, until)
            if not begun and until > time.monotonic():
                begun = os.write(parent_pipe, b"!") == 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LEASE_SECONDS if lease else _TRIM_SECONDS)):
                    await process.wait()
                return True, until <= time.monotonic()
            if clock() - trimmed_at >= _TRIM_SECONDS:
                await asyncio.to_thread(trim_log, request.casa_log, self.log_bytes_max)
                trimmed_at = clock()
        lease_over = until <= time.monotonic()
        return lease_over, lease_over

    def _conclude(
        self,
        request: StageRequest,
        scratch: FolderIdentity,
        ended: EndOfProcess,
        seconds: float,
    ) -> StageReport:
        """Read the result, or raise what logs and exit code say of the failure."""
        trim_log(request.casa_log, self.log_bytes_max)
        result: dict[str, Any] | None = None
        if scratch.is_same():
            with contextlib.suppress(FileNotFoundError):  # the process died before it could report
                result = read_json(request.scratch / RESULT_NAME)
        if result is None or not result["succeeded"]:
            if (change := scratch.change()) is not None:
                raise _in_replaced_folder(request, *change)
            raise _failure(request, ended.code, ended.in_time, result)
        committed = result["committed"]
        has_own = committed is not None and not result["adopted"]
        return StageReport(
            outputs=result["outputs"],
            committed=None if committed is None else Path(committed),
            adopted=result["adopted"],
            product=request.scratch / "product" if has_own else None,
            seconds=seconds,
        )


def _in_replaced_folder(request: StageRequest, folder: Path, now: str) -> StageFailed:
    """Whatever CASA made of it; a result that is in such a folder is not believed."""
    error = ScratchReplacedError(folder, now)
    text = f"Stage {request.stage_name!r} of attempt {request.attempt} failed: {error}"
    return StageFailed(text, request, Evidence.of(error))


def _failure(
    request: StageRequest, exit_code: int, in_time: bool, result: Mapping[str, Any] | None
) -> StageFailed:
    logged = severe_messages(request.casa_log)
    logs = request.written_logs()
    where = f"Logs: {', '.join(logs)}." if logs else "It left no log."
    subject = f"Stage {request.stage_name!r} of attempt {request.attempt}"
    if result is not None:
        evidence = replace(Evidence.from_json(result["evidence"]), log_messages=logged)
        return StageFailed(f"{subject} failed: {result['message']} {where}", request, evidence)
    final = last_line(request.output_log)
    logged += death_messages(request.output_log)
    # On a full disk the stage may have been unable to log anything.
    full = full_disks(request.scratch, request.output_log.parent)
    cut_off = [] if full else files_at_size_limit(request.scratch)
    unwritable = read_only_folders(request.scratch, request.output_log.parent)
    places = (*(disk.folder for disk in full), *unwritable, *cut_off)
    path = next((str(place) for place in places), None)
    logged += (shortage_text(full, request.scratch),) if full else ()
    logged += tuple(f"Read-only file system: {folder}" for folder in unwritable)
    logged += tuple(f"RLIMIT_FSIZE is reached: {file}" for file in cut_off[:1])
    if not in_time:
        text = f"{subject} was killed at its deadline of {request.deadline_seconds:g} s. {where}"
        evidence = Evidence(signal=int(signal.SIGKILL), log_messages=logged, path=path)
        error = StageTimeout(text, request, evidence)
        error.evidence = replace(evidence, exceptions=(ExceptionEvidence.of(error),))
        return error
    if exit_code < 0:
        death = f"was ended by {signal.Signals(-exit_code).name}"
    else:
        # The last line of a traceback is the error that prevented the report.
        death = f"ended with code {exit_code} without a result"
        logged += () if final is None or final in logged else (final,)
    code, number = (exit_code, None) if exit_code >= 0 else (None, -exit_code)
    evidence = Evidence(exit_code=code, signal=number, log_messages=logged, path=path)
    if exit_code > 0 and final is not None and _NOT_IMPORTED.search(final):
        # It ended before it could begin: what it would have reported of a module of a stage.
        missing = ExceptionEvidence.of(ImportError(final))
        evidence = replace(evidence, exceptions=(missing,))
    last_message = logged[-1] if logged else final
    detail = f" ({last_message})" if last_message else ""
    return StageFailed(f"{subject} {death}{detail}. {where}", request, evidence)
