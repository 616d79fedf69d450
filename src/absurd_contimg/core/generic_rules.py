"""The failure rules that any program needs: the operating system's, Python's, the database's.

Order matters only between rules that match the same evidence: the first one wins.
"""

from __future__ import annotations

import errno
import re

from absurd_contimg.core.errors import CheckpointRefused
from absurd_contimg.core.failures import FailureKind, FailureRule, StepsChanged, SuspensionSwallowed
from absurd_contimg.core.row_values import UnreadableValueError

_PYTHON = "Python's own exceptions"
_POSIX = "POSIX errno"
_WAITS_FOR_MEMORY_MAX = 3
"""Memory that another process holds comes back; a step that needs too much never fits."""
_WAITS_FOR_IMPORT_MAX = 4
"""An installation that takes longer than these growing waits, 12 minutes, has failed.

A module of a package that is not installed at all waits as long: while a package is replaced, or an
environment is made again, it is not installed either, and nothing tells how long that takes.
"""
_IMPORT_AGAIN = (
    "Nothing while an installation or upgrade is under way: it is tried again for some minutes. "
    "Else install or mend what the message names (contimg doctor), restart the worker, then: "
    "contimg retry TASK"
)
_IMPORT = frozenset({"builtins.ImportError"})
_FREE_MEMORY = "Run fewer workers on this host, or give each step less to do."

NO_LOCKS_ADVICE = (
    "Mount the file system of the named path with file locks (NFS: lockd and rpc.statd run, or, "
    "where one host alone uses it, the option nolock or local_lock=all; Lustre: flock); waiting "
    "work then goes on. Where no path is named: contimg doctor tries each folder of the site."
)

_BY_ERRNO: tuple[tuple[str, FailureKind, str, str], ...] = (
    ("disk-full", FailureKind.RESOURCE, "ENOSPC EDQUOT",
     "Free space on the file system of the named path; waiting work then goes on."),
    ("descriptors", FailureKind.RESOURCE, "EMFILE ENFILE",
     "Raise the limit of open files (LimitNOFILE, at least 65536) or restart the worker."),
    ("read-only-disk", FailureKind.RESOURCE, "EROFS",
     "Mount the file system of the named path for writing; waiting work then goes on. One with "
     "errors is made read-only by the kernel: dmesg tells."),
    ("no-locks", FailureKind.RESOURCE, "ENOLCK", NO_LOCKS_ADVICE),
    ("path-missing", FailureKind.PERMANENT, "ENOENT ENOTDIR EISDIR ENAMETOOLONG",
     "Restore the named file or folder, then: contimg retry TASK"),
    ("permission", FailureKind.PERMANENT, "EACCES EPERM",
     "Correct owner or mode of the named path, then: contimg retry TASK"),
    ("cross-device", FailureKind.PERMANENT, "EXDEV",
     "Put the scratch folder on the file system of the output folder."),
    ("leftover", FailureKind.TRANSIENT, "ENOTEMPTY EEXIST",
     "Nothing: a new attempt has an empty scratch folder. If it comes again, report it."),
    ("busy", FailureKind.TRANSIENT, "EAGAIN EBUSY EINTR ETXTBSY EDEADLK ESTALE",
     "Nothing: another process holds the file; it is tried again."),
    ("input-output", FailureKind.TRANSIENT, "EIO",
     "If it comes again, look at the disk (dmesg)."),
)  # fmt: skip

PROCESSES_ADVICE = (
    "Raise the limit of processes and threads (ulimit -u; TasksMax of the unit, pids.max of the "
    "container), or end what uses it up (ps -eLf); waiting work then goes on."
)
REFUSED_THREAD = (
    r"can't start new thread|Thread creation failed|pthread_create failed|"
    r"resources for OMP thread|fork: (retry: )?Resource temporarily unavailable|[Cc]annot fork\b|"
    r"what\(\):\s+Resource temporarily unavailable"
)
"""Of Python, libgomp, OpenBLAS, Intel's OpenMP, shells and the C++ library."""


def _errnos(names: str) -> frozenset[int]:
    return frozenset(getattr(errno, name) for name in names.split())


