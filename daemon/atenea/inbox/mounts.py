"""What is mounted: which file systems other machines write to, unseen by this kernel."""

from __future__ import annotations

import os
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
_REMOTE = frozenset({"9p", "afs", "ceph", "cifs", "ncpfs", "nfs", "nfs4", "smb3", "smbfs", "vboxsf", "virtiofs"})


def file_system(device: int) -> str:
    """The type of the file system with this number; empty when unknown."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        mounts = MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for mount in mounts:
        fields, _, types = mount.partition(" - ")
        if fields.split(" ")[2] == wanted:
            return types.split(" ")[0]
    return ""


def is_remote(kind: str) -> bool:
    """Whether this kernel is not told what others do on a file system of this type."""
    return kind in _REMOTE or kind.startswith("fuse")
