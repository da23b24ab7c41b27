"""Set up the flights' keyspace in Cassandra: schema.cql, the roles and their rights.

Everything can be repeated: it adds what is missing and keeps the data.
"""

from __future__ import annotations

from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.flights.cassandra import ADMIN, KEYSPACE, PASSWORDS, WRITER, connect
from jobs.flights.vertical import FlightsSettings

SCHEMA = Path(__file__).with_name("schema.cql")
DEVELOPMENT_PASSWORD: str = FlightsSettings.model_fields["flights_cassandra_admin_password"].default
RETRY_S = 20.0
# A new server has this administrator.
NEW_PASSWORD = "cassandra"  # noqa: S105


def set_up(settings: FlightsSettings) -> None:
    """Create what is missing; set the passwords of all roles, unless the server asks for none.

    Raises:
        ConfigurationError: the server rejects FLIGHTS_CASSANDRA_ADMIN_PASSWORD and the passwords of a new server.
        ServiceUnavailableError: the server does not answer.
    """
    # Cassandra changes the password of a role every 5 s at most, and caches credentials for a moment.
    until_taken = Retrying(
        retry=retry_if_exception_type((ConfigurationError, ServiceUnavailableError)),
        stop=stop_after_delay(RETRY_S),
        wait=wait_fixed(1),
        reraise=True,
    )
    until_taken(_set_up_once, settings)


def _set_up_once(settings: FlightsSettings) -> None:
    with connect(settings, ADMIN, keyspace=None, password=_find_admin_password(settings)) as session:
        for statement in SCHEMA.read_text(encoding="utf-8").split(";"):
            if statement.strip():
                session.execute(statement)
        row = session.execute("SELECT value FROM system_views.settings WHERE name = 'authenticator'").one()
        if row.value.endswith("AllowAllAuthenticator"):
            return
        session.execute(
            f"CREATE ROLE IF NOT EXISTS {WRITER} WITH LOGIN = true AND PASSWORD = {_quote(settings, WRITER)}"
        )
        for right in ("SELECT", "MODIFY"):
            session.execute(f"GRANT {right} ON KEYSPACE {KEYSPACE} TO {WRITER}")
    for role in PASSWORDS:
        _set_password(settings, role)


def _set_password(settings: FlightsSettings, role: str) -> None:
    """Set the password of a role, unless it has it."""
    if _is_accepted(settings, role, getattr(settings, PASSWORDS[role])):
        return
    with connect(settings, ADMIN, keyspace=None, password=_find_admin_password(settings)) as session:
        session.execute(f"ALTER ROLE {role} WITH PASSWORD = {_quote(settings, role)}")


def _quote(settings: FlightsSettings, role: str) -> str:
    """A role's password in CQL: statements about roles take no parameters."""
    password: str = getattr(settings, PASSWORDS[role])
    return "'" + password.replace("'", "''") + "'"


def _find_admin_password(settings: FlightsSettings) -> str:
    """The password that the server has for the administrator: the wanted one, or else one of a new server."""
    for password in (getattr(settings, PASSWORDS[ADMIN]), DEVELOPMENT_PASSWORD):
        if _is_accepted(settings, ADMIN, password):
            return password
    return NEW_PASSWORD


def _is_accepted(settings: FlightsSettings, role: str, password: str) -> bool:
    try:
        with connect(settings, role, keyspace=None, password=password):
            return True
    except ConfigurationError:
        return False
