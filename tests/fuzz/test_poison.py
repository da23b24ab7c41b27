"""Very large and unreadable messages do not block their partition."""

from __future__ import annotations

import random

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from tests.fuzz.librdkafka import produce_with_header
from tests.fuzz.outcome import Tails, end_once
from tests.testkit.flow import Pricing
from tests.testkit.kafka import Raw
from tests.testkit.rides import encode, ride
from tests.testkit.wait import DEADLINE_S

pytestmark = pytest.mark.timeout(600)

NOISE = random.Random(7).randbytes(1_200_000)


def test_the_largest_message_of_the_topic_ends_once(pricing: Pricing, tails: Tails) -> None:
    """Exactly the largest: the broker rejects one more byte."""
    producer = Producer({**pricing.config, "message.max.bytes": 2 * 2**20})
    fits, too_large = 1_000_000, len(NOISE)
    while too_large - fits > 1:
        size = (fits + too_large) // 2
        if is_taken(producer, pricing.source, NOISE[:size]):
            fits = size
        else:
            too_large = size
    assert fits > 1_114_000, "rides_raw takes 1,114,112 bytes with the batch around it"
    end_once(pricing, tails, [Raw(NOISE[:fits], b"key", partition=partition) for partition in (0, 0, 1)])


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_large_messages_that_compress_well_end_once(pricing: Pricing, tails: Tails, codec: str) -> None:
    """The topic limits compressed batches, so their content may be much larger than its limit."""
    producer = Producer({**pricing.config, "message.max.bytes": 1_000_000_000, "compression.type": codec})
    for value in (bytes(16 * 2**20), b"[" * 16 * 2**20):
        assert is_taken(producer, pricing.source, value)
    end_once(pricing, tails, [])


def test_repetition_that_only_zstd_compresses_ends_once(pricing: Pricing, tails: Tails) -> None:
    """80 MiB compress to 1 MiB with zstd and to 80 MiB with lz4, whose window is 64 KiB. Dead letters use lz4."""
    producer = Producer({**pricing.config, "message.max.bytes": 1_000_000_000, "compression.type": "zstd"})
    assert is_taken(producer, pricing.source, NOISE[:1_000_000] * 84)
    end_once(pricing, tails, [])


def is_taken(producer: Producer, topic: str, value: bytes) -> bool:
    """Whether the broker accepts a message for partition 0, or rejects it as too large."""
    errors: list[KafkaError | None] = []
    producer.produce(topic, value, b"key", partition=0, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(DEADLINE_S) == 0
    (error,) = errors
    if error is not None and error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
        raise KafkaException(error)
    return error is None


def test_messages_with_header_keys_that_are_not_utf8_end_once(pricing: Pricing, tails: Tails) -> None:
    """The client cannot read these headers, so the message is processed without them."""
    for value in (encode(ride()), b"\xff"):
        for key in (b"\xff", b"caf\xe9", b"\xed\xa0\x80"):
            produce_with_header(pricing.config["bootstrap.servers"], pricing.source, b"\xfe", value, (key, b"\x00"))
    end_once(pricing, tails, [])
