"""Starts services in the order of `Service.after`, and waits until they are ready."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from graphlib import TopologicalSorter

from rich.console import Console

from infra.local.runner import supervisor, wait
from infra.local.runner.errors import ServiceFailedError
from infra.local.runner.health import find_fault
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from jobs.settings import Settings

LOG_LINES = 20


def sort_into_waves(services: Sequence[Service]) -> list[list[Service]]:
    """Groups of services in the order in which they start: each depends on earlier groups only."""
    by_name = {service.name: service for service in services}
    sorter = TopologicalSorter({service.name: by_name.keys() & set(service.after) for service in services})
    sorter.prepare()
    waves = []
    while sorter.is_active():
        names = sorter.get_ready()
        waves.append([service for service in services if service.name in names])
        sorter.done(*names)
    return waves


class _CancelledError(ServiceFailedError):
    """Another service failed, or the user interrupted."""


class Start:
    """One start of services. `started` are those that it has started itself."""

    def __init__(self, settings: Settings, console: Console, ready_s: float) -> None:
        self.started: list[Service] = []
        self._settings = settings
        self._paths = Paths(settings.datastream_state)
        self._console = console
        self._ready_s = ready_s
        self._cancelled = threading.Event()

    def run(self, services: Sequence[Service]) -> None:
        """Start the services that do not run with these settings; wait until all are ready.

        Raises:
            ServiceFailedError: a service ended or did not become ready.
        """
        for wave in sort_into_waves(services):
            self._start_wave(wave)

    def _start_wave(self, services: list[Service]) -> None:
        titles = ", ".join(service.title for service in services)
        with self._console.status(f"waiting for {titles}"), ThreadPoolExecutor(len(services)) as pool:
            futures: list[Future[None]] = [pool.submit(self._start, service) for service in services]
            try:
                done, _ = wait_for(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                self._cancelled.set()
                raise
            if any(future.exception() for future in done):
                self._cancelled.set()
        faults = [fault for fault in map(Future.exception, futures) if fault]
        # The cause first, not what was cancelled because of it.
        for fault in sorted(faults, key=lambda fault: isinstance(fault, _CancelledError)):
            raise fault

    def _start(self, service: Service) -> None:
        began = time.monotonic()
        built = service.build(self._settings)
        states = supervisor.read_states(self._paths)
        stale = [
            process
            for process in built
            if states[process.name].state not in supervisor.ALIVE or not supervisor.is_unchanged(self._paths, process)
        ]
        if stale:
            self.started.append(service)
            self._launch(service, stale, states)
        self._await(service)
        service.finish(self._settings)
        url = service.url(self._settings)
        outcome = f"is ready at {url} ({time.monotonic() - began:.1f} s)" if stale else f"is already running at {url}"
        self._console.print(f"[green]✓[/] {service.title} {outcome}")

    def _launch(self, service: Service, stale: list[Process], states: dict[str, supervisor.State]) -> None:
        alive = [process.name for process in stale if states[process.name].state not in supervisor.GONE]
        if alive:
            supervisor.stop(self._paths, alive)
        for process in stale:
            process.folder.mkdir(parents=True, exist_ok=True)
            supervisor.write_files(process)
        service.prepare(self._settings)
        if self._cancelled.is_set():
            raise _CancelledError(f"Starting {service.title} was cancelled.")
        for process in stale:
            supervisor.start(self._paths, process)

    def _await(self, service: Service) -> None:
        """
        Raises:
            ServiceFailedError: one of its processes ended, or it is not ready within `ready_s` seconds.
        """
        pids = {name: state.pid for name, state in supervisor.read_states(self._paths).items() if state.pid}
        fault: str | None = "not checked yet"

        def is_ready() -> bool:
            nonlocal fault
            if self._cancelled.is_set():
                raise _CancelledError(f"Waiting for {service.title} was cancelled.")
            states = supervisor.read_states(self._paths)
            for name in service.process_names:
                state = states[name]
                if state.state not in supervisor.ALIVE or state.pid != pids.setdefault(name, state.pid):
                    ending = supervisor.find_ending(self._paths, name) or f"it is {state.state}"
                    raise self._failure(service, name, ending)
            fault = find_fault(service, self._settings)
            return fault is None

        if not wait.until(is_ready, self._ready_s, every_s=0.2):
            raise self._failure(service, service.process_names[0], f"not ready after {self._ready_s:.0f} s: {fault}")

    def _failure(self, service: Service, process: str, reason: str) -> ServiceFailedError:
        log = supervisor.log_file(self._paths, process)
        lines = supervisor.read_last_lines(self._paths, process, LOG_LINES)
        text = "\n".join(f"  {line}" for line in lines) or "  (empty)"
        return ServiceFailedError(f"{service.title} ({process}): {reason}. The end of {log}:\n{text}")
