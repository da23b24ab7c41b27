"""Set up the warehouse's database, schemas, roles and rights: the SQL files in this folder, by name.

Everything can be repeated: it changes what differs and keeps the data.
"""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path

import psycopg
from psycopg import sql

from jobs.errors import ConfigurationError
from jobs.shop.database import ADMIN, DATABASE, PASSWORDS, SUPERSET, connect
from jobs.shop.vertical import ShopSettings

FILES = sorted(Path(__file__).parent.glob("*.sql"))
BACKUP_SCRIPTS = Path(__file__).parent / "backup"
DEVELOPMENT_PASSWORD: str = ShopSettings.model_fields["shop_postgres_password"].default
# Any number: two set-ups at the same time wait for each other.
_LOCK = 21


def set_up(settings: ShopSettings) -> None:
    """Create what is missing, set the passwords and rights of all roles.

    Raises:
        ConfigurationError: the server rejects SHOP_POSTGRES_PASSWORD and the development default.
        ServiceUnavailableError: the server does not answer.
    """
    with closing(_sign_in(settings)) as server:
        _set_password(server, ADMIN, settings.shop_postgres_password)
        _create_database(server, DATABASE)
        with connect(settings, ADMIN) as database:
            database.execute("select pg_advisory_xact_lock(%s)", [_LOCK])
            for file in FILES:
                database.execute(file.read_bytes())
            for role, setting in PASSWORDS.items():
                _set_password(database, role, getattr(settings, setting))
        # After its role.
        _create_database(server, SUPERSET)
        name = sql.Identifier(SUPERSET)
        server.execute(sql.SQL("alter database {} owner to {}").format(name, name))
        server.execute(sql.SQL("revoke all on database {} from public").format(name))


def _create_database(server: psycopg.Connection, name: str) -> None:
    if not server.execute("select from pg_database where datname = %s", [name]).fetchone():
        # Another set-up may have just made it.
        with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            server.execute(sql.SQL("create database {}").format(sql.Identifier(name)))


def _sign_in(settings: ShopSettings) -> psycopg.Connection:
    """As the administrator, with the wanted password or the development default, whichever the volume has."""
    options = {"dbname": "postgres", "autocommit": True}
    try:
        return connect(settings, ADMIN, **options)
    except ConfigurationError:
        return connect(settings, ADMIN, **options, password=DEVELOPMENT_PASSWORD)


def _set_password(connection: psycopg.Connection, role: str, password: str) -> None:
    # The server gets and logs only a hash.
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    statement = sql.SQL("alter role {} password {}")
    connection.execute(statement.format(sql.Identifier(role), sql.Literal(verifier.decode())))
