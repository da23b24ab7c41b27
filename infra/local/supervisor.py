"""supervisord: it starts the processes, restarts them when they crash, rotates their logs, and outlives the command."""

from __future__ import annotations

import http.client
import json
import re
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from supervisor.xmlrpc import Faults, SupervisorTransport

from infra.local import environment, wait
from infra.local.errors import ServiceFailedError
from infra.local.paths import Paths, private_folder, write_private
from infra.local.service import Process

LAUNCHER = Path(__file__).with_name("launch.py")
START_S = 15
# How long a process may take to stop before the supervisor kills it: a broker and a search node close their files;
# Airflow's scheduler would wait for running tasks, which are made to be killed at any time.
STOP_S = 30
STOP_AIRFLOW_S = 8

ALIVE = frozenset({"STARTING", "RUNNING"})
GONE = frozenset({"STOPPED", "EXITED", "FATAL"})


@dataclass(frozen=True)
class State:
    """What the supervisor knows of a process. `pid` is 0 and `uptime_s` 0 unless it runs."""

    name: str
    state: str  # STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL
    pid: int
    uptime_s: float


def _call(paths: Paths, method: str, *arguments: Any) -> Any:
    """One XML-RPC call over the socket.

    Raises:
        OSError: nobody listens there.
        xmlrpc.client.Fault: the supervisor refuses.
    """
    # The host name is never used: the transport goes to the socket.
    proxy = xmlrpc.client.ServerProxy("http://local", SupervisorTransport(None, None, f"unix://{paths.socket}"))
    with proxy:
        return getattr(proxy.supervisor, method)(*arguments)


def is_running(paths: Paths) -> bool:
    try:
        _call(paths, "getState")
    except (OSError, http.client.HTTPException):
        return False
    return True


def states(paths: Paths) -> dict[str, State]:
    """Every process by name; empty when no supervisor runs."""
    try:
        infos = _call(paths, "getAllProcessInfo")
    except (OSError, http.client.HTTPException):
        return {}
    return {
        info["name"]: State(
            name=info["name"],
            state=info["statename"],
            pid=info["pid"],
            uptime_s=info["now"] - info["start"] if info["pid"] else 0,
        )
        for info in infos
    }


def configuration(paths: Paths, names: Iterable[str]) -> str:
    """The supervisor's configuration for processes of these names; none starts by itself."""
    programs = "".join(_program(paths, name) for name in names)
    return f"""\
[unix_http_server]
file={_value(paths.socket)}
chmod=0600

[supervisord]
logfile={_value(paths.logs / "supervisord.log")}
logfile_maxbytes=5MB
logfile_backups=2
pidfile={_value(paths.run / "supervisord.pid")}
umask=077

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
{programs}"""


def _program(paths: Paths, name: str) -> str:
    command = [sys.executable, "-I", "-S", str(LAUNCHER), str(_launch_file(paths, name))]
    return f"""
[program:{name}]
command={_value(shlex.join(command))}
autostart=false
autorestart=true
startsecs=5
startretries=5
stopwaitsecs={STOP_AIRFLOW_S if name.startswith("airflow") else STOP_S}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={_value(log_file(paths, name))}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""


def _value(text: object) -> str:
    return str(text).replace("%", "%%")


def _launch_file(paths: Paths, name: str) -> Path:
    return paths.run / f"{name}.json"


def _configuration_file(paths: Paths) -> Path:
    return paths.run / "supervisord.conf"


def log_file(paths: Paths, name: str) -> Path:
    return paths.logs / f"{name}.log"


def last_lines(paths: Paths, name: str, count: int) -> list[str]:
    """The end of a process's log; empty when it never wrote one."""
    file = log_file(paths, name)
    if not file.exists():
        return []
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - 200 * 1024))
        return log.read().decode("utf-8", "replace").splitlines()[-count:]


def ending(paths: Paths, name: str) -> str | None:
    """How the process last ended, such as "it ended (exit status 1)"; None when it never did.

    From the supervisor's log: over XML-RPC it forgets the exit status of what ended within seconds of its start.
    """
    for line in reversed(last_lines(paths, "supervisord", 200)):
        found = re.search(rf"exited: {re.escape(name)} \((.*?)[;)]", line)
        if found:
            return f"it ended ({found[1]})"
    return None


def is_current(paths: Paths, names: Iterable[str]) -> bool:
    """Whether the running supervisor was started with the configuration that this version would write."""
    file = _configuration_file(paths)
    return file.exists() and file.read_text(encoding="utf-8") == configuration(paths, names)


def launch(paths: Paths, names: Iterable[str]) -> None:
    """Start supervisord in the background.

    Raises:
        ServiceFailedError: with what it printed or logged.
    """
    write_private(_configuration_file(paths), configuration(paths, names))
    result = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(_configuration_file(paths))],
        env=environment.base(paths), cwd=paths.state, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if result.returncode or not wait.until(lambda: is_running(paths), START_S):
        log = "\n".join([result.stdout + result.stderr, *last_lines(paths, "supervisord", 20)]).strip()
        raise ServiceFailedError(f"supervisord did not start (log: {log_file(paths, 'supervisord')}):\n{log}")


def is_unchanged(paths: Paths, process: Process) -> bool:
    """Whether the process was last started with these very settings."""
    file = _launch_file(paths, process.name)
    return file.exists() and json.loads(file.read_text(encoding="utf-8"))["fingerprint"] == process.fingerprint


def start(paths: Paths, process: Process) -> None:
    """Start a stopped process; its configuration files must be written.

    Raises:
        ServiceFailedError: it could not be started.
    """
    launch = {
        "fingerprint": process.fingerprint,
        "command": process.command,
        "environment": {**environment.base(paths), **process.environment},
        "folder": str(process.folder),
    }
    write_private(_launch_file(paths, process.name), json.dumps(launch, indent=1))
    try:
        _call(paths, "startProcess", process.name, False)
    except xmlrpc.client.Fault as fault:
        if fault.faultCode != Faults.ALREADY_STARTED:
            raise ServiceFailedError(f"{process.name} could not be started: {fault.faultString}") from fault


def write_files(process: Process) -> None:
    for path, text in process.files.items():
        private_folder(path.parent)
        write_private(path, text)


def stop(paths: Paths, names: Iterable[str]) -> None:
    """Stop these processes at the same time, and wait until they have ended.

    Raises:
        ServiceFailedError: one did not end in time.
    """
    wanted = set(names)
    for name in wanted:
        try:
            _call(paths, "stopProcess", name, False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.NOT_RUNNING:
                raise

    def alive() -> list[str]:
        return [state.name for state in states(paths).values() if state.name in wanted and state.state not in GONE]

    if not wait.until(lambda: not alive(), 2 * STOP_S):
        raise ServiceFailedError(f"Still running {2 * STOP_S} s after they were told to stop: {', '.join(alive())}.")


def shut_down(paths: Paths) -> None:
    """End supervisord and whatever still runs under it.

    Raises:
        ServiceFailedError: it did not end in time.
    """
    pid = _call(paths, "getPID")
    _call(paths, "shutdown")
    # Its socket goes before it does.
    if not wait.until(lambda: not psutil.pid_exists(pid), 2 * STOP_S):
        raise ServiceFailedError(f"supervisord (pid {pid}) did not end within {2 * STOP_S} s; see {paths.logs}.")


def uptime(state: State) -> str:
    return (
        time.strftime("%H:%M:%S", time.gmtime(state.uptime_s))
        if state.uptime_s < 86_400
        else f"{state.uptime_s / 86_400:.1f} d"
    )
