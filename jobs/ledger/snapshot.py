"""The offsets of consumer groups and the bounds of topics, of one moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from confluent_kafka import Consumer
from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_fixed

from jobs.errors import ServiceUnavailableError
from jobs.kafka.client import Config
from jobs.kafka.offsets import SETTLE_S, Bounds, list_partitions, read_bounds

Groups = TypeVar("Groups")


def take_snapshot(
    config: Config, client: Consumer, topics: Sequence[str], read_groups: Callable[[], Groups]
) -> tuple[Groups, list[dict[int, Bounds]]]:
    """Read the topics' bounds between two equal reads of the groups' offsets, so that all are of the same moment.

    First waits for the open transactions to end, up to SETTLE_S.

    Args:
        read_groups: reads the committed offsets.

    Returns:
        What `read_groups` returned, and the bounds of each topic by partition.

    Raises:
        ServiceUnavailableError: the groups commit too often for a consistent snapshot.
    """

    def read_topics(settle_s: float = 0) -> list[dict[int, Bounds]]:
        return [
            read_bounds(config, client, topic, list_partitions(client, topic), settle_s=settle_s) for topic in topics
        ]

    def attempt() -> tuple[Groups, list[dict[int, Bounds]]] | None:
        before = read_groups()
        bounds = read_topics()
        return (before, bounds) if read_groups() == before else None

    read_topics(SETTLE_S)
    retry_until_equal = Retrying(
        retry=retry_if_result(lambda snapshot: snapshot is None),
        stop=stop_after_attempt(20),
        wait=wait_fixed(0.1),
        retry_error_callback=lambda _: None,
    )
    snapshot: tuple[Groups, list[dict[int, Bounds]]] | None = retry_until_equal(attempt)
    if snapshot is None:
        raise ServiceUnavailableError("The groups commit too often for a consistent snapshot. Try again later.")
    return snapshot
