"""Reprocess a window of ride time: price its rides again, after a bug in pricing was fixed.

Kafka is append-only, so the raw messages of these rides are sent to rides_raw again, byte for byte, with marks
(`jobs.rides.ops.superseded`). The DAGs price, index and export the copies like any other message. At the end, the rows
of superseded results are deleted from Parquet, and rides that are rejected now from Elasticsearch.

It can be killed anywhere and resumed: the plan is in the offset metadata of the consumer group `reprocess`, and copies
and offsets are in the same transactions. The DAGs may run meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from uuid import UUID

import msgspec
import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, Message
from numpy.typing import NDArray
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from jobs import clients
from jobs.errors import ConfigurationError, OffsetsError, ServiceUnavailableError
from jobs.kafka.client import Config, open_consumer, translate_broker_errors
from jobs.kafka.dead_letter import Headers, is_dead_letter_of, read_all_headers, read_headers, read_position
from jobs.kafka.lag import wait_until_done
from jobs.kafka.offsets import (
    Bounds,
    Committed,
    list_held_back,
    list_partitions,
    open_group_reader,
    read_bounds,
    read_group_offsets,
    read_high_watermarks,
)
from jobs.kafka.ownership import check_ownership
from jobs.kafka.scan import Claim, scan
from jobs.kafka.transaction import GroupWriter, open_group_writer
from jobs.rides.contract import parse_ride
from jobs.rides.ops.superseded import (
    Mark,
    Position,
    Superseded,
    add_mark,
    encode_ride_id,
    format_positions,
    is_before,
    parse_positions,
    read_identity,
    read_mark,
)
from jobs.rides.pricing import normalise_timestamps
from jobs.rides.transform import REPETITIVE, SINK_SCHEMA
from jobs.rides.vertical import COMPUTE_GROUP, EXPORT_GROUP, INDEX_GROUP, RidesSettings
from jobs.rides.vertical import REPROCESS_GROUP as GROUP
from jobs.sinks.elasticsearch import delete_where
from jobs.sinks.parquet import check_bucket, delete_rows, list_objects
from jobs.strict_json import RejectedError, normalise_timestamp

_CHUNK = 10_000  # the maximum number of messages in a transaction
_SNAPSHOT_WITHIN_S = 60
_PARALLEL_OBJECTS = 8
# Elasticsearch accepts 65,536 terms in a query.
_RIDES_PER_QUERY = 10_000

# The user of Elasticsearch must be allowed to delete.
Systems = clients.Systems[RidesSettings]


class Window(msgspec.Struct, frozen=True):
    """The rides with start <= ts < end. Both are in the contract's canonical form, which sorts by time."""

    start: str
    end: str

    def __str__(self) -> str:
        return f"FROM={self.start} TO={self.end}"


class Plan(msgspec.Struct, frozen=True):
    """The plan for one partition of rides_raw. It is the metadata of the group's offset until all is done.

    Messages before `priced` were priced when the plan was made; their results are before `supersedes` (see `Mark`).
    Messages up to `end` are copied if they belong to the rides.
    """

    window: Window
    priced: int
    end: int
    supersedes: str


class Copies(msgspec.Struct):
    """Copies on rides_raw: their count, rides, first and last ts, and the results that they supersede."""

    first: str
    last: str
    count: int = 0
    rides: set[bytes] = msgspec.field(default_factory=set)
    superseded: Superseded = msgspec.field(default_factory=Superseded)

    def add(self, mark: Mark, ride: bytes, ts: str) -> None:
        self.count += 1
        self.rides.add(ride)
        self.superseded.add(mark, ride)
        self.first, self.last = min(self.first, ts), max(self.last, ts)

    def update(self, other: Copies) -> None:
        self.count += other.count
        self.rides |= other.rides
        self.superseded.update(other.superseded)
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)


class Work(msgspec.Struct, frozen=True):
    """The work of a reprocessing.

    `plans` are by partition. All messages of `rides` (16 bytes each) are copied, except `excluded`: dead letters, and
    messages that an earlier reprocessing has replaced. `earlier`: the copies of the window's rides by earlier
    reprocessings, whose purge is repeated because sinks may have been rebuilt since. `is_begun`: an earlier call has
    started this work.
    """

    plans: dict[int, Plan]
    rides: set[bytes]
    excluded: set[Position]
    earlier: Copies
    is_begun: bool

    @property
    def plan(self) -> Plan:
        """One of the plans, for the fields that are the same in all."""
        return next(iter(self.plans.values()))


