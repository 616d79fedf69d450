"""A stage's own process: ``python -P -m absurd_contimg.execution.stage_process REQUEST LIFELINE``.

Reads a request, takes the stage through its life, seals the product in scratch and writes
``result.json`` beside it: the outputs, or the evidence of the failure. It publishes nothing; the
parent does that, if it still may.

It begins when the parent says so, with one byte through LIFELINE, and the process and everything
that it starts die with the parent. LIFELINE is the read end of a pipe whose write end only the
parent holds: when the parent ends, however it ends, the kernel sends SIGKILL to the whole process
group. ``PR_SET_PDEATHSIG`` would reach this process alone and leave a WSClean that it started.
"""

from __future__ import annotations

import errno
import faulthandler
import fcntl
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.evidence import Evidence, text_of
from absurd_contimg.core.records import Json
from absurd_contimg.errors import OutputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.disk_reservation import full_disks
from absurd_contimg.execution.product_builder import Provenance, complete_product, plan_product
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.products.files import file_states
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.products.manifest import software_versions
from absurd_contimg.products.outputs import to_json
from absurd_contimg.products.store import enclosing_product

REQUEST_NAME = "request.json"
RESULT_NAME = "result.json"
EXIT_DISK_FULL = 92
"""The exit code of a child that could not write its result because the disk is full."""


def main(arguments: list[str]) -> None:
    """Run the request; does not return.

    Leaves by `os._exit`: nothing may write after the product is sealed, and CASA's destructors
    both write and abort.
    """
    await_leave(int(arguments[1]))
    die_with_parent(int(arguments[1]))
    faulthandler.enable()
    request_path = Path(arguments[0])
    request = json.loads(request_path.read_bytes())
    set_limits(request["limits"])
    sys.path.extend(path for path in request["module_path"] if path not in sys.path)
    try:
        result: dict[str, Json] = {"succeeded": True, **run_request(request)}
    except Exception as error:  # noqa: BLE001 - the end of the process: all of it is evidence
        result = {"succeeded": False, **_failure(error)}
    _report(request_path.with_name(RESULT_NAME), result)
    with suppress(OSError):  # a full disk takes no more output either
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0 if result["succeeded"] else 1)


def _report(path: Path, result: Mapping[str, Json]) -> None:
    """Write the result; on a full disk the exit code must say what no file can.

    A failed attempt's own files are in the way then, and go first.
    """
    try:
        LOCAL.write_json(path, result)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        if result["succeeded"]:
            os._exit(EXIT_DISK_FULL)
        for name in ("product", "temporary", "tmp"):
            shutil.rmtree(path.with_name(name), ignore_errors=True)
        try:
            LOCAL.write_json(path, result)
        except OSError:
            os._exit(EXIT_DISK_FULL)


def await_leave(lifeline: int) -> None:
    """Wait for the parent's word to begin: one byte, when the watchdog knows until when we live.

    A parent that is stopped or dies before that leaves a process that has done nothing.
    """
    if not os.read(lifeline, 1):
        os.killpg(0, signal.SIGKILL)


def die_with_parent(lifeline: int) -> None:
    """Have the kernel kill our process group when the other end of the pipe is closed."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    poller = select.poll()
    poller.register(lifeline, 0)
    if poller.poll(0):  # it was closed before we asked to be told
        os.killpg(0, signal.SIGKILL)


def set_limits(limits: Mapping[str, Any]) -> None:
    """No core dumps, as many open files as allowed, and as little memory as asked."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = min(limits["open_files"], most) if most != resource.RLIM_INFINITY else None
    wanted = limits["open_files"] if files is None else files
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    if limits["memory_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"], limits["memory_bytes"]))


