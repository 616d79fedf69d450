"""A stage that fails in a way that its input names: for real, in a process of its own.

Each function does what makes the operating system, Python, casacore or CASA fail; none raises an
error that it has made itself.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mount_without_locks import refuse_locks

from absurd_contimg.core.records import Json
from absurd_contimg.execution.context import PipelineContext
from absurd_contimg.execution.stage import PipelineStage, Workspace


class Fail(PipelineStage):
    """Does what ``inputs["do"]`` names, with the path of ``inputs["source"]``."""

    name = "fail"
    requires = frozenset({"source"})
    provides = frozenset()
    product_folder = None

    def execute(self, context: PipelineContext, workspace: Workspace) -> Mapping[str, Json]:
        FAILURES[str(context.inputs["do"])](Path(str(context.inputs["source"])), workspace)
        return {}


def address_space() -> int:
    """Bytes in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


@contextmanager
def limited(limit: int, most: int) -> Iterator[None]:
    """A soft limit for a while; the hard one stays, so that the failure can be reported."""
    before = resource.getrlimit(limit)
    resource.setrlimit(limit, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(limit, before)


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    free = os.dup(0)
    os.close(free)
    with limited(resource.RLIMIT_NOFILE, free):
        yield


@contextmanager
def no_more_memory(more: int = 0) -> Iterator[None]:
    with limited(resource.RLIMIT_AS, address_space() + more):
        yield


@contextmanager
def no_more_processes() -> Iterator[None]:
    """For another user: the limit does not count for root."""
    users = os.getresuid()
    with limited(resource.RLIMIT_NPROC, 0):
        if users[0] == 0:
            os.setresuid(65533, 65533, 0)
        try:
            yield
        finally:
            os.setresuid(*users)


def fill_disk(folder: Path, leave: int = 0) -> None:
    """Until the kernel refuses."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        os.truncate(filler, filler.stat().st_size - leave)


def kill(_source: Path, _workspace: Workspace) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def succeed_on_full_disk(_source: Path, workspace: Workspace) -> None:
    fill_disk(workspace.temporary)


def write_too_much(_source: Path, workspace: Workspace) -> None:
    with limited(resource.RLIMIT_FSIZE, 4096):
        (workspace.product / "big").write_bytes(bytes(1 << 20))


def casa_writes_too_much(source: Path, workspace: Workspace) -> None:
    """CASA ends the process, or gives another error than that of the kernel."""
    from casatasks import split  # noqa: PLC0415

    split(vis=str(source), outputvis=str(workspace.product / "x.ms"), datacolumn="data")


def table_written_too_large(_source: Path, workspace: Workspace) -> None:
    """casacore raises an error without an errno."""
    from casacore.tables import makescacoldesc, maketabdesc, table  # noqa: PLC0415

    columns = maketabdesc([makescacoldesc("TIME", 1.0)])
    rows = table(str(workspace.product / "table"), columns, nrow=1 << 16, ack=False)
    rows.putcol("TIME", [1.0] * (1 << 16))
    rows.close()


def abort_at_limit(_source: Path, workspace: Workspace) -> None:
    """With the message of CASA's ``split``, whose destructor aborts."""
    try:
        (workspace.product / "big").write_bytes(bytes(1 << 20))
    except OSError:
        message = b"what():  FiledesIO::write - write error in /x/table.f19: No such file\n"
        os.write(2, message)
        os.abort()


def new_ms_without_descriptors(_source: Path, workspace: Workspace) -> None:
    """A destructor of casacore aborts, as in pyuvdata's ``write_ms``."""
    from casacore.tables import default_ms  # noqa: PLC0415

    number = len(os.listdir("/proc/self/fd")) + 4
    with limited(resource.RLIMIT_NOFILE, number):
        default_ms(str(workspace.product / "x.ms"))


def import_without_memory(_source: Path, _workspace: Workspace) -> None:
    with no_more_memory():
        import sqlite3  # noqa: F401, PLC0415


def import_without_descriptors(_source: Path, _workspace: Workspace) -> None:
    with no_more_descriptors():
        import _sqlite3  # noqa: F401, PLC0415


def import_nothing(_source: Path, _workspace: Workspace) -> None:
    import no_such_module  # type: ignore[import-not-found]  # noqa: F401, PLC0415


def import_half_written(_source: Path, workspace: Workspace) -> None:
    (workspace.temporary / "half_written.py").write_text("def f(\n    x: int,\n")
    sys.path.append(str(workspace.temporary))
    import half_written  # type: ignore[import-not-found]  # noqa: F401, PLC0415


def import_casa(_source: Path, _workspace: Workspace) -> None:
    import casatasks  # noqa: F401, PLC0415


def open_without_descriptors(source: Path, _workspace: Workspace) -> None:
    with no_more_descriptors():
        source.open("rb")


def allocate(_source: Path, _workspace: Workspace) -> None:
    bytearray(1 << 60)


def start_without_processes(_source: Path, _workspace: Workspace) -> None:
    with no_more_processes():
        subprocess.run(["/bin/true"], check=True)


def thread_without_processes(_source: Path, _workspace: Workspace) -> None:
    with no_more_processes():
        threading.Thread(target=print).start()


def openmp_without_processes(_source: Path, _workspace: Workspace) -> None:
    """The library ends the process."""
    library = ctypes.CDLL("libgomp.so.1")
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
    with no_more_processes():
        library.GOMP_parallel(function, None, 4, 0)


def table_damaged(source: Path, _workspace: Workspace) -> None:
    from casacore.tables import table  # noqa: PLC0415

    (source / "table.dat").write_bytes(bytes(100))
    table(str(source), ack=False)


def table_without_descriptors(source: Path, _workspace: Workspace) -> None:
    from casacore.tables import table  # noqa: PLC0415

    with no_more_descriptors():
        table(str(source), ack=False)


def table_locked(source: Path, _workspace: Workspace) -> None:
    from casacore.tables import table  # noqa: PLC0415

    table(str(source), readonly=False, ack=False, lockoptions="permanent")


def table_made(source: Path, _workspace: Workspace) -> None:
    """Where nothing can be written."""
    from casacore.tables import makescacoldesc, maketabdesc, table  # noqa: PLC0415

    table(str(source), maketabdesc([makescacoldesc("TIME", 1.0)]), nrow=1, ack=False).close()


def file_locked_without_locks(source: Path, _workspace: Workspace) -> None:
    refuse_locks()
    with source.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)


