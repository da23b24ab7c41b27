"""Set Airflow up in its container: `python -m infra.airflow`. Harmless to repeat.

The database's password, the database itself, secrets that another Fernet key encrypted, the administrator.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import psycopg2
from psycopg2 import sql
from sqlalchemy.engine import URL, make_url
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from jobs.settings import Settings, load

DEVELOPMENT_PASSWORD = "airflow"  # noqa: S105 (POSTGRES_PASSWORD's default in docker-compose.yml)
READY_S = 60
DEVELOPMENT_FERNET_KEY = "ZGF0YXN0cmVhbS1kZXZlbG9wbWVudC1vbmx5LWtleSE="


def main() -> None:
    set_database_password(make_url(os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]))
    airflow("db", "migrate")
    rotate_fernet_key(os.environ["AIRFLOW__CORE__FERNET_KEY"])
    settings = load(Settings)
    set_administrator(settings.airflow_user, settings.airflow_password)
    print(f"The database is migrated, the administrator is {settings.airflow_user}.")


def set_database_password(url: URL) -> None:
    """PostgreSQL takes POSTGRES_PASSWORD for an empty volume only: sign in with the old one and set the new one."""
    attempts = Retrying(
        retry=retry_if_exception(_is_away), stop=stop_after_delay(READY_S), wait=wait_fixed(1), reraise=True
    )
    for password in dict.fromkeys([url.password, DEVELOPMENT_PASSWORD]):
        try:
            connection = attempts(
                psycopg2.connect,
                host=url.host, port=url.port, dbname=url.database, user=url.username, password=password,
            )  # fmt: skip
        except psycopg2.OperationalError as error:
            if _is_away(error):
                sys.exit(f"error: PostgreSQL did not answer within {READY_S} s: {error}")
            continue
        with connection, connection.cursor() as cursor:
            role = sql.Identifier(url.username)
            cursor.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(url.password)))
        connection.close()
        return
    sys.exit(
        "error: PostgreSQL takes neither POSTGRES_PASSWORD nor the development default. Put the password that its "
        "volume was set up with into .env, or delete all data with `make clean`."
    )


def _is_away(error: BaseException) -> bool:
    """Anything but a refused password; the server's codes do not reach Python before there is a connection."""
    return "password authentication failed" not in str(error)


def rotate_fernet_key(key: str) -> None:
    """Encrypt what the development key encrypted (a first start without .env) with the wanted key."""
    if key == DEVELOPMENT_FERNET_KEY:
        return
    keys = dict.fromkeys([*key.split(","), DEVELOPMENT_FERNET_KEY])
    try:
        airflow("rotate-fernet-key", AIRFLOW__CORE__FERNET_KEY=",".join(keys))
    except subprocess.CalledProcessError:
        sys.exit(
            "error: AIRFLOW_FERNET_KEY cannot read what the database holds: it was encrypted with another key. Put "
            "that one behind a comma after the new one in .env: AIRFLOW_FERNET_KEY=new,old"
        )


def set_administrator(user: str, password: str) -> None:
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder  # noqa: PLC0415

    # It tells of each of its 200 permissions.
    logging.getLogger("airflow.providers.fab").setLevel(logging.WARNING)
    with get_application_builder() as builder:
        users = builder.sm
        found = users.find_user(username=user)
        if found is None:
            email = f"{user}@localhost"
            found = users.add_user(user, user, "", email, users.find_role("Admin"), password=password)
            if not found:
                sys.exit(f"error: Airflow did not take the user {user}; the reason stands above.")
        else:
            users.reset_password(found.id, password)


def airflow(*arguments: str, **environment: str) -> None:
    subprocess.run(["airflow", *arguments], check=True, env=os.environ | environment)


if __name__ == "__main__":
    main()
