"""The process of a stage: ``python -P -m absurd_contimg.execution.stage_process REQUEST PIPE``.

It writes the product in scratch, and ``result.json`` beside it: outputs, or evidence of the
failure. PIPE is the read end of a pipe of the parent: one byte begins the work, its closing lets
the kernel kill the process group (``PR_SET_PDEATHSIG`` would leave a WSClean).
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import fcntl
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from absurd_contimg.config import PipelineConfig
from absurd_contimg.core.evidence import Evidence, named_reason, text_of
from absurd_contimg.core.records import Json
from absurd_contimg.errors import OutputError, UnfinishedInputError
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.disk_reservation import (
    FullDisk,
    files_at_size_limit,
    full_disks,
    shortage_text,
)
from absurd_contimg.execution.lease_watchdog import living_members
from absurd_contimg.execution.product_builder import Provenance, complete_product, plan_product
from absurd_contimg.execution.stage import PipelineStage, Workspace
from absurd_contimg.file_locks import missing_locks
from absurd_contimg.owned_folders import ForeignFolderError, read_mark, remove_tree
from absurd_contimg.products.files import FileState, file_state, file_states
from absurd_contimg.products.filesystem import LOCAL
from absurd_contimg.products.manifest import software_versions
from absurd_contimg.products.outputs import to_json
from absurd_contimg.products.store import enclosing_product

REQUEST_NAME = "request.json"
RESULT_NAME = "result.json"
_PR_SET_CHILD_SUBREAPER = 36
_CHILDREN_SECONDS = 10.0
EXIT_DISK_FULL = 92
"""The exit code of a process that could not write its result because the disk is full."""


def main(arguments: list[str]) -> None:
    """Run the request; `os._exit` at the end, for CASA's destructors write and abort."""
    adopt_orphans()
    await_begin(int(arguments[1]))
    die_with_parent(int(arguments[1]))
    faulthandler.enable()
    request_path = Path(arguments[0])
    request = json.loads(request_path.read_bytes())
    set_limits(request["limits"])
    sys.path.extend(path for path in request["module_path"] if path not in sys.path)
    try:
        result: dict[str, Json] = {"succeeded": True, **run_request(request)}
    except Exception as error:  # noqa: BLE001 - every error is reported as evidence
        result = {"succeeded": False, **_failure(error)}
    _report(request_path.with_name(RESULT_NAME), result)
    with suppress(OSError):  # the disk may be full
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0 if result["succeeded"] else 1)


def _report(path: Path, result: Mapping[str, Json]) -> None:
    """Write the result; on a full disk remove a failed attempt's files, or exit with a code."""
    try:
        LOCAL.write_json(path, result)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        if result["succeeded"]:
            os._exit(EXIT_DISK_FULL)
        if (mark := read_mark(path.parents[1])) is not None:
            for name in ("product", "temporary", "tmp"):
                with suppress(OSError, ForeignFolderError):
                    remove_tree(path.with_name(name), mark)
        try:
            LOCAL.write_json(path, result)
        except OSError:
            os._exit(EXIT_DISK_FULL)


def await_begin(parent_pipe: int) -> None:
    """Wait for the parent's byte, which it sends when the watchdog knows this process."""
    if not os.read(parent_pipe, 1):
        os.killpg(0, signal.SIGKILL)


