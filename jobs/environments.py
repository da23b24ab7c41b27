"""Where tasks run that need packages of a vertical: subprocesses with the interpreter of a requirement set.

Such packages never join Airflow's own. A vertical names its set (`Vertical.requirement_set`); its pinned requirements
are in requirements/tasks/<set>.txt. Without Docker, `make .venv-<set>/.stamp` installs them in .venv-<set>; Airflow's
image has every set in /opt/venv/<set>. Spark is not among them: it runs in a service of its profile.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jobs import tether
from jobs.errors import CommandError, ConfigurationError
from jobs.settings import ROOT, Settings

IMAGE_FOLDER = Path("/opt/venv")
LAST_LINES = 10

# Marks every process of a stack without Docker with its state folder.
STACK_MARK = "DATASTREAM_STACK"

# What a process that we start inherits: who and where the user is, certificates, proxies, Google's login.
INHERITED = (
    "HOME", "USER", "LOGNAME", "PATH", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "TZ",
    "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CONFIG", "CLOUDSDK_CORE_PROJECT", STACK_MARK,
)  # fmt: skip


def inherited_variables() -> dict[str, str]:
    """The variables of this process that a process started by it may see."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ}


def find_interpreter(requirement_set: str) -> Path:
    """The Python interpreter of a requirement set.

    Raises:
        ConfigurationError: the set is not installed; names the remedy.
    """
    folders = (ROOT / f".venv-{requirement_set}", IMAGE_FOLDER / requirement_set)
    for folder in folders:
        if (folder / "bin" / "python").exists():
            return folder / "bin" / "python"
    raise ConfigurationError(
        f"The packages of requirements/tasks/{requirement_set}.txt are not installed: neither {folders[0]} nor "
        f"{folders[1]} exists. Without Docker: make .venv-{requirement_set}/.stamp. In Docker: docker compose build."
    )


def settings_variables(kind: type[Settings], settings: Settings) -> dict[str, str]:
    """The environment of a vertical's command: what the vertical's settings add, and where the services are.

    Passwords of the core are left out: a task hands over the one that its command needs.

    Args:
        kind: the vertical's class of settings.
    """
    added = [name for name in kind.model_fields if name not in Settings.model_fields]
    variables = {name.upper(): str(getattr(settings, name)) for name in added} | {
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "ELASTICSEARCH_URL": settings.es_url,
        "GCS_EMULATOR_URL": settings.gcs_endpoint or "",
        "GCS_BUCKET": settings.bucket,
        "STAGING_URL": settings.staging,
    }
    return {name: value for name, value in variables.items() if value}


class Command:
    """A command that runs at the root of the project, and ends when this process does, also by SIGKILL.

    Args:
        command: the program by its path, and its arguments.
        variables: its environment, besides what it inherits.
    """

    def __init__(self, command: Sequence[str | Path], variables: Mapping[str, str]) -> None:
        self._command = [str(part) for part in command]
        inherited = inherited_variables()
        path = os.pathsep.join([str(Path(self._command[0]).parent), inherited.get("PATH", os.defpath)])
        self._environment = {**inherited, "PATH": path, "PYTHONUNBUFFERED": "1", **variables}
        self._process: subprocess.Popen[str] | None = None

    def run(self, log: Callable[[str], None]) -> None:
        """Run it until it ends.

        Args:
            log: gets each line of stdout and stderr when it is written.

        Raises:
            CommandError: it failed; the text has its exit code and the end of its output.
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
        """End it with all that it started: by SIGTERM, after `tether.GRACE_S` seconds by SIGKILL. Returns at once."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
