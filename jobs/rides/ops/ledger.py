"""The rides' ledger: count every ride in every system, and compare the figures.

raw           = result + dlq + pending (+ what an open transaction holds back)
parquet       = result - in flight - results that could not be read - superseded
elasticsearch = distinct ride_ids of result - refused - superseded
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import Consumer, Message
from google.cloud import storage
from numpy.typing import NDArray
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from jobs.clients import Systems
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.dead_letter import count_replays, is_dead_letter_of, read_error, read_headers, read_position
from jobs.kafka.offsets import Bounds, HeldBack, list_held_back, read_group_offsets
from jobs.kafka.scan import claim_all, scan
from jobs.ledger import verdict
from jobs.ledger.schema import decode_headers, find_schema_faults, parse_value
from jobs.ledger.snapshot import take_snapshot
from jobs.ledger.verdict import Figure
from jobs.rides.ops.superseded import Superseded, is_before, is_reprocessing, read_identity, read_mark
from jobs.rides.transform import KEY_SCHEMA
from jobs.rides.vertical import COMPUTE_GROUP, EXPORT_GROUP, INDEX_GROUP, RidesSettings
from jobs.settings import ROOT
from jobs.sinks.elasticsearch import translate_errors
from jobs.sinks.parquet import list_objects, read_table

SCHEMAS = ROOT / "infra" / "kafka" / "schemas"

# An index shows new documents after its refresh interval of 1 s; on a loaded machine, after several seconds.
_SEARCHABLE_WITHIN_S = 15
_SAMPLE = 100
# Figures that are shown only if they are not 0.
_RARE = ("foreign dead letters", "reprocessed", "results superseded by that", "held back (offsets)")


class Ledger(verdict.Ledger, kw_only=True):
    """The figures of all systems. `balanced` is None if retention has deleted messages."""

    raw: int
    result: int
    duplicates: int
    dlq: int
    dlq_by_reason: dict[str, int]
    foreign: int  # on the dead-letter topic, but not written by this pipeline
    refused: int
    replayed: int
    reprocessed: int  # copies on the raw topic
    superseded: int  # results that the results of copies replace
    pending: int
    in_flight: int
    is_reprocessing: bool
    to_purge: int  # rows of superseded results in Parquet; the reprocessing deletes them at its end
    elasticsearch: int
    parquet: int
    sample_result: dict[str, Any] | None = None
    sample_dead_letter: dict[str, str] | None = None

    @property
    def is_in_progress(self) -> bool:
        return bool(self.pending or self.in_flight or self.is_reprocessing)

    @property
    def figures(self) -> list[Figure]:
        kafka = {
            "raw": self.raw,
            "  result": self.result,
            "    of these duplicates": self.duplicates,
            "  dlq": self.dlq,
            "  pending": self.pending,
            "refused by the sinks": self.refused,
            "replayed": self.replayed,
            "foreign dead letters": self.foreign,
            "reprocessed": self.reprocessed,
            "results superseded by that": self.superseded,
            "in flight to the sinks": self.in_flight,
            "held back (offsets)": sum(held.count for held in self.held_back),
        }
        return [
            *(Figure(name, count, "Kafka") for name, count in kafka.items() if count or name not in _RARE),
            Figure("elasticsearch", self.elasticsearch, "Elasticsearch"),
            Figure("parquet", self.parquet, "Cloud Storage"),
        ]

    @property
    def notes(self) -> list[str]:
        lines = []
        if self.dlq_by_reason:
            lines.append("dlq by reason: " + ", ".join(f"{reason} {n}" for reason, n in self.dlq_by_reason.items()))
        if self.sample_result:
            lines.append(f"a result: {msgspec.json.encode(self.sample_result).decode()}")
        if self.sample_dead_letter:
            lines.append(f"a dead letter's headers: {self.sample_dead_letter}")
        if self.is_reprocessing:
            lines.append("A reprocessing is unfinished.")
        return lines


class _Snapshot(msgspec.Struct, frozen=True):
    """What each group had committed, and the bounds of the topics at the same moment."""

    priced: dict[int, int]
    indexed: dict[int, int]
    exported: dict[int, int]
    raw: dict[int, Bounds]
    result: dict[int, Bounds]
    dlq: dict[int, Bounds]

    def held_back(self, settings: RidesSettings) -> list[HeldBack]:
        """List the offsets that open transactions hold back, on all topics."""
        topics = ((settings.raw_topic, self.raw), (settings.result_topic, self.result), (settings.dlq_topic, self.dlq))
        return [held for topic, topic_bounds in topics for held in list_held_back(topic, topic_bounds)]


class _Results(msgspec.Struct):
    """The messages of the result topic. `by_ride`: partition, offset and ride_id of each message with a ride_id."""

    count: int = 0
    replayed: int = 0
    exported: int = 0
    delivered: int = 0  # exported and indexed
    by_ride: list[pa.RecordBatch] = msgspec.field(default_factory=list)
    sample: list[Message] = msgspec.field(default_factory=list)


class _DeadLetters(msgspec.Struct):
    """The messages of the dead-letter topic. `refused` and `unreadable`: positions of results, (partition, offset)."""

    raw: int = 0
    foreign: int = 0
    by_reason: Counter[str] = msgspec.field(default_factory=Counter)
    refused: set[tuple[int, int]] = msgspec.field(default_factory=set)
    unreadable: set[tuple[int, int]] = msgspec.field(default_factory=set)
    refusals: int = 0
    sample: list[Message] = msgspec.field(default_factory=list)


class _RideId(msgspec.Struct):
    ride_id: str


def take_ledger(systems: Systems[RidesSettings]) -> Ledger:
    """Count every message in every system.

    Raises:
        ServiceUnavailableError: a service does not answer, or the groups commit too often for a consistent snapshot.
    """
    settings, config = systems.settings, systems.config
    with translate_broker_errors(config, "taking the ledger"), open_consumer(config, "ledger") as client:
        snapshot = _take_snapshot(systems, client)
        is_unfinished = is_reprocessing(config, settings.raw_topic)
        raw = processed = replayed = reprocessed = 0
        superseded = Superseded()
        for messages in scan(client, settings.raw_topic, claim_all(snapshot.raw), systems.progress, "counting"):
            for message in messages:
                raw += 1
                processed += message.offset() < snapshot.priced.get(message.partition(), 0)
                if headers := read_headers(message):
                    replayed += count_replays(headers) > 0
                    if (mark := read_mark(headers)) and (ride := read_identity(message)):
                        reprocessed += 1
                        superseded.add(mark, ride[0])
        results = _read_results(systems, client, snapshot)
        dead = _read_dead_letters(systems, client, snapshot.dlq)
    rides = pa.Table.from_batches(results.by_ride, _BY_RIDE)
    is_superseded = superseded.covers(rides["ride_id"], *_list_positions(rides))
    valid = rides.filter(pa.array(~is_superseded))
    in_flight = results.count - results.delivered

    # A commit can be visible before its messages: the missing messages may be among those that are held back.
    hidden_letters = _count_held(snapshot.dlq)
    hidden = _count_held(snapshot.result) + hidden_letters
    valid_sample = [
        message for message in results.sample if (message.partition(), message.offset()) not in dead.unreadable
    ]
    # A result whose dead letter is held back would break the schema.
    checked = [] if hidden_letters else valid_sample
    faults = [
        *find_schema_faults(SCHEMAS / "rides_result.schema.json", checked, parse_value),
        *find_schema_faults(SCHEMAS / "rides_dlq.schema.json", dead.sample, decode_headers),
    ]
    count = results.count - results.replayed
    missing = processed - (count + dead.raw)
    if not 0 <= missing <= hidden:
        faults.append(
            f"{processed} raw messages were processed, but there are {count} results and {dead.raw} dead letters"
        )
    exported = is_before(snapshot.exported, *_list_positions(rides))
    stale = rides.filter(pa.array(is_superseded & exported))
    parquet, rows, doubled, to_purge = _read_parquet(systems, snapshot.exported, stale)
    max_rows = results.exported - (
        len(stale) + sum(offset < snapshot.exported.get(partition, 0) for partition, offset in dead.unreadable)
    )
    # Exported messages that are not indexed yet may be invalid, and a dead letter may be held back.
    min_rows = max_rows - (results.exported - results.delivered) - hidden_letters
    if not min_rows <= rows <= max_rows or doubled:
        faults.append(f"Parquet holds {rows} of {max_rows} results, {doubled} of them more than once")
    if to_purge and not is_unfinished:
        faults.append(f"Parquet holds {to_purge} results that a reprocessing has replaced and purged")
    # Until the purge, the index may hold rides that are rejected now.
    candidates = rides if is_unfinished else valid
    refused = dead.refused | dead.unreadable
    ends = {partition: bound.end for partition, bound in snapshot.result.items()}
    min_documents = _count_expected_documents(valid, refused, snapshot.indexed) - hidden_letters
    max_documents = _count_expected_documents(candidates, refused, ends)
    documents = _count_documents(systems, min_documents, max_documents)
    if not min_documents <= documents <= max_documents:
        expected = str(min_documents) if min_documents == max_documents else f"{min_documents} to {max_documents}"
        faults.append(f"Elasticsearch holds {documents} rides, not {expected}")

    deleted = sum(bound.low for topic in (snapshot.raw, snapshot.result, snapshot.dlq) for bound in topic.values())
    if deleted:
        faults.append(f"Retention has deleted {deleted} messages, so the figures cannot be compared")
    return Ledger(
        # Without what retention has deleted, the figures say nothing.
        lost=0 if deleted else sum(max(0, it) for it in (missing - hidden, min_rows - rows, min_documents - documents)),
        doubled=0 if deleted else doubled + max(0, -missing) + max(0, documents - max_documents),
        raw=raw,
        result=count,
        duplicates=len(valid) - pc.count_distinct(valid["ride_id"]).as_py(),
        dlq=dead.raw,
        dlq_by_reason=dict(dead.by_reason.most_common()),
        foreign=dead.foreign,
        refused=dead.refusals,
        replayed=replayed + results.replayed,
        reprocessed=reprocessed,
        superseded=int(is_superseded.sum()),
        pending=raw - processed,
        in_flight=in_flight,
        held_back=snapshot.held_back(settings),
        is_reprocessing=is_unfinished,
        to_purge=to_purge,
        elasticsearch=documents,
        parquet=parquet,
        balanced=None if deleted else not faults,
        faults=faults,
        sample_result=parse_value(valid_sample[0]) if valid_sample else None,
        sample_dead_letter=decode_headers(dead.sample[0]) if dead.sample else None,
    )


def _count_held(bounds: Mapping[int, Bounds]) -> int:
    return sum(partition.held for partition in bounds.values())


def _take_snapshot(systems: Systems[RidesSettings], client: Consumer) -> _Snapshot:
    settings, config = systems.settings, systems.config

    def read_offsets(topic: str, group: str) -> dict[int, int]:
        return {partition: offset or 0 for partition, offset in read_group_offsets(config, topic, group).items()}

    def read_groups() -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        return (
            read_offsets(settings.raw_topic, COMPUTE_GROUP),
            read_offsets(settings.result_topic, INDEX_GROUP),
            read_offsets(settings.result_topic, EXPORT_GROUP),
        )

    topics = (settings.raw_topic, settings.result_topic, settings.dlq_topic)
    groups, bounds = take_snapshot(config, client, topics, read_groups)
    return _Snapshot(*groups, *bounds)


_BY_RIDE = pa.schema([("partition", pa.int32()), ("offset", pa.int64()), ("ride_id", pa.binary(16))])
_decode_ride_id = msgspec.json.Decoder(_RideId).decode


def _read_results(systems: Systems[RidesSettings], client: Consumer, snapshot: _Snapshot) -> _Results:
    results = _Results()
    lists = scan(client, systems.settings.result_topic, claim_all(snapshot.result), systems.progress, "counting")
    rows: list[tuple[int, int, bytes]] = []

    def flush() -> None:
        columns = zip(*rows, strict=True) if rows else ([], [], [])
        results.by_ride.append(pa.record_batch(list(map(list, columns)), schema=_BY_RIDE))
        rows.clear()

    for message in (message for messages in lists for message in messages):
        results.count += 1
        results.replayed += count_replays(read_headers(message)) > 0
        is_exported = message.offset() < snapshot.exported.get(message.partition(), 0)
        is_indexed = message.offset() < snapshot.indexed.get(message.partition(), 0)
        results.exported += is_exported
        results.delivered += is_exported and is_indexed
        # A message that is not indexed yet may be invalid.
        if is_indexed and len(results.sample) < _SAMPLE:
            results.sample.append(message)
        try:
            ride_id = bytes.fromhex(_decode_ride_id(message.value() or b"").ride_id.replace("-", ""))
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
            continue  # not a result: TransformJSON rejects it, and its dead letter is counted
        if len(ride_id) == 16:
            rows.append((message.partition(), message.offset(), ride_id))
        if len(rows) >= 100_000:
            flush()
    flush()
    return results


def _read_dead_letters(
    systems: Systems[RidesSettings], client: Consumer, topic_bounds: Mapping[int, Bounds]
) -> _DeadLetters:
    settings, dead = systems.settings, _DeadLetters()
    lists = scan(client, settings.dlq_topic, claim_all(topic_bounds), systems.progress, "counting")
    for message in (message for messages in lists for message in messages):
        headers = read_headers(message)
        if is_dead_letter_of(headers, settings.raw_topic, COMPUTE_GROUP):
            dead.raw += 1
            dead.by_reason[read_error(headers, "exception.class.name")] += 1
        elif is_dead_letter_of(headers, settings.result_topic, INDEX_GROUP):
            dead.refusals += 1
            if position := read_position(headers):  # otherwise it breaks its schema, which is a fault
                is_unreadable = read_error(headers, "stage") == "VALUE_CONVERTER"
                (dead.unreadable if is_unreadable else dead.refused).add(position)
        else:
            dead.foreign += 1
            continue
        if len(dead.sample) < _SAMPLE:
            dead.sample.append(message)
    return dead


def _count_expected_documents(rides: pa.Table, refused: set[tuple[int, int]], indexed: Mapping[int, int]) -> int:
    """Count the distinct rides of those results that are indexed and not refused."""
    partitions, offsets = _list_positions(rides)
    refused_keys = [partition << 48 | offset for partition, offset in refused]
    is_refused = np.isin(_encode_positions(partitions, offsets), refused_keys)
    expected = rides.filter(pa.array(is_before(indexed, partitions, offsets) & ~is_refused))
    count: int = pc.count_distinct(expected["ride_id"]).as_py()
    return count


def _list_positions(rides: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the partitions and offsets of results."""
    return rides["partition"].to_numpy().astype(np.int64), rides["offset"].to_numpy()


