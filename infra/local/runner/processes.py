"""The processes of a stack, identified by the mark in their environment instead of by name."""

from __future__ import annotations

import psutil

from infra.local.runner.environment import STACK_MARK
from infra.local.runner.paths import Paths


def is_marked(process: psutil.Process, paths: Paths) -> bool:
    """Whether a process belongs to the stack."""
    try:
        return bool(process.environ().get(STACK_MARK) == str(paths.state))
    except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess, OSError):
        return False  # another user's process, or one that has ended


def find_all(paths: Paths) -> list[psutil.Process]:
    """Every running process of the stack."""
    return [process for process in psutil.process_iter() if is_marked(process, paths)]


def end(processes: list[psutil.Process], patience_s: float = 8) -> None:
    """Terminate processes; kill those that still run after `patience_s` seconds."""
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
        return  # it has ended already
