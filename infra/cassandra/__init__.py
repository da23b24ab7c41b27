"""Set up the flights' keyspace in Cassandra: schema.cql, the roles and their rights.

Everything can be repeated: it adds what is missing and keeps the data.
"""

from __future__ import annotations

from pathlib import Path

from jobs.errors import ConfigurationError
from jobs.flights.cassandra import ADMIN, KEYSPACE, PASSWORDS, WRITER, connect
from jobs.flights.vertical import FlightsSettings

SCHEMA = Path(__file__).with_name("schema.cql")
DEVELOPMENT_PASSWORD: str = FlightsSettings.model_fields["flights_cassandra_admin_password"].default
# A new server has this administrator.
NEW_PASSWORD = "cassandra"  # noqa: S105


def set_up(settings: FlightsSettings) -> None:
    """Create what is missing; set the passwords of all roles, unless the server asks for none.

    Raises:
        ConfigurationError: the server rejects FLIGHTS_CASSANDRA_ADMIN_PASSWORD and the passwords of a new server.
        ServiceUnavailableError: the server does not answer.
    """
    with connect(settings, ADMIN, keyspace=None, password=_find_admin_password(settings)) as session:
        for statement in SCHEMA.read_text(encoding="utf-8").split(";"):
            if statement.strip():
                session.execute(statement)
        row = session.execute("SELECT value FROM system_views.settings WHERE name = 'authenticator'").one()
        if row.value.endswith("AllowAllAuthenticator"):
            return
        session.execute(f"CREATE ROLE IF NOT EXISTS {WRITER} WITH LOGIN = true")
        for right in ("SELECT", "MODIFY"):
            session.execute(f"GRANT {right} ON KEYSPACE {KEYSPACE} TO {WRITER}")
        for role, setting in PASSWORDS.items():
            # Statements about roles take no parameters.
            password = getattr(settings, setting).replace("'", "''")
            session.execute(f"ALTER ROLE {role} WITH PASSWORD = '{password}'")


def _find_admin_password(settings: FlightsSettings) -> str:
    """The password that the server has for the administrator: the wanted one, or one of a new server."""
    faults = []
    for password in (getattr(settings, PASSWORDS[ADMIN]), DEVELOPMENT_PASSWORD, NEW_PASSWORD):
        try:
            with connect(settings, ADMIN, keyspace=None, password=password):
                return password
        except ConfigurationError as error:
            faults.append(error)
    raise faults[0]
