"""The offset range that a run works on, per partition, fixed at its start."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import closing

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from jobs.errors import OffsetsError
from jobs.kafka.client import Config, broker_errors
from jobs.kafka.dead_letter import headers_of, is_dead_letter_of
from jobs.kafka.offsets import SETTLE_S, Bounds, Committed, GroupReader, bounds, partitions
from jobs.kafka.ownership import check_ownership
from jobs.kafka.scan import Claim, scan, whole
from jobs.kafka.topic_ids import TopicIds
from jobs.kafka.transaction import group_writer
from jobs.settings import Settings

log = logging.getLogger(__name__)

_POLL_S = 1.0


class Plan(msgspec.Struct, frozen=True):
    """How one partition of a claim is cut: kept in the metadata of its committed offset until the claim is done.

    A later run that finds it cuts the same chunks, so that a sink which names its objects by chunk writes the same
    objects again.
    """

    end: int
    chunk_records: int
    chunk_bytes: int


class Limits(msgspec.Struct, frozen=True):
    """A claim has at most `run_records` messages, a chunk ends with the message that reaches either chunk limit."""

    run_records: int
    chunk_records: int
    chunk_bytes: int

    @classmethod
    def from_settings(cls, settings: Settings) -> Limits:
        return cls(settings.max_records_per_run, settings.chunk_records, settings.chunk_bytes)


class Claimed(msgspec.Struct, frozen=True):
    """The claim of one run, with the limits by which it is to be cut into chunks.

    `topic_id` is that of the topic when the claim was made. `lag` is by how many offsets the group was behind, counted
    to the high watermarks, so what open transactions hold back is in it.
    """

    topic: str
    topic_id: str
    group: str
    claims: tuple[Claim, ...]
    limits: Limits
    lag: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return all(claim.start == claim.end for claim in self.claims)


def claim(
    config: Config,
    reader: GroupReader,
    limits: Limits,
    *,
    topic_ids: TopicIds,
    wait_s: float = 0,
    settle_s: float = 0,
    is_planned: bool = False,
    has_output: Callable[[Consumer], bool],
) -> Claimed:
    """Claim what a group has still to do on its topic. The next run claims the same range until this one commits.

    Args:
        topic_ids: the topics that groups have worked with.
        wait_s: seconds to wait for a first message if there is none.
        settle_s: seconds to wait for the end of the transactions that are open now, so that the claim covers them.
        is_planned: whether the cut has to be the same at every later try (see `Plan`).
        has_output: tells whether the group's output exists; called only when it has no committed offsets.

    Raises:
        ConfigurationError, OffsetsError, ServiceUnavailableError: nothing was committed.
    """
    topic, group = reader.topic, reader.group
    with broker_errors(config, f"reading {topic}"):
        topic_id = check_ownership(config, reader, topic_ids)
        claims, plan, lag = _claim(config, reader, limits, wait_s=wait_s, settle_s=settle_s, has_output=has_output)
        if is_planned and plan is None and any(it.start < it.end for it in claims):
            claims, plan = _plan(config, topic, group, claims, limits)
    if plan is not None:
        limits = Limits(limits.run_records, plan.chunk_records, plan.chunk_bytes)
    return Claimed(topic, topic_id, group, tuple(claims), limits, lag)


def holds_results(config: Config, client: Consumer, topic: str) -> bool:
    """Whether a topic has a committed message. Offsets alone do not tell: aborted messages take some too."""
    return _any(config, client, topic, lambda _: True)


def holds_dead_letters(config: Config, client: Consumer, topic: str, source: str, dag_id: str) -> bool:
    """Whether a topic has a dead letter of a source topic that one DAG has written."""
    return _any(config, client, topic, lambda message: is_dead_letter_of(headers_of(message), source, dag_id))


def _any(config: Config, client: Consumer, topic: str, is_wanted: Callable[[Message], bool]) -> bool:
    within = bounds(config, client, topic, partitions(client, topic), settle_s=SETTLE_S)
    with closing(scan(client, topic, whole(within))) as lists:
        return any(is_wanted(message) for messages in lists for message in messages)


def starting_offsets(
    topic: str, group: str, at: dict[int, Committed], within: dict[int, Bounds], *, has_output: bool
) -> dict[int, int]:
    """Where a claim starts in each partition.

    Args:
        has_output: whether the group's output exists already, so that starting again would double it.

    Raises:
        OffsetsError: a committed offset lies outside what the topic holds, or the group has output but no offsets.
    """
    if has_output and all(committed.offset is None for committed in at.values()):
        raise OffsetsError(
            f"Group {group} has no committed offsets on {topic}, but its output exists: they expired or were deleted "
            "with their copy (the topic is the same), and starting from the beginning would do the work twice: "
            'docs/runbook_kafka.md, "Setting offsets".'
        )
    starts = {}
    for partition, bound in within.items():
        offset = at[partition].offset
        start = bound.low if offset is None else offset
        if start < bound.low:
            raise OffsetsError(
                f"{topic}[{partition}]: group {group} committed offset {start}, but retention has deleted the "
                f"{bound.low - start} messages up to {bound.low}. They are lost to it. To go on from what is left: "
                f"`make offsets GROUP={group} TO=beginning`."
            )
        check_end(topic, group, partition, start, bound)
        starts[partition] = start
    return starts


def check_end(topic: str, group: str, partition: int, offset: int, within: Bounds) -> None:
    """Raises OffsetsError if an offset that a group has committed or planned lies behind the partition's end."""
    if offset > within.end:
        raise OffsetsError(
            f"{topic}[{partition}]: group {group} committed or planned offset {offset}, but the topic ends at "
            f"{within.end}: its end was lost (an unclean broker, a restored disk). docs/runbook_kafka.md, "
            '"Setting offsets".'
        )