class Reprocessed(msgspec.Struct):
    """The result of a reprocessing.

    `rides` were priced again, by `copies`. `rows` of superseded results were deleted from Parquet, and `rejected` rides
    from Elasticsearch. `untouched` rides of the window keep their prices: retention has deleted their messages.
    """

    rides: int = 0
    copies: int = 0
    rows: int = 0
    rejected: int = 0
    untouched: int = 0


def parse_window(start: str, end: str) -> Window:
    """Parse the two times of a window: RFC 3339 with an offset, or a date, which means midnight UTC.

    Raises:
        ConfigurationError: a time is invalid, or the window is empty.
    """
    window = Window(_parse_time("FROM", start), _parse_time("TO", end))
    if window.start >= window.end:
        raise ConfigurationError(f"{window} is empty: FROM must be before TO, which is exclusive.")
    return window


def _parse_time(name: str, text: str) -> str:
    try:
        midnight = datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
    except ValueError:
        pass
    else:
        text = midnight.isoformat()
    try:
        return normalise_timestamp(text)
    except RejectedError as error:
        raise ConfigurationError(
            f"{name}={text!r} is invalid. Give a date (2026-01-05, midnight UTC) or a time with an offset "
            "(2026-01-05T08:00:00Z)."
        ) from error


def plan_work(systems: Systems, window: Window) -> Work:
    """Find the rides of the window. Returns the plans of an unfinished reprocessing of it, or else new ones.

    Raises:
        ConfigurationError: the reprocessing of another window is unfinished.
        ServiceUnavailableError: a broker does not answer, or there is no consistent snapshot.
    """
    settings, config = systems.settings, systems.config
    topic = settings.raw_topic
    check_bucket(systems.gcs, settings.bucket)  # fail before any copy is sent
    with translate_broker_errors(config, f"reading {topic}"), open_group_reader(config, topic, GROUP) as reader:
        check_ownership(config, reader)
        client = reader.consumer
        begun = _read_plans(reader.read_committed())
        if begun and (other := next(iter(begun.values())).window) != window:
            raise ConfigurationError(f"Another reprocessing is unfinished. Finish it first: make reprocess {other}")
        plans = begun or _make_plans(config, client, settings, window)
        dead = _find_dead_letters(systems, client)
        inside: dict[Position, bytes] = {}
        copies: list[tuple[Mark, bytes, str]] = []
        copied: set[Position] = set()
        ranges = {partition: (0, plan.end) for partition, plan in plans.items()}
        for messages in _scan_ranges(systems, client, topic, ranges, "reading"):
            marks = {_get_position(message): read_mark(headers) for message, headers in _pair_with_headers(messages)}
            copied.update(mark.source for mark in marks.values() if mark is not None)
            for message, ride, ts in _identify(messages):
                if (mark := marks.get(_get_position(message))) is not None:
                    copies.append((mark, ride, ts))
                if message.offset() < plans[message.partition()].priced and window.start <= ts < window.end:
                    inside[_get_position(message)] = ride
        excluded = dead | copied
        rides = {ride for position, ride in inside.items() if position not in excluded}
    earlier, window_rides = Copies(window.start, window.end), set(inside.values())
    for mark, ride, ts in copies:
        if ride in window_rides:
            earlier.add(mark, ride, ts)
    return Work(plans, rides, excluded, earlier, is_begun=bool(begun))


