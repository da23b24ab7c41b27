"""Calls of Kafka's client that do not return."""

from __future__ import annotations

import threading
import time

import pytest
from confluent_kafka import KafkaError, KafkaException

from jobs.errors import ServiceUnavailableError
from jobs.kafka import transaction


def test_a_client_call_that_never_returns_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction, "_GRACE_S", 0.1)
    released = threading.Event()

    def send_offsets_to_transaction(_seconds: float) -> None:
        released.wait()

    started = time.monotonic()
    with pytest.raises(ServiceUnavailableError, match="did not return from send_offsets_to_transaction"):
        transaction._call_with_timeout(send_offsets_to_transaction, 0.1)
    assert time.monotonic() - started < 5
    released.set()


def test_the_error_of_a_client_call_is_raised_unchanged() -> None:
    def commit_transaction(_seconds: float) -> None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    with pytest.raises(KafkaException):
        transaction._call_with_timeout(commit_transaction, 1)
