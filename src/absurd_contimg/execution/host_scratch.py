"""The part of scratch that belongs to this host.

Scratch lies on the file system of the output, which several hosts may share. Whether the owner of a
folder lives is known by a lock, and not every shared file system honours locks between hosts (NFS
with ``nolock`` does not). So each host has a folder of its own in scratch: it locks, looks and
removes nowhere else.
"""

from __future__ import annotations

import hashlib
import re
import socket
from contextlib import suppress
from pathlib import Path

_MACHINE_ID = Path("/etc/machine-id")
_LABEL_MAX = 64


def host_name() -> str:
    """The name of this host, and a part that tells apart two hosts of one name.

    The same after a reboot; another one when the name or ``/etc/machine-id`` is changed. Copies of
    a machine have one machine id, containers of an image may, so both count.
    """
    name, machine = socket.gethostname(), ""
    with suppress(OSError):
        machine = _MACHINE_ID.read_text(errors="replace").strip()
    label = re.sub(r"[^A-Za-z0-9-]", "-", name.partition(".")[0])[:_LABEL_MAX].strip("-")
    digest = hashlib.blake2b(f"{name}\n{machine}".encode(errors="replace"), digest_size=3)
    return f"{label or 'host'}-{digest.hexdigest()}"


def host_scratch(scratch_dir: Path) -> Path:
    """The folder of this host in scratch; makes nothing."""
    return scratch_dir / host_name()
