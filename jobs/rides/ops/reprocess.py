"""Pricing a window of ride time anew, end to end, for when a price was wrong and the code has been mended.

Kafka is append-only, so the raw messages of the window's rides are sent to rides_raw once more, byte for byte, with
marks (`jobs.rides.ops.superseded`). The DAGs price, index and export the copies like any other message. In the end the
rows of superseded results are taken out of Parquet, and rides that are rejected by now out of Elasticsearch.

It may be killed anywhere: the plan is kept with the offsets of a consumer group of its own, and copies are sent in
transactions with those offsets, as by the DAGs. Nothing has to be paused.
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
from jobs.kafka.dead_letter import Headers, is_dead_letter_of, read_all_headers, read_error, read_headers
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
from jobs.rides.contract import RejectedError, normalise_timestamp, parse_ride
from jobs.rides.ops.superseded import (
    Mark,
    Position,
    Superseded,
    identity,
    is_before,
    mark_headers,
    mark_of,
    parse_positions,
    positions_text,
    ride_bytes,
)
from jobs.rides.pricing import normalised_timestamps
from jobs.rides.transform import REPETITIVE, SINK_SCHEMA
from jobs.rides.vertical import COMPUTE_GROUP, EXPORT_GROUP, INDEX_GROUP, RidesSettings
from jobs.rides.vertical import REPROCESS_GROUP as GROUP
from jobs.sinks.elasticsearch import delete_where
from jobs.sinks.parquet import check_bucket, delete_rows, objects

# One list of messages at most makes one transaction.
_CHUNK = 10_000
_SNAPSHOT_WITHIN_S = 60
_PARALLEL_OBJECTS = 8
# Elasticsearch takes 65,536 terms in a query.
_RIDES_PER_QUERY = 10_000

# Elasticsearch must be allowed to delete.
Systems = clients.Systems[RidesSettings]


class Window(msgspec.Struct, frozen=True):
    """The rides with start <= ts < end, both in the contract's canonical form, which sorts as time does."""

    start: str
    end: str

    def __str__(self) -> str:
        return f"FROM={self.start} TO={self.end}"


class Plan(msgspec.Struct, frozen=True):
    """What is to be done in one partition of rides_raw, kept as its offset's metadata until all is done.

    What lies before `priced` was priced when the plan was made, by results before `supersedes` (see `Mark`). Of the
    rides that are priced anew, the messages up to `end` are sent again.
    """

    window: Window
    priced: int
    end: int
    supersedes: str


class Copies(msgspec.Struct):
    """Copies on rides_raw: how many, of which rides, from which ts to which, and what they supersede."""

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
    """What a reprocessing is to do.

    `plans` are by partition, `rides` (as 16 bytes) are to be priced anew by all their messages except `left_out`: dead
    letters, and what an earlier reprocessing has replaced. `earlier` are the copies of earlier ones of the window's
    rides: sinks that were rebuilt since then hold again what those have purged. `is_begun`: an earlier call has begun
    with it.
    """

    plans: dict[int, Plan]
    rides: set[bytes]
    left_out: set[Position]
    earlier: Copies
    is_begun: bool

    @property
    def plan(self) -> Plan:
        """Any of the plans, for what they have in common."""
        return next(iter(self.plans.values()))


class Reprocessed(msgspec.Struct):
    """What became of it.

    `rides` and `copies` were sent again. `rows` of superseded results were taken out of Parquet, and `rejected` rides
    out of Elasticsearch. `untouched` rides of the window are on Parquet only: retention has taken their messages.
    """

    rides: int = 0
    copies: int = 0
    rows: int = 0
    rejected: int = 0
    untouched: int = 0


def window(start: str, end: str) -> Window:
    """The window of two times: RFC 3339 with an offset, or a date, which means its midnight in UTC.

    Raises:
        ConfigurationError: one is neither, or the window is empty.
    """
    found = Window(_moment("FROM", start), _moment("TO", end))
    if found.start >= found.end:
        raise ConfigurationError(f"{found} is no window: FROM must be before TO, which is not part of it.")
    return found


def _moment(name: str, text: str) -> str:
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
            f"{name}={text!r}: give a date (2026-01-05, its midnight in UTC) or a time with its offset "
            "(2026-01-05T08:00:00Z)."
        ) from error


