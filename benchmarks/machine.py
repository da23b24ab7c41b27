"""Describes the machine on which the benchmark runs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys

import psutil

from infra.local.java import lock
from jobs.settings import ROOT

_PACKAGES = ("apache-airflow-core", "confluent-kafka", "elasticsearch", "msgspec", "numpy", "pyarrow")


def describe_machine() -> dict[str, str | int]:
    """CPU, cores, memory in GiB, operating system, versions, and the measured commit."""
    return {
        "cpu": _read_cpu_model(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "kafka": lock.KAFKA,
        "elasticsearch-server": lock.ELASTICSEARCH,
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
        "commit": _run("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"),
    }


def _read_cpu_model() -> str:
    if sys.platform == "darwin":
        return _run("sysctl", "-n", "machdep.cpu.brand_string")
    lines = _run("lscpu").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model name")), platform.machine())


def _run(*command: str) -> str:
    """The output of a command; `unknown` if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
