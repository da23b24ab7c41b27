"""Replace this process with the service that a launch file describes: `python -I -S launch.py FILE`.

supervisord's configuration cannot carry JSON or percent signs safely, so command, environment and folder of a process
are in a file. Standard library only: this runs at every start and restart of every process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

MAX_OPEN_FILES = 65_536


def main(file: str) -> None:
    launch = json.loads(Path(file).read_text(encoding="utf-8"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft < limit:
        # Brokers and search nodes keep many files open; the usual soft limit is 1024.
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    os.chdir(launch["folder"])
    os.execve(launch["command"][0], launch["command"], launch["environment"])  # noqa: S606 (no shell is wanted)


if __name__ == "__main__":
    main(sys.argv[1])
