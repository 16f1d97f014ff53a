"""The file system of a store: SQLite's WAL needs memory that all who use the file share, which a network has not."""

from __future__ import annotations

import os
import re
from pathlib import Path

_OVER_A_NETWORK = """
    9p afs beegfs ceph cifs davfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs smb3 smbfs
    fuse.ceph fuse.davfs2 fuse.gcsfuse fuse.glusterfs fuse.goofys fuse.juicefs fuse.mount-s3 fuse.rclone fuse.s3fs
    fuse.sshfs
"""
NETWORK = frozenset(_OVER_A_NETWORK.split())
"""The types that are refused."""

MOUNTS = Path("/proc/self/mountinfo")


def of(path: Path, mounts: Path = MOUNTS) -> str | None:
    """The type of the file system that ``path`` is on, such as "ext4"; None where the kernel does not tell.

    Args:
        path: resolved; it need not be there.
        mounts: the kernel's list of mounts.
    """
    try:
        lines = mounts.read_bytes().splitlines()
    except OSError:  # not Linux
        return None
    place = os.fsencode(path)
    best, kind = b"", None
    for line in lines:
        before, _, after = line.partition(b" - ")
        point = _unescaped(before.split(b" ")[4])
        inside = place == point or place.startswith(point.rstrip(b"/") + b"/")
        if inside and len(point) >= len(best):  # of two on one place the later one is seen
            best, kind = point, os.fsdecode(after.split(b" ")[0])
    return kind


def _unescaped(point: bytes) -> bytes:
    r"""A place as it is: the kernel writes a blank as ``\040``."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), point) if b"\\" in point else point
