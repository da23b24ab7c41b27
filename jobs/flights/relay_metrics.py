"""The relay's metrics for Prometheus, and whether it works: `datastream_flights_relay_up`."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from jobs.flights.buffer import Buffer
from jobs.flights.relay import Relay

# The relay passes each buffer several times a second; a batch with slow stores takes longer.
FRESH_S = 60.0
_MEASURE_EVERY_S = 5.0


class RelayMetrics:
    """Counts what relays do, and measures their buffers now and then.

    Args:
        port: where the metrics are served.
        host: 0.0.0.0 in a container.
    """

    def __init__(self, host: str, port: int) -> None:
        registry = CollectorRegistry()
        self._relayed = Counter(
            "datastream_flights_relayed", "Entries of the buffer that were relayed", ["kind"], registry=registry
        )
        self._waiting = Gauge(
            "datastream_flights_waiting", "Entries of the buffer that are not relayed", ["kind"], registry=registry
        )
        self._oldest = Gauge(
            "datastream_flights_oldest_seconds", "Age of the oldest entry that is not relayed", ["kind"],
            registry=registry,
        )  # fmt: skip
        up = Gauge("datastream_flights_relay_up", "1 if the relay has passed all buffers lately", registry=registry)
        up.set_function(lambda: float(time.monotonic() - self._passed_at < FRESH_S))
        self._passed_at = float("-inf")
        self._measured_at = float("-inf")
        start_http_server(port, host, registry)

    def count(self, relay: Relay, entries: int) -> None:
        self._relayed.labels(relay.route.kind).inc(entries)

    def note_pass(self, relays: list[Relay], buffer: Buffer) -> None:
        """Note that all buffers were passed."""
        self._passed_at = time.monotonic()
        if self._passed_at - self._measured_at < _MEASURE_EVERY_S:
            return
        self._measured_at = self._passed_at
        for relay in relays:
            _, waiting, oldest = buffer.count_after(relay.route.kind, relay.position.buffer, relay.position.entry)
            self._waiting.labels(relay.route.kind).set(waiting)
            self._oldest.labels(relay.route.kind).set(0 if oldest is None else max(0.0, time.time() - oldest))
