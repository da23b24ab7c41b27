"""Run a command that ends with its parent: `python -I -S tether.py COMMAND…`.

Standard input is a pipe from the parent. It closes when the parent ends, even after SIGKILL. Then the command and all
its children get SIGTERM, and SIGKILL after GRACE_S seconds. Uses the standard library only, to start in 10 ms.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

GRACE_S = 3.0


def main(command: list[str]) -> int:
    """Run the command; returns its exit code, or 128 + the signal's number if a signal ended it."""
    # A handler and not SIG_IGN, because the command would inherit SIG_IGN.
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_starter, args=[child], daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _end_with_starter(child: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGTERM)
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
