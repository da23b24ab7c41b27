"""The environment that every service gets: selected variables of this shell and the runner's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from infra.local.runner.paths import Paths
from jobs.environments import STACK_MARK, read_inherited_variables
from jobs.settings import LOOPBACK


def make_base(paths: Paths) -> dict[str, str]:
    """Inherited variables, a PATH that starts with this interpreter's folder, and the mark of the stack."""
    inherited = read_inherited_variables()
    here = str(Path(sys.executable).parent)
    # Services talk to each other on the loopback, never through a proxy.
    direct = ",".join(filter(None, [inherited.get("no_proxy") or inherited.get("NO_PROXY"), LOOPBACK, "localhost"]))
    return {
        "LANG": "C.UTF-8",
        **inherited,
        "PATH": os.pathsep.join([here, inherited.get("PATH") or os.defpath]),
        "TMPDIR": str(paths.tmp),
        "NO_PROXY": direct,
        "no_proxy": direct,
        STACK_MARK: str(paths.state),
        # setproctitle, which Airflow uses, would overwrite the environment in /proc that shows the mark.
        "SPT_NOENV": "1",
    }
