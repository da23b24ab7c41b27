"""Poison by size and by number: no bad message blocks its partition, and many of them do not starve it."""

from __future__ import annotations

import random
import statistics
import time
from itertools import islice

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from jobs.kafka.consume import Limits
from ride_faults import every_fault
from ride_generator import NEW_YORK, make_rides, now
from tests.fuzz.conftest import EXAMPLES
from tests.fuzz.librdkafka import produce_with_header
from tests.fuzz.outcome import Tails, end_once
from tests.helpers import DEADLINE_S, Raw, encode, produce, ride
from tests.integration.flow import Pricing

pytestmark = pytest.mark.timeout(600)

LEAST_SPEED = 0.4
MESSAGES = 50_000
NOISE = random.Random(7).randbytes(1_200_000)


def test_bad_messages_drain_at_least_at_0_4_of_the_speed_of_good_ones(
    pricing: Pricing, capsys: pytest.CaptureFixture[str]
) -> None:
    rides = list(islice(make_rides(NEW_YORK, 7, now), 10_000))
    good: list[bytes | None] = [encode(made) for made in rides]
    bad = [fault(made) for (_, fault), made in zip(every_fault(random.Random(7)), rides, strict=False)]
    pricing.limits = Limits(run_records=1_000_000, chunk_records=50_000, chunk_bytes=2**25)  # as by default

    def seconds(values: list[bytes | None], results: int, rejects: int) -> float:
        produce(
            pricing.config, pricing.source, [Raw(value, partition=0) for value in values * (MESSAGES // len(values))]
        )
        started = time.perf_counter()
        published = pricing.run()
        spent = time.perf_counter() - started
        assert (published.results, published.rejects.total()) == (results, rejects)
        return spent

    seconds(good, MESSAGES, 0)  # the first transaction of a group takes longer
    # In turn, so that what else runs on this machine slows both down; the quickest of each is the least disturbed.
    taken = [(seconds(good, MESSAGES, 0), seconds(bad, 0, MESSAGES)) for _ in range(3 if EXAMPLES < 100 else 9)]
    quickest = [min(column) for column in zip(*taken, strict=True)]
    ratio = quickest[0] / quickest[1]
    with capsys.disabled():
        print(
            f"\n{MESSAGES:,} messages of one partition: good {MESSAGES / quickest[0]:,.0f}/s, "
            f"bad {MESSAGES / quickest[1]:,.0f}/s, ratio {ratio:.2f}; pair by pair "
            f"{', '.join(f'{good_s / bad_s:.2f}' for good_s, bad_s in taken)}"
        )
    assert max(ratio, statistics.median(good_s / bad_s for good_s, bad_s in taken)) >= LEAST_SPEED


def test_the_largest_message_that_the_topic_takes(pricing: Pricing, tails: Tails) -> None:
    """To the byte: of one more the broker says that it is too large."""
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
def test_large_messages_that_were_small_on_the_way(pricing: Pricing, tails: Tails, codec: str) -> None:
    """The topic limits batches as they are compressed, so what is in them may be much larger than its limit."""
    producer = Producer({**pricing.config, "message.max.bytes": 1_000_000_000, "compression.type": codec})
    for value in (bytes(16 * 2**20), b"[" * 16 * 2**20):
        assert is_taken(producer, pricing.source, value)
    end_once(pricing, tails, [])


def test_repetition_that_only_zstd_sees(pricing: Pricing, tails: Tails) -> None:
    """80 MiB that zstd writes in one, and lz4, with its window of 64 KiB, in 80: dead letters are sent with lz4."""
    producer = Producer({**pricing.config, "message.max.bytes": 1_000_000_000, "compression.type": "zstd"})
    assert is_taken(producer, pricing.source, NOISE[:1_000_000] * 84)
    end_once(pricing, tails, [])


def is_taken(producer: Producer, topic: str, value: bytes) -> bool:
    """Whether the broker takes a message for partition 0, or finds it too large."""
    errors: list[KafkaError | None] = []
    producer.produce(topic, value, b"key", partition=0, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(DEADLINE_S) == 0
    (error,) = errors
    if error is not None and error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
        raise KafkaException(error)
    return error is None


def test_header_keys_that_are_not_utf8(pricing: Pricing, tails: Tails) -> None:
    """The client cannot read such headers: the message goes on without them, key and value as they are."""
    for value in (encode(ride()), b"\xff"):
        for key in (b"\xff", b"caf\xe9", b"\xed\xa0\x80"):
            produce_with_header(pricing.config["bootstrap.servers"], pricing.source, b"\xfe", value, (key, b"\x00"))
    end_once(pricing, tails, [])
