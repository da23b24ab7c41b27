"""Become the service that a launch file describes: `python -I -S launch.py FILE`.

The supervisor's own configuration cannot carry JSON or percent signs safely, so each service's command, environment and
folder are in a file of their own. Standard library only: this runs at every (re)start of every service.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

MOST_FILES = 65_536


def main(file: str) -> None:
    launch = json.loads(Path(file).read_text(encoding="utf-8"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft < most:
        # A broker and a search node hold many files; the usual soft limit of 1024 is for interactive programs.
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    os.chdir(launch["folder"])
    os.execve(launch["command"][0], launch["command"], launch["environment"])  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main(sys.argv[1])
