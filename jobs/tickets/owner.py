"""Files in a mounted folder belong to its owner on the host, whoever that is."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def become_owner(folder: Path) -> None:
    """If this process is root, become the owner of a folder, or of the folder in which it will be created."""
    if os.getuid() != 0:
        return
    owner = next(place for place in (folder, *folder.parents) if place.exists()).stat()
    if owner.st_uid == 0:
        return
    try:
        pwd.getpwuid(owner.st_uid)
    except KeyError:
        # Hadoop, and so Spark, does not start for a user without an entry.
        with Path("/etc/passwd").open("a") as users:
            users.write(f"tickets:x:{owner.st_uid}:{owner.st_gid}::/tmp:/usr/sbin/nologin\n")
    os.setgroups([])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)
    os.environ["HOME"] = "/tmp"  # noqa: S108
