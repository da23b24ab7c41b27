"""The processes of a stack, found by the mark in their environment rather than by name."""

from __future__ import annotations

import psutil

from infra.local.paths import Paths
from jobs.environments import STACK_MARK


def belongs(process: psutil.Process, paths: Paths) -> bool:
    try:
        return bool(process.environ().get(STACK_MARK) == str(paths.state))
    except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess, OSError):
        return False  # another user's, or gone: not ours


def of(paths: Paths) -> list[psutil.Process]:
    """Every living process of the stack."""
    return [process for process in psutil.process_iter() if belongs(process, paths)]


def end(processes: list[psutil.Process], patience_s: float = 8) -> None:
    """Ask processes to end, and kill those that have not after `patience_s` seconds."""
    for process in processes:
        _signal(process, kill=False)
    _, alive = psutil.wait_procs(processes, patience_s)
    for process in alive:
        _signal(process, kill=True)
    psutil.wait_procs(alive, patience_s)


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        return  # it ended by itself, as wanted