def reprocess(systems: Systems, work: Work, nudge: Callable[[], object]) -> Reprocessed:
    """Do the work, or what is left of it.

    Args:
        nudge: called when all copies are indexed and only their export is left.

    Raises:
        OffsetsError: another process has started a reprocessing since `plan_work`.
        ServiceUnavailableError: a service does not answer, or the DAGs make no progress. Run it again to resume.
    """
    with translate_broker_errors(systems.config, "reprocessing"), open_consumer(systems.config, GROUP) as client:
        _send(systems, client, work)
        _wait_for_dags(systems, client, nudge)
        copies = _read_copies(systems, client, work)
    done = Reprocessed(rides=len(copies.rides), copies=copies.count)
    copies.update(work.earlier)
    _purge_parquet(systems, work, copies, done)
    _purge_elasticsearch(systems, copies, done)
    with open_group_writer(systems.config, GROUP, systems.settings.raw_topic, 1) as writer:
        _check_plans(writer.read_committed(), work.plans)
        with writer.transaction({partition: plan.end for partition, plan in work.plans.items()}):
            pass  # the same offsets without the plan
    return done


# --- Planning ----------------------------------------------------------------------------------


def _read_plans(offsets: dict[int, Committed]) -> dict[int, Plan]:
    return {partition: plan for partition, offset in offsets.items() if (plan := offset.decode_plan(Plan)) is not None}


def _check_plans(offsets: dict[int, Committed], expected: dict[int, Plan]) -> None:
    if _read_plans(offsets) != expected:
        raise OffsetsError(
            "Another process has started a reprocessing, or finished this one. Run the command again to check."
        )


def _make_plans(config: Config, client: Consumer, settings: RidesSettings, window: Window) -> dict[int, Plan]:
    """Make plans from committed offsets and the results up to them, with no commit of dag_compute_cost in between."""
    raw, result = settings.raw_topic, settings.result_topic

    def attempt() -> dict[int, Plan] | None:
        priced = read_group_offsets(config, raw, COMPUTE_GROUP)
        result_bounds = _read_settled_bounds(config, client, result)
        text = format_positions({partition: bound.end for partition, bound in result_bounds.items()})
        if read_group_offsets(config, raw, COMPUTE_GROUP) != priced:
            return None
        # Messages that are held back come before the copies, so wait until they are visible.
        raw_bounds = _read_settled_bounds(config, client, raw)
        return {
            partition: Plan(window, priced[partition] or bound.low, bound.end, text)
            for partition, bound in raw_bounds.items()
        }

    retry_until_equal = Retrying(
        retry=retry_if_result(lambda plans: plans is None),
        stop=stop_after_delay(_SNAPSHOT_WITHIN_S),
        wait=wait_fixed(0.1),
        retry_error_callback=lambda _: None,
    )
    plans: dict[int, Plan] | None = retry_until_equal(attempt)
    if plans is None:
        raise ServiceUnavailableError(
            f"{COMPUTE_GROUP} commits too often for a consistent snapshot. Nothing was changed. Try again later."
        )
    return plans


def _read_settled_bounds(config: Config, client: Consumer, topic: str) -> dict[int, Bounds]:
    """Read the bounds of a topic after its open transactions have ended.

    Raises:
        ServiceUnavailableError: one stays open.
    """
    topic_bounds = read_bounds(config, client, topic, list_partitions(client, topic), settle_s=_SNAPSHOT_WITHIN_S)
    if held := list_held_back(topic, topic_bounds):
        raise ServiceUnavailableError(
            f"An open transaction holds messages back: {'; '.join(map(str, held))}. Without them, newer prices could "
            "be overwritten. Nothing was changed. `make ledger` names the producer. Try again when it has ended."
        )
    return topic_bounds


def _find_dead_letters(systems: Systems, client: Consumer) -> set[Position]:
    """Find the raw messages that became dead letters instead of results."""
    settings = systems.settings
    positions: set[Position] = set()
    topic_bounds = _read_settled_bounds(systems.config, client, settings.dlq_topic)
    ranges = {partition: (0, bound.end) for partition, bound in topic_bounds.items()}
    for messages in _scan_ranges(systems, client, settings.dlq_topic, ranges, "reading"):
        for headers in read_all_headers(messages):
            is_ours = is_dead_letter_of(headers, settings.raw_topic, COMPUTE_GROUP)
            if is_ours and (position := read_position(headers)):
                positions.add(position)
    return positions


def _scan_ranges(
    systems: Systems, client: Consumer, topic: str, ranges: dict[int, tuple[int, int]], verb: str
) -> Iterator[list[Message]]:
    """Yield the messages at offsets [start, end) of each partition that retention has not deleted."""
    topic_bounds = read_bounds(systems.config, client, topic, list(ranges))
    claims = [
        Claim(partition, max(start, topic_bounds[partition].low), end) for partition, (start, end) in ranges.items()
    ]
    return scan(client, topic, claims, systems.progress, verb)