def hdf5_opened_without_locks(source: Path, _workspace: Workspace) -> None:
    import h5py  # noqa: PLC0415

    refuse_locks()
    h5py.File(source.with_name("new.hdf5"), "w", locking=True)


def sqlite_opened_without_locks(source: Path, _workspace: Workspace) -> None:
    """SQLite says that the database is locked."""
    import sqlite3  # noqa: PLC0415

    refuse_locks()
    sqlite3.connect(source.with_name("new.sqlite3"), timeout=0.0).execute("create table t (a)")


def table_made_without_locks(source: Path, _workspace: Workspace) -> None:
    """casacore goes on after ENOLCK; as on Lustre."""
    refuse_locks(errno.ENOSYS)
    table_made(source.with_name("table"), _workspace)


def casa_on_full_disk(source: Path, _workspace: Workspace) -> None:
    from casatasks import tclean  # noqa: PLC0415

    fill_disk(source.parent, leave=200_000)
    name = source.parent / "image"
    tclean(vis=str(source), imagename=str(name), imsize=64, cell="24arcsec", niter=0)


def casa_without_memory(_source: Path, _workspace: Workspace) -> None:
    from casatools import image  # noqa: PLC0415

    made = image()
    made.fromshape("", [8_000, 8_000])
    with no_more_memory(64 << 20):
        made.getchunk()


FAILURES = {
    item.__name__: item
    for item in (
        *(kill, succeed_on_full_disk, write_too_much, allocate, open_without_descriptors),
        *(import_without_memory, import_without_descriptors, import_nothing, import_casa),
        import_half_written,
        *(start_without_processes, thread_without_processes, openmp_without_processes),
        *(file_locked_without_locks, hdf5_opened_without_locks),
        *(sqlite_opened_without_locks, table_made_without_locks),
        *(table_damaged, table_without_descriptors, table_locked, table_made),
        *(casa_on_full_disk, casa_without_memory, casa_writes_too_much),
        *(table_written_too_large, abort_at_limit, new_ms_without_descriptors),
    )
}
