"""The stores of observations. Writing the same observation again changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from jobs.flights import cassandra, database
from jobs.flights.contract import Observation
from jobs.flights.stores.cassandra_store import Cassandra
from jobs.flights.stores.mysql_store import MySQL
from jobs.flights.vertical import FlightsSettings


class Store(Protocol):
    """Holds observations."""

    def write(self, observations: Sequence[Observation]) -> None:
        """Write observations; they are on disk when this returns.

        Raises:
            ServiceUnavailableError: not all may be written; it is safe to write them again.
        """


@contextmanager
def open_stores(settings: FlightsSettings) -> Iterator[tuple[Store, ...]]:
    """MySQL and Cassandra.

    Raises:
        ConfigurationError: a store rejects its password.
        ServiceUnavailableError: a store does not answer.
    """
    with database.connect(settings, database.WRITER) as connection, cassandra.connect(settings) as session:
        yield MySQL(connection), Cassandra(session)