def look(systems: Systems, wanted: Window) -> Work:
    """Find the rides of the window: of the reprocessing of it that has begun, or else as of now.

    Raises:
        ConfigurationError: another window is not done yet.
        ServiceUnavailableError: a broker is away, or the topics move too fast for a consistent look.
    """
    settings, config = systems.settings, systems.config
    topic = settings.raw_topic
    check_bucket(systems.gcs, settings.bucket)  # before any copy is sent
    with translate_broker_errors(config, f"reading {topic}"), open_group_reader(config, topic, GROUP) as reader:
        check_ownership(config, reader)
        client = reader.consumer
        begun = _plans(reader.read_committed())
        if begun and (other := next(iter(begun.values())).window) != wanted:
            raise ConfigurationError(f"Another reprocessing is not done. Finish it first: make reprocess {other}")
        plans = begun or _snapshot(config, client, settings, wanted)
        dead = _dead_letters(systems, client)
        inside: dict[Position, bytes] = {}
        copies: list[tuple[Mark, bytes, str]] = []
        copied: set[Position] = set()
        for messages in _messages(systems, client, topic, {it: (0, plan.end) for it, plan in plans.items()}, "looking"):
            marks = {_position(it): mark_of(headers) for it, headers in _with_headers(messages)}
            copied.update(mark.source for mark in marks.values() if mark is not None)
            for message, ride, ts in _identities(messages):
                if (mark := marks.get(_position(message))) is not None:
                    copies.append((mark, ride, ts))
                if message.offset() < plans[message.partition()].priced and wanted.start <= ts < wanted.end:
                    inside[_position(message)] = ride
        left_out = dead | copied
        rides = {ride for position, ride in inside.items() if position not in left_out}
    earlier, of_window = Copies(wanted.start, wanted.end), set(inside.values())
    for mark, ride, ts in copies:
        if ride in of_window:
            earlier.add(mark, ride, ts)
    return Work(plans, rides, left_out, earlier, is_begun=bool(begun))


def reprocess(systems: Systems, work: Work, nudge: Callable[[], object]) -> Reprocessed:
    """Do the work, or the rest of it.

    Args:
        nudge: called when all is indexed and only waits to be exported.

    Raises:
        OffsetsError: somebody else has begun a reprocessing since the look.
        ServiceUnavailableError: a service is away, or the DAGs do nothing. Do the same again: it goes on from there.
    """
    with translate_broker_errors(systems.config, "reprocessing"), open_consumer(systems.config, GROUP) as client:
        _send(systems, client, work)
        _wait_for_dags(systems, client, nudge)
        copies = _sent(systems, client, work)
    done = Reprocessed(rides=len(copies.rides), copies=copies.count)
    copies.update(work.earlier)
    _purge_parquet(systems, work, copies, done)
    _purge_elasticsearch(systems, copies, done)
    with open_group_writer(systems.config, GROUP, systems.settings.raw_topic, 1) as writer:
        _check_plans(writer.read_committed(), work.plans)
        with writer.transaction({partition: plan.end for partition, plan in work.plans.items()}):
            pass  # the same offsets without the plan
    return done


# --- What is to be done ------------------------------------------------------------------------


def _plans(at: dict[int, Committed]) -> dict[int, Plan]:
    return {it: plan for it, found in at.items() if (plan := found.decode_plan(Plan)) is not None}


def _check_plans(at: dict[int, Committed], expected: dict[int, Plan]) -> None:
    if _plans(at) != expected:
        raise OffsetsError("Another reprocessing has begun, or has done this one, meanwhile. Do the same again to see.")


def _snapshot(config: Config, client: Consumer, settings: RidesSettings, wanted: Window) -> dict[int, Plan]:
    """Committed offsets, and the results that belong to them: no transaction of dag_compute_cost may be in between."""
    raw, result = settings.raw_topic, settings.result_topic

    def attempt() -> dict[int, Plan] | None:
        priced = read_group_offsets(config, raw, COMPUTE_GROUP)
        text = positions_text({it: found.end for it, found in _whole(config, client, result).items()})
        if read_group_offsets(config, raw, COMPUTE_GROUP) != priced:
            return None
        # A message that is held back belongs before the copies, so it has to be known.
        within = _whole(config, client, raw)
        return {it: Plan(wanted, priced[it] or found.low, found.end, text) for it, found in within.items()}

    until_settled = Retrying(
        retry=retry_if_result(lambda found: found is None),
        stop=stop_after_delay(_SNAPSHOT_WITHIN_S),
        wait=wait_fixed(0.1),
        retry_error_callback=lambda _: None,
    )
    found: dict[int, Plan] | None = until_settled(attempt)
    if found is None:
        raise ServiceUnavailableError(
            f"{COMPUTE_GROUP} publishes without a pause, so that there is no consistent look at it. Try again."
        )
    return found