def limited(starts: dict[int, int], within: dict[int, Bounds], max_records: int) -> list[Claim]:
    """A claim of at most `max_records` offsets in all, shared out so that no backlog starves a smaller one."""
    claims = []
    left = max_records
    by_backlog = sorted(starts, key=lambda partition: within[partition].end - starts[partition])
    for served, partition in enumerate(by_backlog):
        share = min(within[partition].end - starts[partition], left // (len(by_backlog) - served))
        claims.append(Claim(partition, starts[partition], starts[partition] + share))
        left -= share
    return sorted(claims, key=lambda claim: claim.partition)


def wait_for_message(client: Consumer, topic: str, starts: dict[int, int], timeout_s: float) -> bool:
    """Wait until a message arrives behind `starts`; whether one did."""
    client.assign([TopicPartition(topic, partition, offset) for partition, offset in starts.items()])
    deadline = time.monotonic() + timeout_s
    try:
        while (left := deadline - time.monotonic()) > 0:
            message = client.poll(min(left, _POLL_S))
            if message is None:
                continue
            if (error := message.error()) is None:
                return True
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
        return False
    finally:
        client.unassign()


def _claim(
    config: Config,
    reader: GroupReader,
    limits: Limits,
    *,
    wait_s: float,
    settle_s: float,
    has_output: Callable[[Consumer], bool],
) -> tuple[list[Claim], Plan | None, int]:
    topic, group, client = reader.topic, reader.group, reader.consumer
    at = reader.committed()
    within = bounds(config, client, topic, list(at), settle_s=settle_s)
    is_new = all(found.offset is None for found in at.values())
    starts = starting_offsets(topic, group, at, within, has_output=is_new and has_output(client))
    if found := _planned(at):
        claims, plan = found
        for claim in claims:
            check_end(topic, group, claim.partition, claim.end, within[claim.partition])
        log.info("Taking up the plan that an earlier run of %s has made for %s", group, topic)
        return claims, plan, _lag(starts, within)
    claims = limited(starts, within, limits.run_records)
    if all(claim.start == claim.end for claim in claims) and wait_for_message(client, topic, starts, wait_s):
        within = bounds(config, client, topic, list(at))
        claims = limited(starts, within, limits.run_records)
    return claims, None, _lag(starts, within)


def _lag(starts: dict[int, int], within: dict[int, Bounds]) -> int:
    return sum(within[partition].high - start for partition, start in starts.items())


def _planned(at: dict[int, Committed]) -> tuple[list[Claim], Plan] | None:
    """The claim that an earlier run planned and did not finish."""
    plans = {partition: plan for partition, found in at.items() if (plan := found.plan(Plan)) is not None}
    if not plans:
        return None
    claims = [Claim(partition, at[partition].offset or 0, plan.end) for partition, plan in plans.items()]
    return claims, next(iter(plans.values()))


def _plan(config: Config, topic: str, group: str, claims: list[Claim], limits: Limits) -> tuple[list[Claim], Plan]:
    """Commit the unchanged offsets with the plan, unless another worker has planned meanwhile: then its plan counts."""
    plans = {claim.partition: Plan(claim.end, limits.chunk_records, limits.chunk_bytes) for claim in claims}
    with group_writer(config, group, topic, limits.chunk_records) as writer:
        at = writer.committed()
        if found := _planned(at):
            return found
        if any(at[claim.partition].offset not in (None, claim.start) for claim in claims):
            raise OffsetsError(
                f"Another worker of group {group} has committed offsets on {topic} since this one made its claim. "
                "Nothing was written; the next try claims again."
            )
        texts = {partition: msgspec.json.encode(plan) for partition, plan in plans.items()}
        with writer.transaction({claim.partition: claim.start for claim in claims}, texts):
            pass
    return claims, next(iter(plans.values()))
