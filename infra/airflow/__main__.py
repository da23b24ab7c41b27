"""Set up Airflow in its container: `python -m infra.airflow`. Harmless to repeat.

Sets the database's password, migrates the database, encrypts its secrets with the current Fernet key, and sets the
passwords of the administrator and of the role that reads the server's statistics.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import closing

import psycopg2
from psycopg2 import sql
from sqlalchemy.engine import URL, make_url
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from jobs.settings import Settings, load

DEVELOPMENT_PASSWORD = "airflow"  # noqa: S105 (POSTGRES_PASSWORD's default in the compose files)
MONITOR = "datastream_monitor"
READY_S = 60
DEVELOPMENT_FERNET_KEY = "ZGF0YXN0cmVhbS1kZXZlbG9wbWVudC1vbmx5LWtleSE="


def main() -> None:
    settings = load(Settings)
    url = make_url(os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    set_database_password(url)
    set_monitor(url, settings.postgres_monitor_password)
    run_airflow("db", "migrate")
    rotate_fernet_key(os.environ["AIRFLOW__CORE__FERNET_KEY"])
    set_administrator(settings.airflow_user, settings.airflow_password)
    print(f"Migrated the database and set the password of the administrator {settings.airflow_user}.")


def set_database_password(url: URL) -> None:
    """Sign in with the old password and set the new one: PostgreSQL uses POSTGRES_PASSWORD on an empty volume only."""
    attempts = Retrying(
        retry=retry_if_exception(_is_unavailable), stop=stop_after_delay(READY_S), wait=wait_fixed(1), reraise=True
    )
    for password in dict.fromkeys([url.password, DEVELOPMENT_PASSWORD]):
        try:
            connection = attempts(connect, url.set(password=password))
        except psycopg2.OperationalError as error:
            if _is_unavailable(error):
                sys.exit(f"error: PostgreSQL did not answer within {READY_S} s: {error}")
            continue
        with connection, connection.cursor() as cursor:
            role = sql.Identifier(url.username)
            cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(url.password)))
        connection.close()
        return
    sys.exit(
        "error: PostgreSQL rejects POSTGRES_PASSWORD and the development default. Put the password that its volume "
        "was set up with into .env, or delete all data with `make clean`."
    )


def _is_unavailable(error: BaseException) -> bool:
    """Any error except a wrong password. By its text: psycopg2 gives no error code before it is connected."""
    return "password authentication failed" not in str(error)


def connect(url: URL) -> psycopg2.extensions.connection:
    return psycopg2.connect(host=url.host, port=url.port, dbname=url.database, user=url.username, password=url.password)


def set_monitor(url: URL, password: str) -> None:
    """Create the role with which postgres-exporter reads statistics, and set its password."""
    with closing(connect(url)) as connection, connection, connection.cursor() as cursor:
        role = sql.Identifier(MONITOR)
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [MONITOR])
        if not cursor.fetchone():
            cursor.execute(sql.SQL("CREATE ROLE {} LOGIN CONNECTION LIMIT 5 IN ROLE pg_monitor").format(role))
        cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(password)))


def rotate_fernet_key(key: str) -> None:
    """Encrypt with this key what the development key encrypted, for example at a first start without .env."""
    if key == DEVELOPMENT_FERNET_KEY:
        return
    keys = dict.fromkeys([*key.split(","), DEVELOPMENT_FERNET_KEY])
    try:
        run_airflow("rotate-fernet-key", AIRFLOW__CORE__FERNET_KEY=",".join(keys))
    except subprocess.CalledProcessError:
        sys.exit(
            "error: AIRFLOW_FERNET_KEY cannot decrypt the database's secrets: another key encrypted them. Append that "
            "key in .env, after a comma: AIRFLOW_FERNET_KEY=new,old"
        )


def set_administrator(user: str, password: str) -> None:
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder  # noqa: PLC0415

    # It logs each of its 200 permissions.
    logging.getLogger("airflow.providers.fab").setLevel(logging.WARNING)
    with get_application_builder() as builder:
        users = builder.sm
        account = users.find_user(username=user)
        if account:
            users.reset_password(account.id, password)
        elif not users.add_user(user, user, "", f"{user}@localhost", users.find_role("Admin"), password=password):
            sys.exit(f"error: Airflow did not create the user {user}; the reason is printed above.")


def run_airflow(*arguments: str, **environment: str) -> None:
    subprocess.run(["airflow", *arguments], check=True, env=os.environ | environment)


if __name__ == "__main__":
    main()
