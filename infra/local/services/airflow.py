"""Airflow on SQLite: API server, scheduler (LocalExecutor), DAG processor, triggerer, and the daily clean-up."""

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

from infra.local.environment import export_settings
from infra.local.runner.environment import make_base
from infra.local.runner.errors import ServiceFailedError
from infra.local.runner.health import get_json
from infra.local.runner.paths import Paths, keep_secret
from infra.local.runner.service import Process, Service
from infra.local.services import exporter
from jobs.errors import ConfigurationError
from jobs.settings import LOOPBACK, ROOT, Settings
from jobs.verticals import find_verticals

NAME = "airflow"
MIGRATE_TIMEOUT_S = 300

# The arguments of `python -m` that start each component. Logs are not served over HTTP: all components share a log
# folder, and the log servers' fixed ports would collide with those of another stack.
COMPONENTS = {
    "api-server": ["airflow", "api-server"],
    "scheduler": ["airflow", "scheduler", "--skip-serve-logs"],
    "dag-processor": ["airflow", "dag-processor"],
    "triggerer": ["airflow", "triggerer", "--skip-serve-logs"],
    "cleanup": ["infra.cleanup", "--daily"],
}

# Airflow's image in Docker uses the same files.
TUNING = ROOT / "infra" / "airflow" / "airflow.env"
METRICS = ROOT / "infra" / "airflow" / "metrics.env"


def _build(settings: Settings) -> tuple[Process, ...]:
    paths = Paths(settings.datastream_state)
    variables = {**airflow_environment(settings), "PYTHONUNBUFFERED": "1"}
    passwords = json.dumps({settings.airflow_user: settings.airflow_password}) + "\n"
    return tuple(
        Process(
            name=f"{NAME}-{component}",
            command=[sys.executable, "-m", *arguments],
            environment=variables,
            folder=paths.service(NAME),
            files={_passwords_file(paths): passwords},
        )
        for component, arguments in COMPONENTS.items()
    )


def airflow_environment(settings: Settings) -> dict[str, str]:
    """The variables that Airflow and its tasks read, without those that every process has (PATH, HOME, …).

    Generates missing secrets below the state folder.

    Raises:
        ConfigurationError: AIRFLOW_USER has a character that Airflow's list of users cannot hold.
    """
    if set(settings.airflow_user) & set(":,|"):
        raise ConfigurationError(f"AIRFLOW_USER={settings.airflow_user!r} may not contain a colon, comma or bar.")
    paths = Paths(settings.datastream_state)
    home = paths.service(NAME)
    arguments = "infra.local.services.airflow_sqlite.ARGUMENTS"
    return {
        **export_settings(settings),
        **{name: value or "" for name, value in (dotenv_values(TUNING) | dotenv_values(METRICS)).items()},
        # The exporter receives them, if it runs.
        "AIRFLOW__METRICS__STATSD_HOST": LOOPBACK,
        "AIRFLOW__METRICS__STATSD_PORT": str(exporter.SERVICE.port(settings)),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "airflow" / "config")]),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "airflow" / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "airflow" / "plugins"),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{settings.airflow_user}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(_passwords_file(paths)),
        "AIRFLOW__CORE__FERNET_KEY": keep_secret(paths, "fernet_key", Fernet.generate_key().decode()),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{LOOPBACK}:{settings.airflow_port}/execution/",
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(settings.airflow_port),
        "AIRFLOW__API__BASE_URL": _url(settings),
        "AIRFLOW__API__SECRET_KEY": keep_secret(paths, "api_secret_key", secrets.token_urlsafe(64)),
        "AIRFLOW__API_AUTH__JWT_SECRET": keep_secret(paths, "jwt_secret", secrets.token_hex(32)),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_database(paths)}",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS": arguments,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS_ASYNC": arguments,
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH": str(home / "bundles"),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(paths.logs / NAME),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(paths.logs / NAME / "dag_processor"),
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


def _database(paths: Paths) -> Path:
    return paths.service(NAME) / "airflow.db"


def _passwords_file(paths: Paths) -> Path:
    return paths.secrets / "airflow_passwords.json"


def _migrate(settings: Settings) -> None:
    """Make or upgrade the metadata database, unless this version of Airflow has done so.

    Raises:
        ServiceFailedError: with the end of the output of `airflow db migrate`.
    """
    paths = Paths(settings.datastream_state)
    folder, database = paths.service(NAME), _database(paths)
    stamp = folder / "migrated"
    version = importlib.metadata.version("apache-airflow-core")
    if database.exists() and stamp.is_file() and stamp.read_text() == version:
        return
    result = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"],
        env={**make_base(paths), **airflow_environment(settings)}, cwd=folder,
        capture_output=True, text=True, check=False, timeout=MIGRATE_TIMEOUT_S,
    )  # fmt: skip
    if result.returncode:
        end = "\n".join((result.stdout + result.stderr).splitlines()[-20:])
        raise ServiceFailedError(f"Airflow: `airflow db migrate` on {database} failed:\n{end}")
    with contextlib.closing(sqlite3.connect(database)) as connection:
        # Stored in the database: readers and the writer do not block each other.
        connection.execute("PRAGMA journal_mode=WAL")
    stamp.write_text(version)


def _find_fault(settings: Settings) -> str | None:
    health = get_json(f"http://{LOOPBACK}:{settings.airflow_port}/api/v2/monitor/health")
    unhealthy = [name for name, part in health.items() if (part or {}).get("status") != "healthy"]
    return f"not healthy yet: {', '.join(unhealthy)}" if unhealthy else None


def _url(settings: Settings) -> str:
    return f"http://localhost:{settings.airflow_port}"


SERVICE = Service(
    name=NAME,
    title="Airflow",
    setting="AIRFLOW_PORT",
    memory_mib=1200,
    url=_url,
    expected_at=_url,
    build=_build,
    prepare=_migrate,
    find_fault=_find_fault,
    login=lambda settings: f"login {settings.airflow_user} / {settings.airflow_password}",
    processes=tuple(f"{NAME}-{component}" for component in COMPONENTS),
    # Its tasks use them.
    after=("kafka", "elasticsearch", "gcs", "postgres", "spark-driver"),
    # The scheduler would wait for running tasks, which may be killed at any time.
    stop_s=8,
)