def _identify(messages: list[Message]) -> Iterator[tuple[Message, bytes, str]]:
    """Yield each valid message with its ride and its ts in canonical form."""
    identified = [(message, *pair) for message in messages if (pair := read_identity(message)) is not None]
    times = normalise_timestamps(pa.array([ts for _, _, ts in identified], pa.string())).to_pylist()
    for (message, ride, _), ts in zip(identified, times, strict=True):
        if ts is not None:
            yield message, ride, ts


def _pair_with_headers(messages: list[Message]) -> Iterator[tuple[Message, Headers]]:
    return (
        (message, headers) for message, headers in zip(messages, read_all_headers(messages), strict=True) if headers
    )


def _get_position(message: Message) -> Position:
    return message.partition(), message.offset()


# --- Sending ---------------------------------------------------------------------------------------


def _send(systems: Systems, client: Consumer, work: Work) -> None:
    """Send copies of the rides' messages, each to its own partition and in the same order."""
    topic = systems.settings.raw_topic
    with open_group_writer(systems.config, GROUP, topic, _CHUNK) as writer:
        committed = writer.read_committed()
        _check_plans(committed, work.plans if work.is_begun else {})
        if not work.is_begun:
            _commit(writer, work, dict.fromkeys(work.plans, 0))
            committed = writer.read_committed()
        ranges = {partition: (committed[partition].offset or 0, plan.end) for partition, plan in work.plans.items()}
        for messages in _scan_ranges(systems, client, topic, ranges, "sending"):
            copies = [message for message, ride, _ in _identify(messages) if _is_copied(message, ride, work)]
            if copies:
                _commit(writer, work, {messages[-1].partition(): messages[-1].offset() + 1}, copies)
        _commit(writer, work, {partition: plan.end for partition, plan in work.plans.items()})


def _is_copied(message: Message, ride: bytes, work: Work) -> bool:
    if ride not in work.rides or _get_position(message) in work.excluded:
        return False
    if message.offset() < work.plans[message.partition()].priced:
        return True
    # Not priced when the plan was made. It must follow the copies, so that the ride's latest state stays the latest.
    try:
        parse_ride(message.value())
    except RejectedError:
        return False
    return True


def _commit(writer: GroupWriter, work: Work, offsets: dict[int, int], copies: list[Message] | None = None) -> None:
    plans = {partition: msgspec.json.encode(work.plans[partition]) for partition in offsets}
    with writer.transaction(offsets, plans):
        for message in copies or []:
            mark = Mark(_get_position(message), work.plans[message.partition()].supersedes)
            headers = add_mark(read_headers(message), mark)
            writer.send(writer.topic, message.key(), message.value(), headers, message.partition())


# --- Waiting ---------------------------------------------------------------------------------------


def _wait_for_dags(systems: Systems, client: Consumer, nudge: Callable[[], object]) -> None:
    """Wait until all messages that are on rides_raw now are priced, and their results indexed and exported."""
    settings, config = systems.settings, systems.config
    raw = read_high_watermarks(config, settings.raw_topic, list_partitions(client, settings.raw_topic))
    _wait_for(systems, settings.raw_topic, COMPUTE_GROUP, raw, "rides priced")
    result = read_high_watermarks(config, settings.result_topic, list_partitions(client, settings.result_topic))
    _wait_for(systems, settings.result_topic, INDEX_GROUP, result, "rides indexed")
    _wait_for(systems, settings.result_topic, EXPORT_GROUP, result, "rides exported", nudge)


def _wait_for(  # noqa: PLR0917
    systems: Systems,
    topic: str,
    group: str,
    ends: dict[int, int],
    title: str,
    nudge: Callable[[], object] = lambda: None,
) -> None:
    """Wait until a group has passed these offsets. Calls `nudge` immediately and after each change."""
    wait_until_done(
        lambda: {title: _count_left(systems, topic, group, ends)},
        systems.progress,
        on_move=lambda _: nudge(),
        advise=lambda: "Check that both DAGs are on, and read the logs of their tasks. Then run it again to resume.",
    )


