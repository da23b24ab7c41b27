"""Series of a PostgreSQL server, with the names of prometheus-community/postgres_exporter 0.19.

https://github.com/prometheus-community/postgres_exporter/tree/master/collector has the names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

_DATABASES = """\
select datname, pg_database_size(datname), xact_commit, xact_rollback, deadlocks, blks_hit, blks_read
from pg_stat_database where datname is not null and datname not like 'template%'"""
_ACTIVITY = """\
select datname, coalesce(state, 'unknown'), count(*) from pg_stat_activity where datname is not null group by 1, 2"""
_DATABASE_SERIES = (
    ("pg_database_size_bytes", "Size of the database"),
    ("pg_stat_database_xact_commit", "Transactions committed"),
    ("pg_stat_database_xact_rollback", "Transactions rolled back"),
    ("pg_stat_database_deadlocks", "Deadlocks"),
    ("pg_stat_database_blks_hit", "Blocks found in memory"),
    ("pg_stat_database_blks_read", "Blocks read from disk"),
)


class PostgresReader:
    """Reads the series of one server, with a new connection for each reading.

    Args:
        connect: opens a connection as a role that has `pg_monitor`.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection]) -> None:
        self._connect = connect

    def read(self) -> Iterator[Metric]:
        """The series now.

        Raises:
            DatastreamError, psycopg.Error: no answer, or no right.
        """
        with closing(self._connect()) as connection:
            databases = connection.execute(_DATABASES).fetchall()
            activity = connection.execute(_ACTIVITY).fetchall()
            (limit,) = connection.execute("show max_connections").fetchone() or (0,)
        up = GaugeMetricFamily("pg_up", "Whether the server answers")
        up.add_metric([], 1)
        yield up
        settings = GaugeMetricFamily("pg_settings_max_connections", "Connections that the server allows")
        settings.add_metric([], int(limit))
        yield settings
        count = GaugeMetricFamily("pg_stat_activity_count", "Connections", labels=["datname", "state"])
        for name, state, number in activity:
            count.add_metric([name, state], number)
        yield count
        for column, (name, text) in enumerate(_DATABASE_SERIES, start=1):
            # As there, counters have no _total.
            family = Metric(name, text, "unknown")
            for row in databases:
                family.add_sample(name, {"datname": row[0]}, float(row[column]))
            yield family