def die_with_parent(parent_pipe: int) -> None:
    """Make the kernel kill this process group when the other end of the pipe is closed."""
    fcntl.fcntl(parent_pipe, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(parent_pipe, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(parent_pipe, fcntl.F_GETFL)
    fcntl.fcntl(parent_pipe, fcntl.F_SETFL, flags | os.O_ASYNC)
    poller = select.poll()
    poller.register(parent_pipe, 0)
    if poller.poll(0):  # it was closed before the signal was set up
        os.killpg(0, signal.SIGKILL)


def set_limits(limits: Mapping[str, Any]) -> None:
    """No core dumps, the requested open files as far as allowed, the requested memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    open_files, (_, hard_limit) = limits["open_files"], resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard_limit != resource.RLIM_INFINITY:
        open_files = min(open_files, hard_limit)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, hard_limit))
    if limits["memory_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (limits["memory_bytes"], limits["memory_bytes"]))


def run_stage(
    stage: PipelineStage, context: PipelineContext, workspace: Workspace
) -> dict[str, Json]:
    """Execute, check, clean up; raise ENOSPC, EFBIG or ENOLCK where that is behind an error."""
    try:
        outputs = stage.execute(context, workspace)
        provided = to_json(outputs)
        if provided.keys() != stage.provides:
            raise OutputError(
                f"Stage {stage.name!r} provides {sorted(stage.provides)} "
                f"but returned {sorted(provided)}.",
                "Correct the stage.",
            )
        stage.validate_outputs(context, workspace, outputs)
    except Exception as error:
        full = full_disks(workspace.product, workspace.casa_log.parent)
        if not full and _lacks_space(error):  # and has released some since
            full = [FullDisk(workspace.product, LOCAL.free_bytes(workspace.product))]
        # Only then: it reads a file, for which a process at its limit of memory has none.
        shortage = shortage_text(full, workspace.product.parent) if full else ""
        cut_off = files_at_size_limit(workspace.product.parent)
        try:
            stage.cleanup(context, workspace)
        except Exception as second:  # noqa: BLE001 - it must not hide the first error
            error.add_note(f"cleanup failed too: {second!r}")
        if full:
            text = f"{shortage}. The stage said {named_reason(error)}"
            raise OSError(errno.ENOSPC, text, str(full[0].folder)) from error
        if cut_off:
            text = f"RLIMIT_FSIZE is reached. The stage said {named_reason(error)}"
            raise OSError(errno.EFBIG, text, str(cut_off[0])) from error
        if _lacks_locks(error, workspace.product):
            text = f"The mount has no file locks. The stage said {named_reason(error)}"
            raise OSError(errno.ENOLCK, text, str(workspace.product)) from error
        raise
    return provided


def _lacks_space(error: Exception) -> bool:
    """Whether a write was refused for lack of space, whatever the stage made of that."""
    return any(
        link.errno in (errno.ENOSPC, errno.EDQUOT) and link.implicit_links == 0
        for link in Evidence.of(error).exceptions
    )


def _lacks_locks(error: Exception, folder: Path) -> bool:
    """Whether a lock was refused because the folder's mount has none.

    HDF5 and `fcntl` name no file; SQLite says that somebody holds the lock.
    """
    of_locks = any("lock" in link.message for link in Evidence.of(error).exceptions)
    try:
        return of_locks and bool(missing_locks(folder))
    except OSError:  # nothing can be tried there
        return False


def run_request(request: Mapping[str, Any]) -> dict[str, Json]:
    """Adopt the product or make it in scratch; its outputs, place, and whether adopted."""
    module, _, name = request["stage"].partition(":")
    stage: PipelineStage = getattr(importlib.import_module(module), name)()
    config = PipelineConfig.model_validate(request["config"])
    context = PipelineContext.from_json(request["context"], config)
    scratch = Path(request["scratch"])
    stage.validate(context)
    states = _input_states(stage, context)
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
    outputs = run_stage(stage, context, workspace)
    _end_children()
    _check_unchanged(stage, context, states)
    if planned is None:
        return {"outputs": outputs, "committed": None, "adopted": False}
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    provenance = Provenance(request["attempt"], socket.gethostname(), now, software_versions())
    complete_product(workspace.product, stage, context, planned, outputs, provenance)
    return {"outputs": outputs, "committed": str(committed), "adopted": False}


def _input_states(
    stage: PipelineStage, context: PipelineContext
) -> dict[Path | None, dict[Path, FileState]]:
    """The state of every file that the stage reads, by its product; None: of no product."""
    output_dir = context.config.paths.output_dir
    states: dict[Path | None, dict[Path, FileState]] = {None: {}}
    for path in stage.input_paths(context):
        product = enclosing_product(path, output_dir)
        if product is not None:
            states[product] = file_states(product)
        elif path.is_file():
            states[None][path] = file_state(path)
    return states


def adopt_orphans() -> None:
    """Make this process the parent of what its children leave, in whatever session."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_children() -> None:
    """Kill all that the stage has started and not ended: it could write into the product."""
    give_up = time.monotonic() + _CHILDREN_SECONDS
    while children := living_members(os.getpid()):
        if time.monotonic() > give_up:
            raise OutputError(f"The stage's processes {children} cannot be ended.")
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.01)


def _check_unchanged(
    stage: PipelineStage, context: PipelineContext, before: dict[Path | None, dict[Path, FileState]]
) -> None:
    """Raise `OutputError` if the stage changed a product, `UnfinishedInputError` for a new file."""
    after = _input_states(stage, context)
    for product, states in before.items():
        now = after.get(product, {})
        changed = sorted(
            str(path) for path in states.keys() | now.keys() if states.get(path) != now.get(path)
        )
        if changed and product is None:
            raise UnfinishedInputError(
                f"{changed[0]} was replaced or changed while it was read.",
                "Nothing: the stage runs again with the file that is there now.",
            )
        if changed:
            raise OutputError(
                f"Stage {stage.name!r} has changed the committed product {product}: "
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