def _count_left(systems: Systems, topic: str, group: str, ends: dict[int, int]) -> int:
    with open_group_reader(systems.config, topic, group) as reader:
        committed = reader.observe()
        topic_bounds = read_bounds(systems.config, reader.consumer, topic, list(ends))
    starts = {partition: max(committed[partition].offset or 0, topic_bounds[partition].low) for partition in ends}
    return sum(max(0, end - starts[partition]) for partition, end in ends.items())


# --- Purging ---------------------------------------------------------------------------------------


def _read_copies(systems: Systems, client: Consumer, work: Work) -> Copies:
    """Collect the copies of this work from their marks. Messages that retention has deleted since are not needed."""
    topic = systems.settings.raw_topic
    topic_bounds = read_bounds(systems.config, client, topic, list(work.plans))
    ranges = {partition: (plan.end, topic_bounds[partition].end) for partition, plan in work.plans.items()}
    copies = Copies(work.plan.window.start, work.plan.window.end)
    for messages in _scan_ranges(systems, client, topic, ranges, "counting"):
        for message, ride, ts in _identify(messages):
            mark = read_mark(read_headers(message))
            if mark is not None and mark.supersedes == work.plan.supersedes:
                copies.add(mark, ride, ts)
    return copies


def _purge_parquet(systems: Systems, work: Work, copies: Copies, done: Reprocessed) -> None:
    settings = systems.settings
    untouched: set[bytes] = set()

    def is_superseded(rows: pa.RecordBatch) -> NDArray[np.bool_]:
        ids = list(map(encode_ride_id, rows["ride_id"].to_pylist()))
        untouched.update(_find_untouched(rows, ids, work.plan, copies.rides))
        partitions, offsets = rows["kafka_partition"].to_numpy(), rows["kafka_offset"].to_numpy()
        return copies.superseded.covers(pa.array(ids, pa.binary(16)), partitions, offsets)

    hours = _format_hour(copies.first), _format_hour(copies.last)
    blobs = list_objects(systems.gcs, settings.bucket, settings.gcs_prefix, hours)
    with ThreadPoolExecutor(_PARALLEL_OBJECTS) as pool:
        dropped = pool.map(lambda blob: delete_rows(blob, SINK_SCHEMA, REPETITIVE, is_superseded), blobs)
        for number, rows in enumerate(dropped, start=1):
            done.rows += rows
            systems.progress("purging objects", number, len(blobs))
    done.untouched = len(untouched)


def _format_hour(ts: str) -> str:
    return ts[:13].replace("-", "/").replace("T", "/")


def _find_untouched(rows: pa.RecordBatch, ids: list[bytes], plan: Plan, rides: set[bytes]) -> Iterator[bytes]:
    """Yield the rides of the window that were priced before the plan and are not priced again."""
    start, end = (np.datetime64(text.removesuffix("Z")) for text in (plan.window.start, plan.window.end))
    ts = rows["ts"].to_numpy()
    is_inside = (ts >= start) & (ts < end)
    is_old = is_before(
        parse_positions(plan.supersedes), rows["kafka_partition"].to_numpy(), rows["kafka_offset"].to_numpy()
    )
    return (ids[row] for row in np.flatnonzero(is_inside & is_old).tolist() if ids[row] not in rides)


def _purge_elasticsearch(systems: Systems, copies: Copies, done: Reprocessed) -> None:
    """Delete documents that no newer result has overwritten: their rides are rejected now."""
    for text, rides in copies.superseded.items():
        is_superseded = [
            {"bool": {"filter": [{"term": {"kafka_partition": partition}}, {"range": {"kafka_offset": {"lt": end}}}]}}
            for partition, end in parse_positions(text).items()
        ]
        ids = [str(UUID(bytes=ride)) for ride in rides]
        for start in range(0, len(ids), _RIDES_PER_QUERY):
            part = {"terms": {"ride_id": ids[start : start + _RIDES_PER_QUERY]}}
            query = {"bool": {"filter": [part], "should": is_superseded, "minimum_should_match": 1}}
            done.rejected += delete_where(systems.elasticsearch, systems.settings.rides_index, query)