def _encode_positions(partitions: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Encode each position as one integer, so that a lookup takes linear time."""
    return partitions << 48 | offsets


def _count_documents(systems: Systems[RidesSettings], expected_min: int, expected_max: int) -> int:
    """Count the documents. Counts again for up to _SEARCHABLE_WITHIN_S while the count is not the expected one."""
    client, index = systems.elasticsearch, systems.settings.rides_index

    def read_count() -> int:
        with translate_errors(client, f"counting {index}"):
            count: int = client.count(index=index, ignore_unavailable=True)["count"]
        return count

    retry_until_searchable = Retrying(
        retry=retry_if_result(lambda count: not expected_min <= count <= expected_max),
        stop=stop_after_delay(_SEARCHABLE_WITHIN_S),
        wait=wait_fixed(0.5),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    count: int = retry_until_searchable(read_count)
    return count


def _read_parquet(
    systems: Systems[RidesSettings], exported: Mapping[int, int], stale: pa.Table
) -> tuple[int, int, int, int]:
    """Count the rows of all objects.

    Returns:
        All rows; rows of results before the group's offsets, and how many of these are duplicates; stale rows, which
        neither of the two includes.
    """

    def read_positions(blob: storage.Blob) -> pa.Table:
        return read_table(blob, KEY_SCHEMA).select(["kafka_partition", "kafka_offset"])

    blobs = list_objects(systems.gcs, systems.settings.bucket, systems.settings.gcs_prefix)
    tables = []
    with ThreadPoolExecutor(8) as pool:
        for number, table in enumerate(pool.map(read_positions, blobs), start=1):
            tables.append(table)
            systems.progress("counting parquet", number, len(blobs))
    if not tables:
        return 0, 0, 0, 0
    table = pa.concat_tables(tables)
    partitions, offsets = table["kafka_partition"].to_numpy().astype(np.int64), table["kafka_offset"].to_numpy()
    keys = _encode_positions(partitions, offsets)[is_before(exported, partitions, offsets)]
    is_stale = np.isin(keys, _encode_positions(*_list_positions(stale)))
    valid = keys[~is_stale]
    return len(table), len(valid), len(valid) - len(np.unique(valid)), int(is_stale.sum())
