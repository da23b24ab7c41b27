"""Sessions with Cassandra, one role for each purpose. infra/cassandra makes the tables and the roles."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.flights.vertical import START, FlightsSettings

if TYPE_CHECKING:
    from cassandra.cluster import Session

KEYSPACE = "flights"
TIMEOUT_S = 20

ADMIN = "cassandra"
WRITER = "flights"

# Each role, with the setting that has its password.
PASSWORDS = {ADMIN: "flights_cassandra_admin_password", WRITER: "flights_cassandra_password"}


@contextmanager
def connect(
    settings: FlightsSettings,
    role: str = WRITER,
    *,
    keyspace: str | None = KEYSPACE,
    password: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[Session]:
    """A session with Cassandra. Times in its rows are naive and in UTC.

    Args:
        role: one of `PASSWORDS`. Without Docker, the server asks for no password.
        keyspace: of tables without one; None: the session uses none.
        password: in place of the setting's.
        timeout_s: of connecting, and of each call.

    Raises:
        ConfigurationError: the server rejects the role or its password, or has no such keyspace.
        ServiceUnavailableError: the server does not answer, or a call fails inside. Its write may have been done; it is
            safe to repeat it.
    """
    # The driver takes 0.9 s to import.
    from cassandra import (
        AuthenticationFailed,
        DriverException,
        OperationTimedOut,
        RequestExecutionException,
        UnresolvableContactPoints,
    )
    from cassandra.auth import PlainTextAuthProvider
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
    from cassandra.policies import RoundRobinPolicy

    # It logs each refused connection; here, they become errors.
    logging.getLogger("cassandra").setLevel(logging.CRITICAL)
    address = f"{settings.flights_cassandra}:{settings.flights_cassandra_port}"
    setting = PASSWORDS[role]
    try:
        cluster = Cluster(
            [settings.flights_cassandra],
            port=settings.flights_cassandra_port,
            auth_provider=PlainTextAuthProvider(role, getattr(settings, setting) if password is None else password),
            execution_profiles={
                EXEC_PROFILE_DEFAULT: ExecutionProfile(
                    load_balancing_policy=RoundRobinPolicy(), request_timeout=timeout_s
                )
            },
            protocol_version=5,
            connect_timeout=timeout_s,
            control_connection_timeout=timeout_s,
        )
    except UnresolvableContactPoints as error:
        raise ServiceUnavailableError(
            f"Cassandra at {address} does not answer: unknown host {settings.flights_cassandra}. {START}"
        ) from error
    try:
        try:
            session = cluster.connect(keyspace)
        except (NoHostAvailable, DriverException) as error:
            faults = getattr(error, "errors", {})
            if isinstance(faults, list):
                raise ConfigurationError(
                    f"Cassandra at {address} has no keyspace {keyspace}. Set it up again. {START}"
                ) from error
            reason = next(iter(faults.values()), error)
            if isinstance(reason, AuthenticationFailed):
                raise ConfigurationError(
                    f"Cassandra at {address} rejects {role}: {reason}. Set {setting.upper()} in .env, then set up the "
                    f"keyspace again. {START}"
                ) from error
            raise ServiceUnavailableError(f"Cassandra at {address} does not answer: {reason}. {START}") from error
        yield session
    except (NoHostAvailable, OperationTimedOut, RequestExecutionException) as error:
        raise ServiceUnavailableError(
            f"Cassandra at {address}: {error}. Writes may have been done; it is safe to repeat them. {START}"
        ) from error
    finally:
        cluster.shutdown()
