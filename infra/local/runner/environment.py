"""The environment that every service gets: selected variables of this shell and the runner's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from infra.local.runner.paths import Paths
from jobs.inherited import make_environment

# In the environment of every process of a stack; its value is the state folder.
STACK_MARK = "DATASTREAM_STACK"


def make_base(paths: Paths) -> dict[str, str]:
    """Inherited variables, a PATH that starts with this interpreter's folder, and the mark of the stack."""
    inherited = make_environment()
    return {
        # A user id may have no home.
        "HOME": str(paths.state),
        **inherited,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited["PATH"]]),
        "TMPDIR": str(paths.tmp),
        STACK_MARK: str(paths.state),
        # setproctitle, which Airflow uses, would overwrite the environment in /proc that shows the mark.
        "SPT_NOENV": "1",
    }
