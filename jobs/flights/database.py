"""Connections to MySQL (or MariaDB), one user for each purpose. infra/mysql makes the users and their rights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeAlias

import pymysql
from pymysql.constants import ER
from pymysql.cursors import DictCursor

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.flights.vertical import START, FlightsSettings

DATABASE = "flights"
CONNECT_TIMEOUT_S = 10
CALL_TIMEOUT_S = 60

ADMIN = "root"
WRITER = "flights"
READER = "flights_reader"

# Each user, with the setting that has its password.
PASSWORDS = {
    ADMIN: "flights_mysql_root_password",
    WRITER: "flights_mysql_password",
    READER: "flights_mysql_reader_password",
}

# Quoted, because the class has a type parameter only for type checkers.
Connection: TypeAlias = "pymysql.connections.Connection[Any]"


@contextmanager
def connect(settings: FlightsSettings, user: str, **options: Any) -> Iterator[Connection]:
    """A connection to the flights' database. Rows are dictionaries, times are in UTC, a caller commits.

    Args:
        user: one of `PASSWORDS`.
        options: more options of `pymysql.connect`.

    Raises:
        ConfigurationError: the server rejects the user or its password, or has no such database.
        ServiceUnavailableError: the server does not answer, or the connection breaks inside. It is safe to try again.
    """
    address = f"{settings.flights_mysql}:{settings.flights_mysql_port}"
    setting = PASSWORDS[user]
    try:
        connection = pymysql.connect(
            **{
                "host": settings.flights_mysql,
                "port": settings.flights_mysql_port,
                "database": DATABASE,
                "user": user,
                "password": getattr(settings, setting),
                "charset": "utf8mb4",
                "connect_timeout": CONNECT_TIMEOUT_S,
                "read_timeout": CALL_TIMEOUT_S,
                "write_timeout": CALL_TIMEOUT_S,
                "cursorclass": DictCursor,
                "init_command": "SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES'",
                **options,
            }
        )
    except pymysql.OperationalError as error:
        code, text = error.args[0], error.args[-1]
        if code in (ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.BAD_DB_ERROR):
            raise ConfigurationError(
                f"MySQL at {address} rejects {user}: {text}. Set {setting.upper()} in .env, then set up the database "
                f"again. {START}"
            ) from error
        raise ServiceUnavailableError(f"MySQL at {address} does not answer: {text}. {START}") from error
    try:
        with closing(connection):
            yield connection
    except (pymysql.OperationalError, pymysql.InterfaceError, pymysql.InternalError) as error:
        # A lost connection, a shutdown, a full disk, a deadlock: what they have in common is that it may pass.
        raise ServiceUnavailableError(
            f"MySQL at {address}: {error.args[-1]}. If a commit had no answer, it may have been done; it is safe to "
            f"try again. {START}"
        ) from error
