"""A stack: the services that share a state folder and a supervisor."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from infra.local.java import jars
from infra.local.runner import ports, preflight, processes, supervisor, wait
from infra.local.runner.errors import BusyError
from infra.local.runner.health import find_fault
from infra.local.runner.paths import Paths, make_private_folder
from infra.local.runner.service import Service
from infra.local.runner.start import Start, sort_into_waves
from infra.preflight import demand
from jobs.errors import ConfigurationError
from jobs.settings import Settings

READY_S = 180.0
LOCK_S = 300.0
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


class Stack:
    """Starts, watches, stops and deletes services.

    Args:
        services: all that there are; methods take the names of some.
    """

    def __init__(self, settings: Settings, services: Sequence[Service], console: Console = QUIET) -> None:
        self.services = tuple(services)
        self._settings = settings
        self._paths = Paths(settings.datastream_state)
        self._console = console

    def choose(self, names: Collection[str]) -> list[Service]:
        """The services of these names.

        Raises:
            ConfigurationError: there is no service of a name.
        """
        known = [service.name for service in self.services]
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise ConfigurationError(f"Unknown service {', '.join(unknown)}. The services are {', '.join(known)}.")
        return [service for service in self.services if service.name in names]

    def find_local(self, names: Collection[str]) -> list[str]:
        """Which of these services the settings expect on this machine.

        Raises:
            ConfigurationError: as `choose`.
        """
        return [service.name for service in self.choose(names) if service.is_expected_here(self._settings)]

    def up(self, names: Collection[str], ready_s: float = READY_S) -> None:
        """Start services and wait until they are ready. Safe to repeat.

        Leaves alone what runs with these settings, restarts what ended or runs with others. When it fails or is
        interrupted, it stops what it started.

        Args:
            ready_s: seconds that each service has to become ready.

        Raises:
            ConfigurationError: as `choose`.
            PreflightError: this machine or a setting does not allow it; nothing was downloaded or started.
            DownloadError: jars are missing and cannot be downloaded.
            ServiceFailedError: a service ended or did not become ready; the text has its last log lines.
            BusyError: another command has held the lock for LOCK_S seconds.
        """
        services = self.choose(names)
        demand(preflight.check_paths(self._paths))
        with self._lock():
            pending = [service for service in services if not self._is_up(service)]
            demand(preflight.check_all(self._settings, pending))
            jars.fetch({name for service in pending for name in service.jars}, self._console.print)
            self._start_supervisor()
            start = Start(self._settings, self._console, ready_s)
            try:
                start.run(services)
            except BaseException:
                self._stop_started(start.started)
                raise

    def _is_up(self, service: Service) -> bool:
        states = supervisor.read_states(self._paths)
        return all(name in states and states[name].state in supervisor.ALIVE for name in service.process_names)

    def _start_supervisor(self) -> None:
        if supervisor.is_running(self._paths):
            if supervisor.is_current(self._paths, self.services):
                return
            self._console.print("the supervisor's configuration has changed: restarting all services")
            self._stop_all()
        self._end_orphans()
        for folder in (
            self._paths.state, self._paths.run, self._paths.logs, self._paths.secrets, self._paths.tmp,
        ):  # fmt: skip
            make_private_folder(folder)
        for file in self._paths.tmp.iterdir():
            # Native libraries that a killed JVM unpacked.
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        ports.forget_taken(self._paths)
        supervisor.launch(self._paths, self.services)

    def _end_orphans(self) -> bool:
        """End what a killed supervisor left; returns whether there was any."""
        orphans = processes.find_all(self._paths)
        if orphans:
            self._console.print(f"ending {len(orphans)} processes whose parent was killed")
            processes.end(orphans)
        return bool(orphans)

    def _stop_started(self, services: list[Service]) -> None:
        names = [name for service in services for name in service.process_names]
        if names:
            titles = ", ".join(service.title for service in services)
            self._console.print(f"stopping what this command started: {titles}")
            supervisor.stop(self._paths, names)
        if all(state.state in supervisor.GONE for state in supervisor.read_states(self._paths).values()):
            supervisor.shut_down(self._paths)

    def status(self) -> list[Status]:
        """Every process that was started since the supervisor was; empty when it does not run."""
        states = supervisor.read_states(self._paths)
        entries = []
        for service in self.services:
            own = [states[name] for name in service.process_names if name in states and states[name].was_started]
            fault = find_fault(service, self._settings) if any(state.pid for state in own) else "not running"
            entries += [Status(service, state, fault) for state in own]
        return entries

    def find_orphans(self) -> int:
        """How many processes run whose supervisor was killed."""
        return 0 if supervisor.is_running(self._paths) else len(processes.find_all(self._paths))

    def down(self) -> bool:
        """Stop all services and the supervisor; returns whether anything was running.

        Raises:
            ServiceFailedError: a process did not end in time.
            BusyError: another command has held the lock for LOCK_S seconds.
        """
        if not self._paths.state.exists():
            return False
        with self._lock():
            return self._down()

    def _down(self) -> bool:
        running = supervisor.is_running(self._paths)
        if running:
            with self._console.status("stopping"):
                self._stop_all()
        return self._end_orphans() or running

    def _stop_all(self) -> None:
        """Dependent services stop before those that they depend on."""
        states = supervisor.read_states(self._paths).values()
        alive = {state.name for state in states if state.state not in supervisor.GONE}
        for wave in reversed(sort_into_waves(self.services)):
            supervisor.stop(self._paths, alive & {name for service in wave for name in service.process_names})
        supervisor.shut_down(self._paths)

    def clean(self, other_data: Iterable[Path] = ()) -> None:
        """Stop everything and delete data, logs and generated files; the jars stay in their cache.

        Deletes only what this project makes: other files in the folder that DATASTREAM_STATE names stay.

        Args:
            other_data: folders of programs that are no services, but whose data is useless without that of services.

        Raises:
            ServiceFailedError, BusyError: as `down`.
        """
        if not self._paths.state.exists():
            return
        with self._lock():
            self._down()
            for folder in (
                self._paths.run, self._paths.logs, self._paths.secrets, self._paths.tmp, self._paths.staging,
                *(self._paths.service(service.name) for service in self.services), *other_data,
            ):  # fmt: skip
                if folder.exists():
                    shutil.rmtree(folder)
            self._paths.lock.unlink()
            # It stays if it has other files, or if a waiting command has made its lock in it.
            with suppress(OSError):
                self._paths.state.rmdir()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One command at a time per state folder. The kernel releases the lock of a command that dies.

        Raises:
            BusyError: another command has held it for LOCK_S seconds.
        """
        lock = FileLock(self._paths.lock)

        def is_acquired() -> bool:
            try:
                lock.acquire(blocking=False)
            except (Timeout, FileNotFoundError, FileExistsError):
                # Held, or `clean` deletes the folder while the library makes it.
                return False
            return True

        if not is_acquired():
            self._console.print("waiting for another command that starts or stops this stack")
            if not wait.until(is_acquired, LOCK_S):
                raise BusyError(
                    f"Another command has been starting or stopping the stack in {self._paths.state} for "
                    f"{LOCK_S:.0f} s. Wait until it ends or end it, then try again."
                )
        try:
            yield
        finally:
            lock.release()
