"""What a mount without file locks does: the kernel refuses them to this process from now on."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import platform
import struct

_FCNTL, _FLOCK = {"x86_64": (72, 73), "aarch64": (25, 32)}[platform.machine()]
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER_MODE = 22, 38, 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _SECOND_ARGUMENT = 0, 24
"""Offsets in ``struct seccomp_data``."""
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


def refuse_locks(code: int = errno.ENOLCK) -> None:
    """Let ``flock`` and the locks of ``fcntl`` fail with this errno, by a filter of seccomp."""
    program = (  # each: code, instructions to skip if equal, if not, value
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_IF_EQUAL, 5, 0, _FLOCK),
        (_JUMP_IF_EQUAL, 0, 3, _FCNTL),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        (_JUMP_IF_EQUAL, 2, 0, fcntl.F_SETLK),
        (_JUMP_IF_EQUAL, 1, 0, fcntl.F_SETLKW),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | code),
    )
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in program))
    head = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(instructions))
    library = ctypes.CDLL(None, use_errno=True)
    assert library.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert library.prctl(_PR_SET_SECCOMP, _FILTER_MODE, head, 0, 0) == 0, ctypes.get_errno()
