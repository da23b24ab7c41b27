"""Wait for the relay."""

from __future__ import annotations

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from jobs.clients import make_kafka_config
from jobs.errors import ServiceUnavailableError
from jobs.flights.buffer import open_buffer
from jobs.flights.relay import list_routes, read_position
from jobs.flights.vertical import FlightsSettings
from jobs.kafka.client import open_consumer, translate_broker_errors


def count_waiting(settings: FlightsSettings) -> int:
    """The entries of the buffer that are not relayed.

    Raises:
        ServiceUnavailableError: Redis or Kafka does not answer.
    """
    config = make_kafka_config(settings)
    with (
        translate_broker_errors(config, "reading the positions of the relay"),
        open_consumer(config, "relay-waiting") as client,
        open_buffer(settings) as buffer,
    ):
        total = 0
        for route in list_routes(settings):
            position = read_position(config, client, route)
            total += buffer.count_after(route.kind, position.buffer, position.entry)[1]
        return total


def wait_until_relayed(settings: FlightsSettings, timeout_s: float) -> None:
    """Wait until nothing in the buffer waits for the relay.

    Raises:
        ServiceUnavailableError: something still waits after `timeout_s` seconds.
    """
    until_none = Retrying(retry=retry_if_result(bool), stop=stop_after_delay(timeout_s), wait=wait_fixed(0.5))
    try:
        until_none(count_waiting, settings)
    except RetryError as error:
        raise ServiceUnavailableError(
            f"{error.last_attempt.result():,} entries of the buffer still wait for the relay after {timeout_s:.0f} s. "
            "Is it running? Its log: .local/logs/relay.log, or docker compose logs flights-relay."
        ) from error
