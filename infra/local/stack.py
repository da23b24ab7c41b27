"""Start, watch, stop and delete the services of one stack. `up` and `down` are what tests and the command line call."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape

from infra.local import (
    airflow,
    elasticsearch,
    gcs,
    jars,
    kafka,
    paths,
    ports,
    preflight,
    processes,
    supervisor,
    wait,
)
from infra.local.errors import BusyError, ServiceFailedError
from infra.local.paths import Paths, private_folder
from infra.local.service import Process, Service
from infra.preflight import demand
from jobs.errors import ConfigurationError
from jobs.settings import LOOPBACK, Settings

READY_S = 180.0
LOCK_S = 300.0
LOG_LINES = 20
NAMES = (kafka.NAME, elasticsearch.NAME, gcs.NAME, airflow.NAME)
QUIET = Console(quiet=True)


@dataclass(frozen=True)
class Status:
    """One process: `fault` is why its service is not healthy, or None."""

    service: Service
    state: supervisor.State
    fault: str | None

    @property
    def healthy(self) -> bool:
        return self.state.state in supervisor.ALIVE and self.fault is None


def all_services(settings: Settings) -> list[Service]:
    return [module.service(settings) for module in (kafka, elasticsearch, gcs, airflow)]


def chosen(settings: Settings, only: Collection[str] = ()) -> list[Service]:
    """The services named in `only`; when it is empty, all that the settings expect on this machine.

    Raises:
        ConfigurationError: there is no service of that name.
    """
    unknown = sorted(set(only) - set(NAMES))
    if unknown:
        raise ConfigurationError(f"No service is called {', '.join(unknown)}: there are {', '.join(NAMES)}.")
    elsewhere = set()
    if not _is_here(settings.bootstrap_servers, settings.kafka_port):
        elsewhere.add(kafka.NAME)
    if not _is_here(settings.es_url, settings.elasticsearch_port):
        elsewhere.add(elasticsearch.NAME)
    if not _is_here(settings.gcs_endpoint or "", settings.gcs_port):
        elsewhere.add(gcs.NAME)
    wanted = set(only) or set(NAMES) - elsewhere
    return [service for service in all_services(settings) if service.name in wanted]


def _is_here(address: str, port: int) -> bool:
    return address.rpartition("//")[2].rstrip("/") in {f"{LOOPBACK}:{port}", f"localhost:{port}"}


def up(
    settings: Settings, only: Collection[str] = (), console: Console = QUIET, ready_s: float = READY_S
) -> list[Service]:
    """Start what is not running yet, wait until every chosen service is ready; returns the services that it started.

    Harmless to repeat: what runs with these settings is left alone, what died is brought back, what was started with
    other settings is restarted. When it fails or is interrupted, it stops what it started.

    Args:
        only: kafka, elasticsearch, gcs, airflow; empty for all.
        ready_s: seconds that each service has to become ready.

    Raises:
        PreflightError: this machine or a setting does not allow it; nothing was downloaded or started.
        DownloadError: jars are missing and cannot be had.
        ServiceFailedError: a service ended or did not become ready; the text has its last log lines.
        BusyError: another command has been busy with this stack for five minutes.
    """
    where = paths.of(settings)
    services = chosen(settings, only)
    demand(preflight.placement(where))
    with _lock(where, console):
        pending = [service for service in services if not _is_up(where, service)]
        demand(preflight.findings(settings, pending))
        jars.fetch({name for service in pending for name in service.jars}, console.print)
        _start_supervisor(where, console)
        starter = _Starter(where, console, ready_s)
        try:
            starter.run(services)
        except BaseException:
            _give_up(where, starter, console)
            raise
        return starter.started


def _is_up(where: Paths, service: Service) -> bool:
    states = supervisor.states(where)
    return all(name in states and states[name].state in supervisor.ALIVE for name in service.process_names)


def _start_supervisor(where: Paths, console: Console) -> None:
    names = [name for service in _process_names() for name in service]
    if supervisor.is_running(where):
        if supervisor.is_current(where, names):
            return
        console.print("the supervisor's configuration has changed: restarting everything")
        _stop_all(where)
    _end_leftovers(where, console)
    for folder in (where.state, where.run, where.logs, where.secrets, where.tmp):
        private_folder(folder)
    for file in where.tmp.iterdir():
        # Native libraries that a killed JVM unpacked.
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    for name in ("kafka-controller", "elasticsearch-transport"):
        ports.choose_again(where, name)
    supervisor.launch(where, names)


def _process_names() -> list[tuple[str, ...]]:
    return [(kafka.NAME,), (elasticsearch.NAME,), (gcs.NAME,), tuple(f"airflow-{name}" for name in airflow.COMPONENTS)]


def _end_leftovers(where: Paths, console: Console) -> None:
    leftovers = processes.of(where)
    if leftovers:
        console.print(f"ending {len(leftovers)} processes whose parent was killed")
        processes.end(leftovers)


def _give_up(where: Paths, starter: _Starter, console: Console) -> None:
    starter.cancelled.set()
    names = [name for service in starter.started for name in service.process_names]
    if names:
        console.print(f"stopping what this command started: {', '.join(service.name for service in starter.started)}")
        supervisor.stop(where, names)
    if all(state.state in supervisor.GONE for state in supervisor.states(where).values()):
        supervisor.shut_down(where)


class _CancelledError(ServiceFailedError):
    """Another service failed, or the user interrupted."""


class _Starter:
    """One run of `up`: what it started, and whether it was cancelled."""

    def __init__(self, where: Paths, console: Console, ready_s: float) -> None:
        self.where = where
        self.console = console
        self.ready_s = ready_s
        self.started: list[Service] = []
        self.cancelled = threading.Event()

    def run(self, services: list[Service]) -> None:
        """Start the services that others wait for side by side, then the others."""
        names = {service.name for service in services}
        first = [service for service in services if not names & set(service.after)]
        rest = [service for service in services if names & set(service.after)]
        for wave in (first, rest):
            self._wave(wave)

    def _wave(self, services: list[Service]) -> None:
        if not services:
            return
        titles = ", ".join(service.title for service in services)
        with self.console.status(f"waiting for {titles}"), ThreadPoolExecutor(len(services)) as pool:
            futures: list[Future[None]] = [pool.submit(self._start, service) for service in services]
            try:
                done, _ = wait_for(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                self.cancelled.set()
                raise
            if any(future.exception() for future in done):
                self.cancelled.set()
        faults = [fault for fault in map(Future.exception, futures) if fault]
        # The cause first: what was cancelled was so because of it.
        for fault in sorted(faults, key=lambda fault: isinstance(fault, _CancelledError)):
            raise fault

    def _start(self, service: Service) -> None:
        began = time.monotonic()
        built = service.build()
        states = supervisor.states(self.where)
        stale = [
            process
            for process in built
            if states[process.name].state not in supervisor.ALIVE or not supervisor.is_unchanged(self.where, process)
        ]
        if not stale:
            self._await(service)
            service.finish()
            self.console.print(f"[green]✓[/] {service.title} is already running at {service.url}")
            return
        self.started.append(service)
        self._launch(service, stale, states)
        self._await(service)
        service.finish()
        self.console.print(f"[green]✓[/] {service.title} is ready at {service.url} ({time.monotonic() - began:.1f} s)")

    def _launch(self, service: Service, stale: list[Process], states: dict[str, supervisor.State]) -> None:
        alive = [process.name for process in stale if states[process.name].state not in supervisor.GONE]
        if alive:
            supervisor.stop(self.where, alive)
        for process in stale:
            process.folder.mkdir(parents=True, exist_ok=True)
            supervisor.write_files(process)
        service.prepare()
        if self.cancelled.is_set():
            raise _CancelledError(f"Starting {service.title} was cancelled.")
        for process in stale:
            supervisor.start(self.where, process)

    def _await(self, service: Service) -> None:
        """
        Raises:
            ServiceFailedError: one of its processes ended, or it is not ready within `ready_s` seconds.
        """
        pids = {name: state.pid for name, state in supervisor.states(self.where).items() if state.pid}
        fault: str | None = "not asked yet"

        def settled() -> bool:
            nonlocal fault
            if self.cancelled.is_set():
                raise _CancelledError(f"Waiting for {service.title} was cancelled.")
            states = supervisor.states(self.where)
            for name in service.process_names:
                state = states[name]
                if state.state not in supervisor.ALIVE or state.pid != pids.setdefault(name, state.pid):
                    raise self._failure(service, name, supervisor.ending(self.where, name) or f"it is {state.state}")
            fault = service.fault()
            return fault is None

        if not wait.until(settled, self.ready_s, every_s=0.2):
            raise self._failure(service, service.process_names[0], f"not ready after {self.ready_s:.0f} s: {fault}")

    def _failure(self, service: Service, name: str, why: str) -> ServiceFailedError:
        log = supervisor.log_file(self.where, name)
        lines = supervisor.last_lines(self.where, name, LOG_LINES)
        text = "\n".join(f"  {line}" for line in lines) or "  (empty)"
        return ServiceFailedError(f"{service.title} ({name}): {why}. The end of {log}:\n{text}")


def status(settings: Settings, only: Collection[str] = ()) -> list[Status]:
    """Every process of the chosen services; empty when the stack is not running."""
    states = supervisor.states(paths.of(settings))
    found = []
    for service in chosen(settings, only) if states else []:
        mine = [states[name] for name in service.process_names if name in states]
        fault = service.fault() if any(state.pid for state in mine) else "not running"
        found += [Status(service, state, fault) for state in mine]
    return found


def down(settings: Settings, console: Console = QUIET) -> bool:
    """Stop every service of this stack and the supervisor; returns whether anything was running.

    Raises:
        ServiceFailedError: something did not end in time.
        BusyError: another command has been busy with this stack for five minutes.
    """
    where = paths.of(settings)
    if not where.state.exists():
        return False
    with _lock(where, console):
        return _down(where, console)


def _down(where: Paths, console: Console) -> bool:
    running = supervisor.is_running(where)
    if running:
        with console.status("stopping"):
            _stop_all(where)
    leftovers = processes.of(where)
    _end_leftovers(where, console)
    return running or bool(leftovers)


def _stop_all(where: Paths) -> None:
    """Airflow first: its tasks still want the others; then the rest at the same time."""
    alive = [state.name for state in supervisor.states(where).values() if state.state not in supervisor.GONE]
    first = [name for name in alive if name.startswith(airflow.NAME)]
    supervisor.stop(where, first)
    supervisor.stop(where, set(alive) - set(first))
    supervisor.shut_down(where)


def clean(settings: Settings, console: Console = QUIET) -> None:
    """Stop everything and delete data, logs and generated files; the jars stay in their cache.

    Only what this project makes is deleted: a DATASTREAM_STATE that names a folder with other things does no harm.
    """
    where = paths.of(settings)
    if not where.state.exists():
        return
    with _lock(where, console):
        _down(where, console)
        for folder in (
            where.run, where.logs, where.secrets, where.tmp, where.kafka, where.elasticsearch, where.gcs, where.airflow,
            where.state / "staging",
        ):  # fmt: skip
            if folder.exists():
                shutil.rmtree(folder)
        if not any(where.state.iterdir()):
            where.state.rmdir()


@contextmanager
def _lock(where: Paths, console: Console) -> Iterator[None]:
    """One command at a time per state folder; the system lets go of it when the command ends, however it ends.

    Raises:
        BusyError: another command did not finish within LOCK_S seconds.
    """
    where.state.mkdir(parents=True, exist_ok=True)
    handle = _try_lock(where)
    if handle is None:
        console.print("another command is starting or stopping this stack: waiting for it")

        def free() -> bool:
            nonlocal handle
            handle = _try_lock(where)
            return handle is not None

        if not wait.until(free, LOCK_S):
            raise BusyError(
                f"Another command has been starting or stopping the stack in {escape(str(where.state))} for "
                f"{LOCK_S:.0f} s. Wait for it or end it, then try again."
            )
    assert handle is not None  # noqa: S101 (for the type checker: free() set it)
    try:
        yield
    finally:
        os.close(handle)


def _try_lock(where: Paths) -> int | None:
    """The folder itself is locked, so that nothing is left over; None when it is taken."""
    where.state.mkdir(parents=True, exist_ok=True)
    handle = os.open(where.state, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    if not where.state.exists() or where.state.stat().st_ino != os.fstat(handle).st_ino:
        # `clean` deleted the folder between the two calls.
        os.close(handle)
        return None
    return handle
