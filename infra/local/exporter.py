"""The exporter without Docker: `python -m infra.local.exporter`. One process in place of five.

It serves the series of kafka_exporter, elasticsearch_exporter, postgres_exporter and statsd_exporter by the same names,
those of `python -m jobs serve-metrics` and of the flights' relay, and the supervisor's processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psutil
import psycopg
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from infra.local.runner import supervisor
from infra.local.runner.paths import Paths
from infra.local.services import cassandra, elasticsearch, mysql, postgres, redis, relay
from jobs.clients import make_elasticsearch_admin, make_local_session
from jobs.flights import cassandra as keyspace
from jobs.flights import database
from jobs.flights.buffer import open_buffer
from jobs.flights.contract import Kind
from jobs.flights.vertical import FlightsSettings
from jobs.observability.elasticsearch_series import ElasticsearchReader
from jobs.observability.postgres_series import PostgresReader
from jobs.observability.probes import Probe
from jobs.observability.server import make_own_probes, serve
from jobs.observability.statsd import StatsdReader, read_buckets, receive
from jobs.settings import LOOPBACK, ROOT, load
from jobs.shop.database import MONITOR, connect
from jobs.verticals import find_verticals, merge_settings

STORE_TIMEOUT_S = 3
STATSD_MAPPING = ROOT / "infra" / "statsd" / "mapping.yml"


def main() -> None:
    settings: Any = load(merge_settings())
    paths = Paths(settings.datastream_state)
    statsd = StatsdReader(read_buckets(STATSD_MAPPING))

    def connect_postgres() -> psycopg.Connection:
        return connect(settings, MONITOR, connect_timeout=3, options="-c statement_timeout=3000")

    port = settings.observability_exporter_port
    try:
        receive(statsd, LOOPBACK, port)
    except OSError as error:
        sys.exit(f"error: cannot receive StatsD on UDP port {port}: {error.strerror}. Set OBSERVABILITY_EXPORTER_PORT.")
    probes = [
        *make_own_probes(settings, find_verticals(), own_only=False),
        _make_probe(paths, elasticsearch.NAME, ElasticsearchReader(make_elasticsearch_admin(settings)).read),
        _make_probe(paths, postgres.NAME, PostgresReader(connect_postgres).read),
        _make_probe(paths, redis.NAME, lambda: _read_redis(settings)),
        _make_probe(paths, mysql.NAME, lambda: _read_mysql(settings)),
        _make_probe(paths, cassandra.NAME, lambda: _read_cassandra(settings)),
        _make_probe(paths, relay.NAME, lambda: read_relay(settings.flights_relay_port)),
        Probe("statsd", statsd.read),
        Probe("processes", lambda: read_processes(paths)),
    ]
    serve(probes, LOOPBACK, port)


def _make_probe(paths: Paths, service: str, read: Callable[[], Iterable[Metric]]) -> Probe:
    """A probe of a service. It reads nothing until the service is started."""

    def read_if_started() -> Iterable[Metric]:
        state = supervisor.read_states(paths).get(service)
        return read() if state and state.was_started else ()

    return Probe(service, read_if_started)


# The stores of the flights have no series; `datastream_probe_success` shows whether they answer.


def _read_redis(settings: FlightsSettings) -> Iterable[Metric]:
    with open_buffer(settings) as buffer:
        buffer.read_identity(Kind.FLIGHT)
    return ()


def _read_mysql(settings: FlightsSettings) -> Iterable[Metric]:
    with database.connect(settings, database.READER, connect_timeout=STORE_TIMEOUT_S, read_timeout=STORE_TIMEOUT_S):
        return ()


def _read_cassandra(settings: FlightsSettings) -> Iterable[Metric]:
    with keyspace.connect(settings, timeout_s=STORE_TIMEOUT_S):
        return ()


def read_relay(port: int) -> list[Metric]:
    """The relay's series. In Docker, Prometheus reads them at the relay.

    Raises:
        requests.RequestException: no answer.
    """
    answer = make_local_session().get(f"http://{LOOPBACK}:{port}/metrics", timeout=STORE_TIMEOUT_S)
    answer.raise_for_status()
    families = text_string_to_metric_families(answer.text)
    return [family for family in families if family.name.startswith("datastream_flights_")]


def read_processes(paths: Paths) -> Iterator[Metric]:
    """The memory and uptime of each process of the supervisor that was started, children included."""
    memory = GaugeMetricFamily(
        "datastream_process_resident_memory_bytes", "Memory of the process and its children", labels=["process"]
    )
    uptime = GaugeMetricFamily("datastream_process_uptime_seconds", "Seconds since its start", labels=["process"])
    running = GaugeMetricFamily("datastream_process_running", "Whether it runs", labels=["process"])
    for name, state in supervisor.read_states(paths).items():
        if not state.was_started:
            continue
        running.add_metric([name], state.state == "RUNNING")
        if state.pid:
            uptime.add_metric([name], state.uptime_s)
            memory.add_metric([name], _measure_memory(state.pid))
    yield from (memory, uptime, running)


def _measure_memory(pid: int) -> int:
    """The resident bytes of a process and its children; 0 if it has just ended."""
    total = 0
    try:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


if __name__ == "__main__":
    main()
