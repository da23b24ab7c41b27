"""A claim: the offset range of each partition that a run works on, fixed when the run starts."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable
from contextlib import closing

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from jobs.errors import OffsetsError
from jobs.kafka.client import Config, translate_broker_errors
from jobs.kafka.dead_letter import is_dead_letter_of, read_headers
from jobs.kafka.offsets import SETTLE_S, Bounds, Committed, GroupReader, list_partitions, read_bounds
from jobs.kafka.ownership import check_ownership
from jobs.kafka.scan import Claim, claim_all, scan
from jobs.kafka.topic_ids import TopicIds
from jobs.kafka.transaction import open_group_writer
from jobs.settings import Settings

log = logging.getLogger(__name__)

_POLL_S = 1.0


class Plan(msgspec.Struct, frozen=True):
    """How one partition of a claim is cut into chunks, kept in the metadata of its committed offset until it is done.

    A later run reads the plan and cuts the same chunks. A sink that names its objects by chunk then writes the same
    objects again.
    """

    end: int
    chunk_records: int
    chunk_bytes: int


class Limits(msgspec.Struct, frozen=True):
    """A claim has at most `run_records` messages. A chunk ends with the message that reaches one of its limits."""

    run_records: int
    chunk_records: int
    chunk_bytes: int

    @classmethod
    def from_settings(cls, settings: Settings) -> Limits:
        return cls(settings.max_records_per_run, settings.chunk_records, settings.chunk_bytes)


class Claimed(msgspec.Struct, frozen=True):
    """The claim of one run, and the limits of its chunks.

    Attributes:
        topic_id: id of the topic when the claim was made.
        lag: offsets from the committed ones to the high watermarks, including those that open transactions hold back.
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


def describe_claims(topic: str, claims: Iterable[Claim]) -> str:
    """What a task logs about its claim, for example `Claimed rides_raw[0] 0 to 499, rides_raw[1] 3 to 9`."""
    ranges = (
        f"{topic}[{claim.partition}] {claim.start} to {claim.end - 1}" for claim in claims if claim.start < claim.end
    )
    return f"Claimed {', '.join(ranges)}"


def is_claimed(text: str, topic: str, partition: int, offset: int) -> bool:
    """Whether a text of `describe_claims` covers an offset. Other texts cover none."""
    ranges = re.findall(rf"(?<=[ ]){re.escape(topic)}\[{partition}\] (\d+) to (\d+)", text)
    return text.startswith("Claimed ") and any(int(first) <= offset <= int(last) for first, last in ranges)


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
    """Claim the messages that a group has not processed. Until this run commits, the next one claims the same range.

    Args:
        topic_ids: the ids of the topics that groups have read.
        wait_s: seconds to wait for a first message if the topic has no new one.
        settle_s: seconds to wait for the end of the transactions that are open now, so that the claim covers them.
        is_planned: whether every later try must cut the same chunks (see `Plan`).
        has_output: whether the group's output exists; called only if the group has no committed offsets.

    Raises:
        ConfigurationError, OffsetsError, ServiceUnavailableError: nothing was committed.
    """
    topic, group = reader.topic, reader.group
    with translate_broker_errors(config, f"reading {topic}"):
        topic_id = check_ownership(config, reader, topic_ids)
        claims, plan, lag = _claim(config, reader, limits, wait_s=wait_s, settle_s=settle_s, has_output=has_output)
        if is_planned and plan is None and any(part.start < part.end for part in claims):
            claims, plan = _commit_plan(config, topic, group, claims, limits)
    if plan is not None:
        limits = Limits(limits.run_records, plan.chunk_records, plan.chunk_bytes)
    return Claimed(topic, topic_id, group, tuple(claims), limits, lag)


def holds_results(config: Config, client: Consumer, topic: str) -> bool:
    """Whether a topic has a committed message. Offsets do not show that: aborted messages take offsets too."""
    return _has_message(config, client, topic, lambda _: True)


def holds_dead_letters(config: Config, client: Consumer, topic: str, source: str, dag_id: str) -> bool:
    """Whether a topic has a dead letter that one DAG wrote about a message of a source topic."""
    return _has_message(config, client, topic, lambda message: is_dead_letter_of(read_headers(message), source, dag_id))


def _has_message(config: Config, client: Consumer, topic: str, is_wanted: Callable[[Message], bool]) -> bool:
    bounds = read_bounds(config, client, topic, list_partitions(client, topic), settle_s=SETTLE_S)
    with closing(scan(client, topic, claim_all(bounds))) as lists:
        return any(is_wanted(message) for messages in lists for message in messages)