def run_stage(
    stage: PipelineStage, context: PipelineContext, workspace: Workspace
) -> dict[str, Json]:
    """Execute and check; on failure clean up and let the stage's own error through.

    On a full disk that error is the cause of an `OSError` with ENOSPC: CASA tells other stories.
    """
    try:
        outputs = stage.execute(context, workspace)
        provided = to_json(outputs)
        check_provided(stage, provided)
        stage.validate_outputs(context, workspace, outputs)
    except Exception as error:
        full = full_disks(workspace.product, workspace.casa_log.parent)
        try:
            stage.cleanup(context, workspace)
        except Exception as second:  # noqa: BLE001 - must not hide the first
            error.add_note(f"cleanup failed too: {second!r}")
        if full:
            disks = "; ".join(map(str, full))
            text = f"{disks}. The stage said {type(error).__name__}: {error}"
            raise OSError(errno.ENOSPC, text, str(full[0].folder)) from error
        raise
    return provided


def check_provided(stage: PipelineStage, outputs: Mapping[str, Json]) -> None:
    """Raise `OutputError` unless a stage returned exactly what it says it provides."""
    if outputs.keys() != stage.provides:
        raise OutputError(
            f"Stage {stage.name!r} provides {sorted(stage.provides)} "
            f"but returned {sorted(outputs)}.",
            "Correct the stage.",
        )


def load_stage(reference: str) -> PipelineStage:
    """The stage that ``module:Class`` names."""
    module, _, name = reference.partition(":")
    stage = getattr(importlib.import_module(module), name)()
    if not isinstance(stage, PipelineStage):
        raise TypeError(f"{reference} is no PipelineStage")
    return stage


def run_request(request: Mapping[str, Any]) -> dict[str, Json]:
    """Take the stage through its life: adopt its product if it is there, else make and seal it.

    Returns the outputs, the place where the product belongs (None: it makes none), and whether
    it was adopted.
    """
    stage = load_stage(request["stage"])
    config = PipelineConfig.model_validate(request["config"])
    context = PipelineContext.from_json(request["context"], config)
    scratch = Path(request["scratch"])
    stage.validate(context)
    planned = plan_product(stage, context)
    committed = scratch / "product" if planned is None else planned.committed
    if planned is not None and planned.existing is not None:
        outputs = dict(planned.existing.outputs)
        return {"outputs": outputs, "committed": str(committed), "adopted": True}
    workspace = Workspace(
        scratch / "product", scratch / "temporary", Path(request["casa_log"]), committed
    )
    workspace.product.mkdir()
    workspace.temporary.mkdir()
    with _inputs_unchanged(stage, context):
        outputs = run_stage(stage, context, workspace)
    if planned is None:
        return {"outputs": outputs, "committed": None, "adopted": False}
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    provenance = Provenance(request["attempt"], socket.gethostname(), now, software_versions())
    complete_product(workspace.product, stage, context, planned, outputs, provenance)
    return {"outputs": outputs, "committed": str(committed), "adopted": False}


@contextmanager
def _inputs_unchanged(stage: PipelineStage, context: PipelineContext) -> Iterator[None]:
    """Raise `OutputError` if the stage wrote into a committed product; CASA does so gladly."""
    output_dir = context.config.paths.output_dir
    found = {enclosing_product(path, output_dir) for path in stage.input_paths(context)}
    products = sorted(folder for folder in found if folder is not None)
    before = [file_states(folder) for folder in products]
    yield
    for folder, states in zip(products, before, strict=True):
        now = file_states(folder)
        changed = sorted(
            str(path) for path in states.keys() | now.keys() if states.get(path) != now.get(path)
        )
        if changed:
            raise OutputError(
                f"Stage {stage.name!r} has changed the committed product {folder}: "
                f"{', '.join(changed[:3])}.",
                "Make the stage work on a copy; remove that product so that it is made again.",
            )


def _failure(error: Exception) -> dict[str, Json]:
    evidence = replace(
        Evidence.of(error), traceback="".join(traceback.format_exception(error))[-20_000:]
    )
    return {"message": f"{type(error).__name__}: {text_of(error)}", "evidence": evidence.to_json()}


if __name__ == "__main__":
    main(sys.argv[1:])
