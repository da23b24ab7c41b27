"""Airflow on SQLite: API server, scheduler (LocalExecutor), DAG processor and triggerer, and what cleans up."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import secrets
import sqlite3
import subprocess
import sys
import urllib.parse
from pathlib import Path

from cryptography.fernet import Fernet
from dotenv import dotenv_values

from infra.local import environment, http, paths
from infra.local.errors import ServiceFailedError
from infra.local.paths import Paths, write_private
from infra.local.service import Process, Service
from jobs.errors import ConfigurationError
from jobs.settings import LOOPBACK, ROOT, Settings
from jobs.verticals import find_verticals

NAME = "airflow"
MIGRATE_TIMEOUT_S = 300

# Components, with what `python -m` is given to start each. None serves logs over HTTP: all share one log folder, and
# two stacks would fight for the fixed ports.
COMPONENTS = {
    "api-server": ["airflow", "api-server"],
    "scheduler": ["airflow", "scheduler", "--skip-serve-logs"],
    "dag-processor": ["airflow", "dag-processor"],
    "triggerer": ["airflow", "triggerer", "--skip-serve-logs"],
    "cleanup": ["infra.cleanup", "--daily"],
}

# The image for Docker reads the same file.
TUNING = ROOT / "infra" / "airflow" / "airflow.env"


def service(settings: Settings) -> Service:
    return Service(
        name=NAME,
        title="Airflow",
        port=settings.airflow_port,
        setting="AIRFLOW_PORT",
        url=f"http://localhost:{settings.airflow_port}",
        memory_mib=1200,
        process_names=tuple(f"{NAME}-{component}" for component in COMPONENTS),
        build=lambda: _processes(settings),
        prepare=lambda: _migrate(settings),
        fault=lambda: _fault(settings),
        after=("kafka", "elasticsearch", "gcs"),
    )


def _processes(settings: Settings) -> tuple[Process, ...]:
    where = paths.of(settings)
    variables = {**airflow_environment(settings), "PYTHONUNBUFFERED": "1"}
    passwords = json.dumps({settings.airflow_user: settings.airflow_password}) + "\n"
    return tuple(
        Process(
            name=f"{NAME}-{component}",
            command=[sys.executable, "-m", *arguments],
            environment=variables,
            folder=where.airflow,
            files={_passwords_file(where): passwords},
        )
        for component, arguments in COMPONENTS.items()
    )


def airflow_environment(settings: Settings) -> dict[str, str]:
    """Everything that Airflow and its tasks read from the environment, for this stack.

    Makes the stack's secrets under the state folder when they are not there yet. What every process has (PATH, HOME, …)
    is not part of it.

    Raises:
        ConfigurationError: AIRFLOW_USER cannot be written into Airflow's list of users.
    """
    if set(settings.airflow_user) & set(":,|"):
        raise ConfigurationError(f"AIRFLOW_USER={settings.airflow_user!r} may not contain a colon, comma or bar.")
    where = paths.of(settings)
    home = where.airflow
    database = home / "airflow.db"
    url = f"http://localhost:{settings.airflow_port}"
    arguments = "infra.local.sqlite.ARGUMENTS"
    return {
        **environment.of_settings(settings),
        **{name: value or "" for name, value in dotenv_values(TUNING).items()},
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "airflow" / "config")]),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "airflow" / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "airflow" / "plugins"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{settings.airflow_user}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_passwords_file(where)),
        "AIRFLOW__CORE__FERNET_KEY": _secret(where, "fernet_key", Fernet.generate_key().decode()),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{LOOPBACK}:{settings.airflow_port}/execution/",
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(settings.airflow_port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__SECRET_KEY": _secret(where, "api_secret_key", secrets.token_urlsafe(64)),
        "AIRFLOW__API_AUTH__JWT_SECRET": _secret(where, "jwt_secret", secrets.token_hex(32)),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{database}",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS": arguments,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS_ASYNC": arguments,
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "bundles"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(where.logs / NAME),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(where.logs / NAME / "dag_processor"),
        **_connections(settings),
        "AIRFLOW_VAR_GCS_BUCKET": settings.bucket,
        **{
            f"AIRFLOW_VAR_{name.upper()}": str(getattr(settings, name))
            for vertical in find_verticals()
            for name in vertical.variables
        },
    }


def _connections(settings: Settings) -> dict[str, str]:
    elasticsearch = urllib.parse.urlsplit(settings.es_url)
    connections = {
        "KAFKA_LOCAL": {"conn_type": "kafka", "extra": {"bootstrap.servers": settings.bootstrap_servers}},
        "ES_LOCAL": {
            "conn_type": "elasticsearch",
            "host": elasticsearch.hostname,
            "port": elasticsearch.port or 9200,
            "schema": elasticsearch.scheme,
        },
        "GCP_DEFAULT": {"conn_type": "google_cloud_platform"},
    }
    return {f"AIRFLOW_CONN_{name}": json.dumps(connection) for name, connection in connections.items()}


def _passwords_file(where: Paths) -> Path:
    return where.secrets / "airflow_passwords.json"


def _secret(where: Paths, name: str, fresh: str) -> str:
    """The kept secret of that name, or `fresh`, kept from now on."""
    file = paths.private_folder(where.secrets) / name
    if not file.exists():
        write_private(file, fresh)
    return file.read_text(encoding="utf-8")


def _migrate(settings: Settings) -> None:
    """Make or upgrade the metadata database, unless this version of Airflow did so before.

    Raises:
        ServiceFailedError: with the end of what `airflow db migrate` printed.
    """
    where = paths.of(settings)
    database = where.airflow / "airflow.db"
    stamp = where.airflow / "migrated"
    version = importlib.metadata.version("apache-airflow-core")
    if database.exists() and stamp.is_file() and stamp.read_text() == version:
        return
    result = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        env={**environment.base(where), **airflow_environment(settings)}, cwd=where.airflow,
        capture_output=True, text=True, check=False, timeout=MIGRATE_TIMEOUT_S,
    )  # fmt: skip
    if result.returncode:
        end = "\n".join((result.stdout + result.stderr).splitlines()[-20:])
        raise ServiceFailedError(f"Airflow: `airflow db migrate` on {database} failed:\n{end}")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        # Kept in the file: readers and the writer no longer wait for each other.
        connection.execute("PRAGMA journal_mode=WAL")
    stamp.write_text(version)


def _fault(settings: Settings) -> str | None:
    try:
        health = http.call(f"http://{LOOPBACK}:{settings.airflow_port}/api/v2/monitor/health")
    except (OSError, ValueError) as error:
        return http.reason(error)
    ill = [name for name, part in health.items() if (part or {}).get("status") != "healthy"]
    return f"not healthy yet: {', '.join(ill)}" if ill else None
