"""The failure rules that any program needs: the operating system's, Python's, the database's.

Order matters only between rules that match the same evidence: the first one wins.
"""

from __future__ import annotations

import errno
import re

from absurd_contimg.core.failures import FailureKind, FailureRule, StepsChanged


def _errnos(*names: str) -> frozenset[int]:
    return frozenset(getattr(errno, name) for name in names)


_PYTHON = "Python's own exceptions"
_POSIX = "POSIX errno"
_WAITS_FOR_MEMORY_MAX = 3
"""Memory that another process holds comes back; a step that needs too much never fits."""
_FREE_MEMORY = "Run fewer workers on this host, or give each step less to do."

GENERIC_RULES: tuple[FailureRule, ...] = (
    FailureRule(
        "disk-full",
        FailureKind.RESOURCE,
        "Free space on the file system of the named path; waiting work then goes on.",
        _POSIX,
        errnos=_errnos("ENOSPC", "EDQUOT"),
    ),
    FailureRule(
        "descriptors",
        FailureKind.RESOURCE,
        "Raise the limit of open files (LimitNOFILE, at least 65536) or restart the worker.",
        _POSIX,
        errnos=_errnos("EMFILE", "ENFILE"),
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
        "path-missing",
        FailureKind.PERMANENT,
        "Restore the named file or folder, then: contimg retry TASK",
        _POSIX,
        errnos=_errnos("ENOENT", "ENOTDIR", "EISDIR", "ENAMETOOLONG"),
    ),
    FailureRule(
        "permission",
        FailureKind.PERMANENT,
        "Correct owner or mode of the named path (or the mount), then: contimg retry TASK",
        _POSIX,
        errnos=_errnos("EACCES", "EPERM", "EROFS"),
    ),
    FailureRule(
        "cross-device",
        FailureKind.PERMANENT,
        "Put the scratch folder on the file system of the output folder.",
        _POSIX,
        errnos=_errnos("EXDEV"),
    ),
    FailureRule(
        "leftover",
        FailureKind.TRANSIENT,
        "Nothing: a new attempt has an empty scratch folder. If it comes again, report it.",
        _POSIX,
        errnos=_errnos("ENOTEMPTY", "EEXIST"),
    ),
    FailureRule(
        "busy",
        FailureKind.TRANSIENT,
        "Nothing: another process holds the file; it is tried again.",
        _POSIX,
        errnos=_errnos("EAGAIN", "EBUSY", "EINTR", "ETXTBSY", "EDEADLK", "ESTALE"),
    ),
    FailureRule(
        "input-output",
        FailureKind.TRANSIENT,
        "If it comes again, look at the disk (dmesg).",
        _POSIX,
        errnos=_errnos("EIO"),
    ),
    FailureRule(
        "connection",
        FailureKind.TRANSIENT,
        "If it comes again, look at the network and at the server.",
        _PYTHON,
        errnos=_errnos(
            *("ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE", "ETIMEDOUT"),
            *("EHOSTUNREACH", "ENETUNREACH", "ENETDOWN"),
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
        "Migrate the database (contimg db init), or remove one of another version.",
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
        exceptions=frozenset({"builtins.ImportError"}),
        text=re.compile(r"failed to map segment|[Cc]annot allocate|cannot create shared object"),
        resource_waits_max=_WAITS_FOR_MEMORY_MAX,
    ),
    FailureRule(
        "import-descriptors",
        FailureKind.RESOURCE,
        "Raise the limit of open files (LimitNOFILE, at least 65536) or restart the worker.",
        "observed, Python 3.11 and glibc: a library that is loaded late",
        exceptions=frozenset({"builtins.ImportError"}),
        text=re.compile(r"Too many open files"),
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
    ),
    FailureRule(
        "import-failed",
        FailureKind.UNKNOWN,
        "If it comes again, install what is missing (contimg doctor) and restart the worker.",
        "observed: a library that finds no memory is also reported as a missing module",
        text=re.compile(r"No module named|cannot import name|cannot open shared object"),
    ),
)
