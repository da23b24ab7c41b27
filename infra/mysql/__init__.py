"""Set up the flights' database in MySQL or MariaDB: schema.sql, the airports, the users and their rights.

Everything can be repeated: it changes what differs and keeps the data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from pymysql.constants import CLIENT

from jobs.errors import ConfigurationError
from jobs.flights.airports import AIRPORTS, Airport
from jobs.flights.database import ADMIN, DATABASE, PASSWORDS, READER, WRITER, connect
from jobs.flights.vertical import FlightsSettings

SCHEMA = Path(__file__).with_name("schema.sql")
DEVELOPMENT_PASSWORD: str = FlightsSettings.model_fields["flights_mysql_root_password"].default
# Where root may sign in from. A new MariaDB has another root at the machine's name, which it cannot resolve.
ROOT_HOSTS = ("localhost", "127.0.0.1", "::1", "%")
RIGHTS = {WRITER: "SELECT, INSERT, UPDATE", READER: "SELECT"}


def set_up(settings: FlightsSettings) -> None:
    """Create what is missing, set the passwords of all users.

    Raises:
        ConfigurationError: the server rejects FLIGHTS_MYSQL_ROOT_PASSWORD and the passwords of a new server.
        ServiceUnavailableError: the server does not answer.
    """
    with connect(settings, ADMIN, database=None, password=find_root_password(settings)) as server:
        cursor = server.cursor()
        cursor.execute("SELECT host FROM mysql.user WHERE user = %s AND host IN %s", [ADMIN, ROOT_HOSTS])
        for row in cursor.fetchall():
            _set_password(cursor, settings, ADMIN, *row.values())
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
        for user, rights in RIGHTS.items():
            cursor.execute("CREATE USER IF NOT EXISTS %s@%s", [user, "%"])
            _set_password(cursor, settings, user, "%")
            cursor.execute(f"GRANT {rights} ON {DATABASE}.* TO %s@%s", [user, "%"])
        # MariaDB keeps users in memory at first: after a SIGKILL they would be gone.
        cursor.execute("FLUSH TABLES")
    with connect(settings, ADMIN, client_flag=CLIENT.MULTI_STATEMENTS) as database:
        cursor = database.cursor()
        cursor.execute(SCHEMA.read_text(encoding="utf-8"))
        # The fault of a statement after the first is raised with its result.
        while cursor.nextset():
            pass
        fields = Airport.__struct_fields__
        cursor.executemany(
            f"INSERT INTO airports ({', '.join(fields)}) VALUES ({', '.join(['%s'] * len(fields))}) "  # noqa: S608
            f"ON DUPLICATE KEY UPDATE {', '.join(f'{field} = VALUES({field})' for field in fields)}",
            [msgspec.structs.astuple(airport) for airport in AIRPORTS.values()],
        )
        database.commit()


def find_root_password(settings: FlightsSettings, **options: Any) -> str:
    """The password that the server has for root: the wanted one, the development default, or none (new MariaDB).

    Args:
        options: as of `jobs.flights.database.connect`.

    Raises:
        ConfigurationError: the server rejects all of them.
        ServiceUnavailableError: the server does not answer.
    """
    faults = []
    for password in (getattr(settings, PASSWORDS[ADMIN]), DEVELOPMENT_PASSWORD, ""):
        try:
            with connect(settings, ADMIN, database=None, password=password, **options):
                return password
        except ConfigurationError as error:
            faults.append(error)
    raise faults[0]


def _set_password(cursor: Any, settings: FlightsSettings, user: str, host: str) -> None:
    cursor.execute("ALTER USER %s@%s IDENTIFIED BY %s", [user, host, getattr(settings, PASSWORDS[user])])