GENERIC_RULES: tuple[FailureRule, ...] = (
    FailureRule(
        "processes",
        FailureKind.RESOURCE,
        PROCESSES_ADVICE,
        "observed, Python 3.11: a lock that is held has the same errno",
        errnos=_errnos("EAGAIN"),
        calls=frozenset({"fork"}),
    ),
    FailureRule(
        "threads",
        FailureKind.RESOURCE,
        PROCESSES_ADVICE,
        "observed, Python 3.11: a RuntimeError",
        text=re.compile(REFUSED_THREAD),
    ),
    *(
        FailureRule(rule_id, kind, advice, _POSIX, errnos=_errnos(names))
        for rule_id, kind, names, advice in _BY_ERRNO
    ),
    FailureRule(
        "no-memory",
        FailureKind.RESOURCE,
        _FREE_MEMORY,
        _POSIX,
        errnos=_errnos("ENOMEM"),
        exceptions=frozenset({"builtins.MemoryError"}),
        resource_waits_max=_WAITS_FOR_MEMORY_MAX,
    ),
    FailureRule(
        "connection",
        FailureKind.TRANSIENT,
        "If it comes again, look at the network and at the server.",
        _PYTHON,
        errnos=_errnos(
            "ECONNREFUSED ECONNRESET ECONNABORTED EPIPE ETIMEDOUT EHOSTUNREACH ENETUNREACH ENETDOWN"
        ),
        exceptions=frozenset({"builtins.ConnectionError"}),
    ),
    FailureRule(
        "database-constraint",
        FailureKind.PERMANENT,
        "Report it: the same row is refused again.",
        "Python's database API",
        exceptions=frozenset({"sqlite3.IntegrityError", "sqlalchemy.exc.IntegrityError"}),
    ),
    FailureRule(
        "database-locked",
        FailureKind.TRANSIENT,
        "Nothing: another process writes to the SQLite database; it is tried again.",
        "observed, sqlite3 3.40; docs/telescope.md, row 1",
        text=re.compile(r"database (table )?is locked|deadlock detected|could not serialize"),
    ),
    FailureRule(
        "database-schema",
        FailureKind.PERMANENT,
        "The statement names what its database lacks: correct it, or migrate that database.",
        "observed, sqlite3 3.40; docs/telescope.md, row 2",
        text=re.compile(r"no such (column|table)|(column|relation) \S+ does not exist"),
    ),
    FailureRule(
        "database-away",
        FailureKind.TRANSIENT,
        "Nothing: the connection to the database broke; it is tried again.",
        "observed, psycopg 3.2; docs/telescope.md, row 37",
        text=re.compile(r"server closed the connection|terminating connection|connection refused"),
    ),
    FailureRule(
        "steps-changed",
        FailureKind.PERMANENT,
        "Run the version of the handler that began the task, or spawn the task again.",
        "compared with the task's checkpoints",
        exceptions=frozenset({f"{StepsChanged.__module__}.{StepsChanged.__qualname__}"}),
        decisive=True,
    ),
    FailureRule(
        "suspension-swallowed",
        FailureKind.PERMANENT,
        "Let the handler pass on what sleeps and waits raise: except Exception, not except "
        "BaseException and not a bare except, and no step, sleep or event in finally, which runs "
        "at each sleep and wait too: compensate in except Exception. Then spawn the task again.",
        "raised when a handler goes on after a sleep or a wait has suspended it",
        exceptions=frozenset(
            {f"{SuspensionSwallowed.__module__}.{SuspensionSwallowed.__qualname__}"}
        ),
        decisive=True,
    ),
    FailureRule(
        "unreadable-value",
        FailureKind.PERMANENT,
        "Another client has stored what this program cannot read: spawn the task again without it.",
        "observed, psycopg 3.2 and Python 3.11",
        exceptions=frozenset(
            {f"{UnreadableValueError.__module__}.{UnreadableValueError.__qualname__}"}
        ),
        decisive=True,
    ),
    FailureRule(
        "checkpoint-refused",
        FailureKind.UNKNOWN,
        "The message names a trigger, constraint or change that is not Absurd's: remove it, then: "
        "contimg retry TASK",
        "observed, Postgres 18: a trigger on a table of checkpoints",
        exceptions=frozenset({f"{CheckpointRefused.__module__}.{CheckpointRefused.__qualname__}"}),
        decisive=True,
    ),
    FailureRule(
        "timeout",
        FailureKind.TRANSIENT,
        "If it comes again, look at what was waited for.",
        _PYTHON,
        exceptions=frozenset({"builtins.TimeoutError"}),
    ),
    FailureRule(
        "import-memory",
        FailureKind.RESOURCE,
        _FREE_MEMORY,
        "observed, Python 3.11 and glibc: a library that is loaded when the memory is used up",
        exceptions=_IMPORT,
        text=re.compile(
            r"failed to map segment|[Cc]annot allocate|cannot create shared object|"
            r"raises MemoryError"  # the error has no memory for its own text
        ),
        resource_waits_max=_WAITS_FOR_MEMORY_MAX,
    ),
    FailureRule(
        "import-descriptors",
        FailureKind.RESOURCE,
        "Raise the limit of open files (LimitNOFILE, at least 65536) or restart the worker.",
        "observed, Python 3.11 and glibc: a library that is loaded late",
        exceptions=_IMPORT,
        text=re.compile(r"Too many open files"),
    ),
    FailureRule(
        "import-syntax",
        FailureKind.RESOURCE,
        _IMPORT_AGAIN,
        "observed, Python 3.11: a module that is half written while its package is replaced",
        exceptions=frozenset({"builtins.SyntaxError"}),
        text=re.compile(r"\([^()<>]+\.py, line \d+\)"),  # a text that is evaluated has no file
        resource_waits_max=_WAITS_FOR_IMPORT_MAX,
    ),
    FailureRule(
        "wrong-value",
        FailureKind.PERMANENT,
        "Correct the parameter or setting that the message names.",
        _PYTHON,
        exceptions=frozenset(
            {
                *("builtins.ValueError", "builtins.TypeError", "builtins.LookupError"),
                *("builtins.AttributeError", "builtins.NameError"),
                *("builtins.AssertionError", "builtins.ArithmeticError", "builtins.SyntaxError"),
                *("builtins.NotImplementedError", "builtins.RecursionError"),
            }
        ),
        unless=_IMPORT,
    ),
    FailureRule(
        "import-failed",
        FailureKind.RESOURCE,
        _IMPORT_AGAIN,
        "observed: a package that is being replaced; a library that finds no memory is also "
        "reported as a missing module",
        text=re.compile(
            r"No module named|cannot import name|cannot open shared object|can't open file"
        ),
        late_exceptions=_IMPORT,
        resource_waits_max=_WAITS_FOR_IMPORT_MAX,
    ),
)
