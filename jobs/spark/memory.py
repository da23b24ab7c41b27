"""Whether the memory that a Spark driver asks for fits this container or machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from jobs.errors import ConfigurationError

# What Java uses besides its heap, and Python: measured at 400 MiB.
BESIDES_MIB = 512
# Files of cgroup versions 2 and 1: the limit, and the line of memory.stat with what cannot be reclaimed.
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.stat"), "anon"),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.stat"), "total_rss"),
)


def check_memory(memory: str, remedy: str) -> None:
    """Check that a heap of this size fits, before Java is started.

    Args:
        memory: the size of the heap in Spark's form: 512m, 2g.
        remedy: what the user can do about too low a limit.

    Raises:
        ConfigurationError: it does not fit, or is not a size.
    """
    heap = parse_memory_mib(memory)
    limit, used, title = read_limit_mib()
    left = limit - used - BESIDES_MIB
    if heap > left:
        raise ConfigurationError(
            f"The memory {memory} does not fit: {title} is {limit} MiB, {used} MiB are in use, and Spark needs "
            f"{BESIDES_MIB} MiB besides. Use at most {max(left, 0)}m, or {remedy}."
        )


def parse_memory_mib(text: str) -> int:
    """Parse a size in Spark's form (512m, 2g), in MiB.

    Raises:
        ConfigurationError: it is not of this form.
    """
    match = re.fullmatch(r"(\d+)([mg])", text.strip().lower())
    if match is None:
        raise ConfigurationError(f"{text!r} is not an amount of memory. Examples: 512m, 2g")
    return int(match[1]) * (1024 if match[2] == "g" else 1)


def read_limit_mib() -> tuple[int, int, str]:
    """The limit in MiB, how much of it is in use, and what sets the limit."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    for limit_file, stat_file, name in _CGROUPS:
        if limit_file.is_file():
            text = limit_file.read_text().strip()
            limit = machine if text == "max" else int(text) >> 20
            if limit < machine:  # version 1 has a huge number for no limit
                lines = dict(line.split() for line in stat_file.read_text().splitlines())
                return limit, int(lines[name]) >> 20, "the limit of this container"
    return machine, 0, "the memory of this machine"
