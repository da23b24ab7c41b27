"""The long-running relay: relays all kinds, serves metrics, and tries again while a service is away."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from threading import Event

from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception,
    sleep_using_event,
    stop_when_event_set,
    wait_fixed,
)

from jobs.errors import ServiceUnavailableError
from jobs.flights.buffer import name_stream, open_buffer
from jobs.flights.relay import list_routes, open_relay
from jobs.flights.relay_metrics import RelayMetrics
from jobs.flights.stores import open_stores
from jobs.flights.vertical import FlightsSettings
from jobs.kafka.transaction import FencedError

log = logging.getLogger(__name__)

RETRY_S = 2.0


def run(settings: FlightsSettings, stopped: Event, host: str) -> None:
    """Relay all kinds until `stopped` is set. If a service is away, try again until it is back.

    Args:
        host: where the metrics are served, on FLIGHTS_RELAY_PORT.

    Raises:
        FencedError: another relay has taken over.
        ConfigurationError: a topic does not exist, or a password is wrong.
    """
    metrics = RelayMetrics(host, settings.flights_relay_port)
    until_back = Retrying(
        retry=retry_if_exception(_may_pass),
        wait=wait_fixed(RETRY_S),
        before_sleep=before_sleep_log(log, logging.WARNING),
        stop=stop_when_event_set(stopped),
        sleep=sleep_using_event(stopped),
        reraise=True,
    )
    until_back(_run_until_fault, settings, stopped, metrics)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, ServiceUnavailableError) and not isinstance(error, FencedError)


def _run_until_fault(settings: FlightsSettings, stopped: Event, metrics: RelayMetrics) -> None:
    with ExitStack() as stack:
        buffer = stack.enter_context(open_buffer(settings))
        stores = stack.enter_context(open_stores(settings))
        relays = [stack.enter_context(open_relay(settings, route, buffer, stores)) for route in list_routes(settings)]
        log.info("Relaying %s", ", ".join(f"{name_stream(it.route.kind)} from {it.position.entry}" for it in relays))
        while not stopped.is_set():
            for relay in relays:
                metrics.count(relay, relay.relay())
            metrics.note_pass(relays, buffer)
