"""The exporter: an HTTP server with the series of the stack."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from jobs.clients import make_kafka_config
from jobs.errors import ConfigurationError
from jobs.observability.declared import DeclaredReader, SeriesReader
from jobs.observability.kafka_series import KafkaReader
from jobs.observability.ledgers import LedgerReader
from jobs.observability.probes import Probe, ProbeCollector
from jobs.observability.vertical import ObservabilitySettings
from jobs.vertical import Vertical


def make_own_probes(settings: ObservabilitySettings, verticals: Sequence[Vertical], *, own_only: bool) -> list[Probe]:
    """The probes for series that no public exporter has. Starts to take ledgers.

    Args:
        settings: of all verticals.
        own_only: leave out the series of Kafka that kafka_exporter serves.
    """
    probes = [
        Probe("kafka", KafkaReader(make_kafka_config(settings), own_only=own_only).read),
        Probe("verticals", DeclaredReader(verticals, settings).read),
        *(Probe(vertical.name, SeriesReader(vertical, settings).read) for vertical in verticals if vertical.series),
    ]
    if settings.observability_ledger_minutes:
        ledgers = LedgerReader(verticals, settings.observability_ledger_minutes * 60)
        ledgers.start()
        probes.append(Probe("ledgers", ledgers.read))
    return probes


def serve(probes: Sequence[Probe], host: str, port: int) -> None:
    """Serve `/metrics` until SIGTERM or Ctrl-C.

    Raises:
        ConfigurationError: the port is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("elastic_transport").setLevel(logging.WARNING)
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(ProbeCollector(probes))
    stopped = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stopped.set())
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot serve metrics on {host}:{port}: {error.strerror}. Set OBSERVABILITY_EXPORTER_PORT."
        ) from error
    stopped.wait()
    server.shutdown()
    thread.join()
