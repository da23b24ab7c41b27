"""Run a task that needs a vertical's packages as a subprocess, with the interpreter of a requirement set.

These packages are never installed next to Airflow. A vertical names its set (`Vertical.requirement_set`). The pinned
requirements are in requirements/tasks/<set>.txt. Without Docker, `make .venv-<set>/.stamp` installs them in
.venv-<set>; Airflow's image has every set in /opt/venv/<set>. Spark has no set: it runs in a service of its profile.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from jobs import tether
from jobs.errors import CommandError, ConfigurationError
from jobs.inherited import make_environment
from jobs.settings import ROOT, Settings, is_secret

IMAGE_FOLDER = Path("/opt/venv")
LAST_LINES = 10


def find_interpreter(requirement_set: str) -> Path:
    """The Python interpreter of a requirement set.

    Raises:
        ConfigurationError: the set is not installed.
    """
    folders = (ROOT / f".venv-{requirement_set}", IMAGE_FOLDER / requirement_set)
    for folder in folders:
        if (folder / "bin" / "python").exists():
            return folder / "bin" / "python"
    raise ConfigurationError(
        f"The packages of requirements/tasks/{requirement_set}.txt are not installed: neither {folders[0]} nor "
        f"{folders[1]} exists. Without Docker: make .venv-{requirement_set}/.stamp. In Docker: docker compose build."
    )


def find_spark_interpreter() -> Path:
    """The Python interpreter of .venv-spark, for commands without Docker.

    Raises:
        ConfigurationError: it is not installed.
    """
    python = ROOT / ".venv-spark" / "bin" / "python"
    if not python.exists():
        raise ConfigurationError(f"Spark is not installed: there is no {python}. Run `make .venv-spark/.stamp`.")
    return python


def make_settings_variables(kind: type[Settings], settings: Settings) -> dict[str, str]:
    """The environment of a vertical's command: the vertical's settings and the addresses of the services.

    It has no secrets: a task adds the one that its command needs.

    Args:
        kind: the vertical's class of settings.
    """
    added = [name for name in kind.model_fields if name not in Settings.model_fields and not is_secret(name)]
    variables = {name.upper(): str(getattr(settings, name)) for name in added} | {
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "ELASTICSEARCH_URL": settings.es_url,
        "GCS_EMULATOR_URL": settings.gcs_endpoint or "",
        "GCS_BUCKET": settings.bucket,
        "STAGING_URL": settings.staging,
    }
    return {name: value for name, value in variables.items() if value}


def become(python: Path, *arguments: str, settings: Settings, **variables: str) -> NoReturn:
    """Replace this process by a Python program, for commands without Docker.

    Args:
        settings: the program gets them, except secrets.
        variables: environment variables to add.
    """
    settings_variables = make_settings_variables(type(settings), settings)
    settings_variables |= {"PYTHONPATH": str(ROOT), "DATASTREAM_STATE": str(settings.datastream_state)}
    environment = make_environment(settings_variables | variables)
    os.execve(python, [str(python), *arguments], environment)  # noqa: S606 (our own program, no shell)


class Command:
    """A command that runs at the root of the project and ends with this process, even after SIGKILL.

    Args:
        command: the path of the program, and its arguments.
        variables: environment variables to add to the inherited ones.
    """

    def __init__(self, command: Sequence[str | Path], variables: Mapping[str, str]) -> None:
        self._command = [str(part) for part in command]
        environment = make_environment({"PYTHONUNBUFFERED": "1", **variables})
        path = os.pathsep.join([str(Path(self._command[0]).parent), environment["PATH"]])
        self._environment = {**environment, "PATH": path}
        self._process: subprocess.Popen[str] | None = None

    def run(self, log: Callable[[str], None]) -> None:
        """Run the command and wait until it ends.

        Args:
            log: receives each line of stdout and stderr.

        Raises:
            CommandError: the command failed; the text has its exit code and its last output.
        """
        last: deque[str] = deque(maxlen=LAST_LINES)
        with subprocess.Popen(
            [sys.executable, "-I", "-S", tether.__file__, *self._command],
            cwd=ROOT, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, encoding="utf-8", errors="backslashreplace", start_new_session=True,
        ) as self._process:  # fmt: skip
            try:
                for line in self._process.stdout or ():
                    last.append(line.rstrip())
                    log(last[-1])
            finally:
                self.end()
        code = self._process.returncode
        if code:
            ending = "\n".join(f"  {line}" for line in last) or "  (nothing)"
            text = f"{' '.join(self._command)} ended with exit code {code}. Its last output:\n{ending}"
            raise CommandError(code, text)

    def end(self) -> None:
        """End the command and all its children: SIGTERM now, SIGKILL after `tether.GRACE_S` seconds. Does not wait."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
