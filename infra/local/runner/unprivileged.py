"""Run a server that refuses to run as root. Started by root, it runs as `nobody`.

It gets one capability: to read folders that only root may enter, such as a checkout below /root.
"""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

from infra.local.runner.paths import make_private_folder
from infra.preflight import Finding

USER = "nobody"


def as_user() -> list[str]:
    """What to put before a command so that it does not run as root."""
    if os.getuid():
        return []
    capability = "-all,+dac_read_search"
    return [
        shutil.which("setpriv") or "setpriv", f"--reuid={USER}", f"--regid={pwd.getpwnam(USER).pw_gid}",
        "--clear-groups", f"--inh-caps={capability}", f"--ambient-caps={capability}", "--",
    ]  # fmt: skip


def make_folder(folder: Path) -> None:
    """Make a private folder that the server owns, and its parents."""
    make_private_folder(folder)
    if not os.getuid():
        shutil.chown(folder, USER)


def check(title: str) -> list[Finding]:
    """A fault if this machine cannot start a server without root's rights.

    Args:
        title: of the service.
    """
    if os.getuid() or shutil.which("setpriv"):
        return []
    text = f"{title} refuses to run as root. Install setpriv (Debian: apt install util-linux), or use another user."
    return [Finding(title, False, text)]