def _whole(config: Config, client: Consumer, topic: str) -> dict[int, Bounds]:
    """The bounds of a topic once the transactions have ended that are open now.

    Raises:
        ServiceUnavailableError: one stays open.
    """
    within = read_bounds(config, client, topic, list_partitions(client, topic), settle_s=_SNAPSHOT_WITHIN_S)
    if held := list_held_back(topic, within):
        raise ServiceUnavailableError(
            f"An open transaction holds messages back: {'; '.join(map(str, held))}. Without them, newer prices could "
            "be overwritten. Nothing was changed. `make ledger` says who holds them; try again when it has ended."
        )
    return within


def _dead_letters(systems: Systems, client: Consumer) -> set[Position]:
    """The raw messages that became dead letters instead of results."""
    settings = systems.settings
    found: set[Position] = set()
    within = _whole(systems.config, client, settings.dlq_topic)
    ends = {partition: (0, bound.end) for partition, bound in within.items()}
    for messages in _messages(systems, client, settings.dlq_topic, ends, "looking"):
        for headers in read_all_headers(messages):
            texts = read_error(headers, "partition"), read_error(headers, "offset")
            if is_dead_letter_of(headers, settings.raw_topic, COMPUTE_GROUP) and all(map(str.isdigit, texts)):
                found.add((int(texts[0]), int(texts[1])))
    return found


def _messages(
    systems: Systems, client: Consumer, topic: str, ranges: dict[int, tuple[int, int]], doing: str
) -> Iterator[list[Message]]:
    """The messages of some offsets [start, end) of each partition, as far as retention has left them."""
    within = read_bounds(systems.config, client, topic, list(ranges))
    claims = [Claim(it, max(start, within[it].low), end) for it, (start, end) in ranges.items()]
    return scan(client, topic, claims, systems.progress, doing)


def _identities(messages: list[Message]) -> Iterator[tuple[Message, bytes, str]]:
    """Each message that has them with its ride and its ts in canonical form."""
    found = [(message, *it) for message in messages if (it := identity(message)) is not None]
    times = normalised_timestamps(pa.array([ts for _, _, ts in found], pa.string())).to_pylist()
    for (message, ride, _), ts in zip(found, times, strict=True):
        if ts is not None:
            yield message, ride, ts


def _with_headers(messages: list[Message]) -> Iterator[tuple[Message, Headers]]:
    return ((message, found) for message, found in zip(messages, read_all_headers(messages), strict=True) if found)


def _position(message: Message) -> Position:
    return message.partition(), message.offset()


# --- Sending ---------------------------------------------------------------------------------------


def _send(systems: Systems, client: Consumer, work: Work) -> None:
    """Send the messages of the rides once more, each into its own partition and in their order."""
    topic = systems.settings.raw_topic
    with open_group_writer(systems.config, GROUP, topic, _CHUNK) as writer:
        at = writer.read_committed()
        _check_plans(at, work.plans if work.is_begun else {})
        if not work.is_begun:
            _commit(writer, work, dict.fromkeys(work.plans, 0))
            at = writer.read_committed()
        ranges = {it: (at[it].offset or 0, plan.end) for it, plan in work.plans.items()}
        for messages in _messages(systems, client, topic, ranges, "sending"):
            going = [message for message, ride, _ in _identities(messages) if _goes(message, ride, work)]
            if going:
                _commit(writer, work, {messages[-1].partition(): messages[-1].offset() + 1}, going)
        _commit(writer, work, {partition: plan.end for partition, plan in work.plans.items()})


def _goes(message: Message, ride: bytes, work: Work) -> bool:
    if ride not in work.rides or _position(message) in work.left_out:
        return False
    if message.offset() < work.plans[message.partition()].priced:
        return True
    # Not priced when the plan was made, but behind a message that is: the ride's latest state has to stay the latest.
    try:
        parse_ride(message.value())
    except RejectedError:
        return False
    return True


def _commit(writer: GroupWriter, work: Work, offsets: dict[int, int], copies: list[Message] | None = None) -> None:
    plans = {partition: msgspec.json.encode(work.plans[partition]) for partition in offsets}
    with writer.transaction(offsets, plans):
        for message in copies or []:
            mark = Mark(_position(message), work.plans[message.partition()].supersedes)
            headers = mark_headers(read_headers(message), mark)
            writer.send(writer.topic, message.key(), message.value(), headers, message.partition())


# --- Waiting ---------------------------------------------------------------------------------------