def choose_starting_offsets(
    topic: str, group: str, committed_offsets: dict[int, Committed], bounds: dict[int, Bounds], *, has_output: bool
) -> dict[int, int]:
    """Where a claim starts in each partition.

    Args:
        has_output: whether the group's output exists already, so that a new start would double it.

    Raises:
        OffsetsError: a committed offset is outside the topic's offsets, or the group has output but no offsets.
    """
    if has_output and all(committed.offset is None for committed in committed_offsets.values()):
        raise OffsetsError(
            f"Group {group} has no committed offsets on {topic}, but its output exists: they expired or were deleted "
            "with their copy. A start from the beginning would process every message twice. See "
            'docs/runbook_kafka.md, "Setting offsets".'
        )
    starts = {}
    for partition, bound in bounds.items():
        offset = committed_offsets[partition].offset
        start = bound.low if offset is None else offset
        if start < bound.low:
            raise OffsetsError(
                f"{topic}[{partition}]: group {group} committed offset {start}, but retention has deleted the "
                f"{bound.low - start} messages up to {bound.low} before the group read them. To continue with the "
                f"first message that is left: `make offsets GROUP={group} TO=beginning`."
            )
        check_end(topic, group, partition, start, bound)
        starts[partition] = start
    return starts


def check_end(topic: str, group: str, partition: int, offset: int, bounds: Bounds) -> None:
    """Raise OffsetsError if an offset that a group committed or planned is after the partition's end."""
    if offset > bounds.end:
        raise OffsetsError(
            f"{topic}[{partition}]: group {group} committed or planned offset {offset}, but the topic ends at "
            f"{bounds.end}: it lost its last messages (an unclean leader election, a restored disk). See "
            'docs/runbook_kafka.md, "Setting offsets".'
        )


def limit_claims(starts: dict[int, int], bounds: dict[int, Bounds], max_records: int) -> list[Claim]:
    """A claim of at most `max_records` offsets. Partitions share them equally, so a large backlog starves no other."""
    claims = []
    left = max_records
    by_backlog = sorted(starts, key=lambda partition: bounds[partition].end - starts[partition])
    for served, partition in enumerate(by_backlog):
        share = min(bounds[partition].end - starts[partition], left // (len(by_backlog) - served))
        claims.append(Claim(partition, starts[partition], starts[partition] + share))
        left -= share
    return sorted(claims, key=lambda claim: claim.partition)


def wait_for_message(client: Consumer, topic: str, starts: dict[int, int], timeout_s: float) -> bool:
    """Wait until a message arrives at or after `starts`; returns whether one did."""
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
    committed_offsets = reader.read_committed()
    bounds = read_bounds(config, client, topic, list(committed_offsets), settle_s=settle_s)
    is_new = all(committed.offset is None for committed in committed_offsets.values())
    starts = choose_starting_offsets(topic, group, committed_offsets, bounds, has_output=is_new and has_output(client))
    if planned := _find_plan(committed_offsets):
        claims, plan = planned
        for claim in claims:
            check_end(topic, group, claim.partition, claim.end, bounds[claim.partition])
        log.info("Resuming the plan of an earlier run of %s for %s", group, topic)
        return claims, plan, _count_lag(starts, bounds)
    claims, lag = claim_after(config, client, topic, starts, bounds=bounds, limits=limits, wait_s=wait_s)
    return claims, None, lag


def claim_after(
    config: Config,
    client: Consumer,
    topic: str,
    starts: dict[int, int],
    *,
    bounds: dict[int, Bounds],
    limits: Limits,
    wait_s: float,
) -> tuple[list[Claim], int]:
    """Claim the messages from `starts` on; without one, wait up to `wait_s` seconds. Returns the claim and the lag."""
    claims = limit_claims(starts, bounds, limits.run_records)
    if all(claim.start == claim.end for claim in claims) and wait_for_message(client, topic, starts, wait_s):
        bounds = read_bounds(config, client, topic, list(starts))
        claims = limit_claims(starts, bounds, limits.run_records)
    return claims, _count_lag(starts, bounds)


def _count_lag(starts: dict[int, int], bounds: dict[int, Bounds]) -> int:
    return sum(bounds[partition].high - start for partition, start in starts.items())


def _find_plan(committed_offsets: dict[int, Committed]) -> tuple[list[Claim], Plan] | None:
    """The claim that an earlier run planned and did not finish; None without one."""
    decoded = {partition: committed.decode_plan(Plan) for partition, committed in committed_offsets.items()}
    plans = {partition: plan for partition, plan in decoded.items() if plan is not None}
    if not plans:
        return None
    claims = [Claim(partition, committed_offsets[partition].offset or 0, plan.end) for partition, plan in plans.items()]
    return claims, next(iter(plans.values()))


def _commit_plan(
    config: Config, topic: str, group: str, claims: list[Claim], limits: Limits
) -> tuple[list[Claim], Plan]:
    """Commit the unchanged offsets with the plan. If another worker has committed a plan meanwhile, that one counts."""
    plans = {claim.partition: Plan(claim.end, limits.chunk_records, limits.chunk_bytes) for claim in claims}
    with open_group_writer(config, group, topic, limits.chunk_records) as writer:
        committed_offsets = writer.read_committed()
        if planned := _find_plan(committed_offsets):
            return planned
        if any(committed_offsets[claim.partition].offset not in (None, claim.start) for claim in claims):
            raise OffsetsError(
                f"Another worker of group {group} has committed offsets on {topic} since this worker made its claim. "
                "Nothing was written; the next try makes a new claim."
            )
        texts = {partition: msgspec.json.encode(plan) for partition, plan in plans.items()}
        with writer.transaction({claim.partition: claim.start for claim in claims}, texts):
            pass
    return claims, next(iter(plans.values()))
