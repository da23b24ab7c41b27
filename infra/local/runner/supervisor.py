"""supervisord: starts processes, restarts them after a crash, rotates their logs, and outlives the command."""

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

from infra.local.runner import environment, wait
from infra.local.runner.errors import ServiceFailedError
from infra.local.runner.paths import Paths, make_private_folder, write_private
from infra.local.runner.service import Process, Service

LAUNCHER = Path(__file__).with_name("launch.py")
START_S = 15
# Longer than any `Service.stop_s`: supervisord kills a process after that.
STOPPED_S = 60

ALIVE = frozenset({"STARTING", "RUNNING"})
GONE = frozenset({"STOPPED", "EXITED", "FATAL"})


@dataclass(frozen=True)
class State:
    """What the supervisor knows about a process. `pid` and `uptime_s` are 0 unless it runs."""

    name: str
    state: str  # STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL
    pid: int
    uptime_s: float
    was_started: bool


def _call(paths: Paths, method: str, *arguments: Any) -> Any:
    """One XML-RPC call over the socket.

    Raises:
        OSError: no supervisor listens there.
        xmlrpc.client.Fault: the supervisor refuses.
    """
    # The transport ignores the host name and connects to the socket.
    proxy = xmlrpc.client.ServerProxy("http://local", SupervisorTransport(None, None, f"unix://{paths.socket}"))
    with proxy:
        return getattr(proxy.supervisor, method)(*arguments)


def is_running(paths: Paths) -> bool:
    try:
        _call(paths, "getState")
    except (OSError, http.client.HTTPException):
        return False
    return True


def read_states(paths: Paths) -> dict[str, State]:
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
            was_started=info["start"] > 0,
        )
        for info in infos
    }


def _configuration(paths: Paths, services: Iterable[Service]) -> str:
    """The supervisor's configuration for these services. No process starts with the supervisor."""
    programs = "".join(_program(paths, name, service) for service in services for name in service.process_names)
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


def _program(paths: Paths, name: str, service: Service) -> str:
    command = [sys.executable, "-I", "-S", str(LAUNCHER), str(_launch_file(paths, name))]
    return f"""
[program:{name}]
command={_value(shlex.join(command))}
autostart=false
autorestart=true
startsecs=5
startretries=5
stopsignal={service.stop_signal}
stopwaitsecs={service.stop_s}
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


def read_last_lines(paths: Paths, name: str, count: int) -> list[str]:
    """The end of a process's log; empty when there is no log."""
    file = log_file(paths, name)
    if not file.exists():
        return []
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - 200 * 1024))
        return log.read().decode("utf-8", "replace").splitlines()[-count:]


def find_ending(paths: Paths, name: str) -> str | None:
    """How the process last ended, for example "it ended (exit status 1)"; None if it never did.

    From the supervisor's log: its XML-RPC loses the exit status of a process that ended within seconds of its start.
    """
    for line in reversed(read_last_lines(paths, "supervisord", 200)):
        match = re.search(rf"exited: {re.escape(name)} \((.*?)[;)]", line)
        if match:
            return f"it ended ({match[1]})"
    return None


def is_current(paths: Paths, services: Iterable[Service]) -> bool:
    """Whether the running supervisor was started with the configuration that this version would write."""
    file = _configuration_file(paths)
    return file.exists() and file.read_text(encoding="utf-8") == _configuration(paths, services)


def launch(paths: Paths, services: Iterable[Service]) -> None:
    """Start supervisord in the background.

    Raises:
        ServiceFailedError: with what it printed or logged.
    """
    write_private(_configuration_file(paths), _configuration(paths, services))
    result = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", str(_configuration_file(paths))],
        env=environment.make_base(paths), cwd=paths.state, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if result.returncode or not wait.until(lambda: is_running(paths), START_S):
        log = "\n".join([result.stdout + result.stderr, *read_last_lines(paths, "supervisord", 20)]).strip()
        raise ServiceFailedError(f"supervisord did not start (log: {log_file(paths, 'supervisord')}):\n{log}")


def is_unchanged(paths: Paths, process: Process) -> bool:
    """Whether the process was last started with the same settings."""
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
        "environment": {**environment.make_base(paths), **process.environment},
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
        make_private_folder(path.parent)
        write_private(path, text)


def stop(paths: Paths, names: Iterable[str]) -> None:
    """Stop these processes in parallel, and wait until they have ended.

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
        return [state.name for state in read_states(paths).values() if state.name in wanted and state.state not in GONE]

    if not wait.until(lambda: not alive(), STOPPED_S):
        raise ServiceFailedError(f"Still running {STOPPED_S} s after the request to stop: {', '.join(alive())}.")


def shut_down(paths: Paths) -> None:
    """End supervisord and all that still runs under it.

    Raises:
        ServiceFailedError: it did not end in time.
    """
    pid = _call(paths, "getPID")
    _call(paths, "shutdown")
    # It closes its socket before it ends.
    if not wait.until(lambda: not psutil.pid_exists(pid), STOPPED_S):
        raise ServiceFailedError(f"supervisord (pid {pid}) did not end within {STOPPED_S} s. Its logs: {paths.logs}")


def format_uptime(state: State) -> str:
    return (
        time.strftime("%H:%M:%S", time.gmtime(state.uptime_s))
        if state.uptime_s < 86_400
        else f"{state.uptime_s / 86_400:.1f} d"
    )