def _wait_for_dags(systems: Systems, client: Consumer, nudge: Callable[[], object]) -> None:
    """Wait until what is on rides_raw now is priced, and what came of it indexed and exported."""
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
    done: str,
    nudge: Callable[[], object] = lambda: None,
) -> None:
    """Wait until a group has passed these offsets; `nudge` is called at once, and after each step on the way."""
    wait_until_done(
        lambda: {done: _left(systems, topic, group, ends)},
        systems.progress,
        on_move=lambda _: nudge(),
        advise=lambda: "Are both DAGs on, and what do their tasks' logs say? Then run it again to resume.",
    )


def _left(systems: Systems, topic: str, group: str, ends: dict[int, int]) -> int:
    with open_group_reader(systems.config, topic, group) as reader:
        at = reader.observe()
        within = read_bounds(systems.config, reader.consumer, topic, list(ends))
    return sum(max(0, end - max(at[it].offset or 0, within[it].low)) for it, end in ends.items())


# --- Purging ---------------------------------------------------------------------------------------


def _sent(systems: Systems, client: Consumer, work: Work) -> Copies:
    """What the marks of the copies say: it holds whatever retention has deleted since they were sent."""
    topic = systems.settings.raw_topic
    ends = read_bounds(systems.config, client, topic, list(work.plans))
    ranges = {it: (plan.end, ends[it].end) for it, plan in work.plans.items()}
    copies = Copies(work.plan.window.start, work.plan.window.end)
    for messages in _messages(systems, client, topic, ranges, "counting"):
        for message, ride, ts in _identities(messages):
            mark = mark_of(read_headers(message))
            if mark is not None and mark.supersedes == work.plan.supersedes:
                copies.add(mark, ride, ts)
    return copies


def _purge_parquet(systems: Systems, work: Work, copies: Copies, done: Reprocessed) -> None:
    settings = systems.settings
    untouched: set[bytes] = set()

    def is_superseded(rows: pa.RecordBatch) -> NDArray[np.bool_]:
        ids = list(map(ride_bytes, rows["ride_id"].to_pylist()))
        untouched.update(_untouched(rows, ids, work.plan, copies.rides))
        partitions, offsets = rows["kafka_partition"].to_numpy(), rows["kafka_offset"].to_numpy()
        return copies.superseded.covers(pa.array(ids, pa.binary(16)), partitions, offsets)

    blobs = objects(systems.gcs, settings.bucket, settings.gcs_prefix, (_hour(copies.first), _hour(copies.last)))
    with ThreadPoolExecutor(_PARALLEL_OBJECTS) as pool:
        dropped = pool.map(lambda blob: delete_rows(blob, SINK_SCHEMA, REPETITIVE, is_superseded), blobs)
        for number, rows in enumerate(dropped, start=1):
            done.rows += rows
            systems.progress("purging objects", number, len(blobs))
    done.untouched = len(untouched)


def _hour(ts: str) -> str:
    return ts[:13].replace("-", "/").replace("T", "/")


def _untouched(rows: pa.RecordBatch, ids: list[bytes], plan: Plan, rides: set[bytes]) -> Iterator[bytes]:
    """Rides of the window that were priced before the plan and are not priced anew."""
    start, end = (np.datetime64(text.removesuffix("Z")) for text in (plan.window.start, plan.window.end))
    ts = rows["ts"].to_numpy()
    is_inside = (ts >= start) & (ts < end)
    is_old = is_before(
        parse_positions(plan.supersedes), rows["kafka_partition"].to_numpy(), rows["kafka_offset"].to_numpy()
    )
    return (ids[row] for row in np.flatnonzero(is_inside & is_old).tolist() if ids[row] not in rides)


def _purge_elasticsearch(systems: Systems, copies: Copies, done: Reprocessed) -> None:
    """Delete what no newer result has overwritten: the ride is rejected by now, or Elasticsearch refuses it."""
    for text, rides in copies.superseded.items():
        is_superseded = [
            {"bool": {"filter": [{"term": {"kafka_partition": it}}, {"range": {"kafka_offset": {"lt": offset}}}]}}
            for it, offset in parse_positions(text).items()
        ]
        ids = [str(UUID(bytes=ride)) for ride in rides]
        for start in range(0, len(ids), _RIDES_PER_QUERY):
            part = {"terms": {"ride_id": ids[start : start + _RIDES_PER_QUERY]}}
            query = {"bool": {"filter": [part], "should": is_superseded, "minimum_should_match": 1}}
            done.rejected += delete_where(systems.elasticsearch, systems.settings.rides_index, query)
