"""The ledger: proof that every ride is where it should be, each figure counted at the system itself.

raw           = result + dlq + pending (+ what an open transaction holds back)
parquet       = result - in flight - results that could not be read - superseded
elasticsearch = distinct ride_ids of result - refused - superseded
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from confluent_kafka import Consumer, Message
from google.cloud import storage
from numpy.typing import NDArray
from tenacity import Retrying, retry_if_result, stop_after_attempt, stop_after_delay, wait_fixed

from jobs.clients import Systems
from jobs.errors import ServiceUnavailableError
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.dead_letter import count_replays, is_dead_letter_of, read_error, read_headers
from jobs.kafka.offsets import (
    SETTLE_S,
    Bounds,
    HeldBack,
    list_held_back,
    list_partitions,
    read_bounds,
    read_group_offsets,
)
from jobs.kafka.scan import claim_all, scan
from jobs.ledger import verdict
from jobs.ledger.schema import headers_as_text, schema_faults, value_of
from jobs.ledger.verdict import Figure
from jobs.rides.ops.superseded import Superseded, identity, is_before, is_reprocessing, mark_of
from jobs.rides.vertical import COMPUTE_GROUP, EXPORT_GROUP, INDEX_GROUP, RidesSettings
from jobs.settings import ROOT
from jobs.sinks.elasticsearch import explained as elasticsearch_explained
from jobs.sinks.parquet import explained as storage_explained
from jobs.sinks.parquet import join

SCHEMAS = ROOT / "infra" / "kafka" / "schemas"

# An index shows what was written within its refresh interval of a second; a loaded machine may need a few.
_SEARCHABLE_WITHIN_S = 15
_SAMPLE = 100
# Figures that are shown only where they are not 0.
_RARE = ("foreign dead letters", "reprocessed", "results superseded by that", "held back (offsets)")


class Ledger(verdict.Ledger, kw_only=True):
    """What the systems hold. `balanced` is None where retention has deleted messages."""

    raw: int
    result: int
    duplicates: int
    dlq: int
    dlq_by_reason: dict[str, int]
    foreign: int  # on the dead-letter topic, and not written by this pipeline
    refused: int
    replayed: int
    reprocessed: int  # copies on the raw topic
    superseded: int  # results that copies have replaced
    pending: int
    in_flight: int
    is_reprocessing: bool
    to_purge: int  # rows of superseded results in Parquet, until the reprocessing is done
    elasticsearch: int
    parquet: int
    sample_result: dict[str, Any] | None = None
    sample_dead_letter: dict[str, str] | None = None

    @property
    def is_on_its_way(self) -> bool:
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
            "held back (offsets)": sum(it.count for it in self.held_back),
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
            lines.append("A reprocessing is not done.")
        return lines


class _Snapshot(msgspec.Struct, frozen=True):
    """Offsets that belong together: what each group had committed, and the ends of the topics at that very moment."""

    priced: dict[int, int]
    indexed: dict[int, int]
    exported: dict[int, int]
    raw: dict[int, Bounds]
    result: dict[int, Bounds]
    dlq: dict[int, Bounds]

    def held_back(self, settings: RidesSettings) -> list[HeldBack]:
        """What open transactions hold back, on each topic."""
        topics = ((settings.raw_topic, self.raw), (settings.result_topic, self.result), (settings.dlq_topic, self.dlq))
        return [it for topic, within in topics for it in list_held_back(topic, within)]


class _Results(msgspec.Struct):
    """What the result topic holds; `by_ride` is (partition, offset, ride_id) of each message that has a ride_id."""

    count: int = 0
    replayed: int = 0
    exported: int = 0
    sunk: int = 0  # exported and indexed
    by_ride: list[pa.RecordBatch] = msgspec.field(default_factory=list)
    sample: list[Message] = msgspec.field(default_factory=list)


class _DeadLetters(msgspec.Struct):
    """What the dead-letter topic holds. A refusal is the position of a result: (partition, offset)."""

    of_raw: int = 0
    foreign: int = 0
    by_reason: Counter[str] = msgspec.field(default_factory=Counter)
    refused: set[tuple[int, int]] = msgspec.field(default_factory=set)
    unreadable: set[tuple[int, int]] = msgspec.field(default_factory=set)
    refusals: int = 0
    sample: list[Message] = msgspec.field(default_factory=list)


class _RideId(msgspec.Struct):
    ride_id: str


def take_ledger(systems: Systems[RidesSettings]) -> Ledger:
    """Count everything.

    Raises:
        ServiceUnavailableError: a service does not answer, or the topics move too fast for a consistent look.
    """
    settings, config = systems.settings, systems.config
    with translate_broker_errors(config, "taking the ledger"), open_consumer(config, "ledger") as client:
        snapshot = _snapshot(systems, client)
        is_under_way = is_reprocessing(config, settings.raw_topic)
        raw = raw_done = replayed = reprocessed = 0
        superseded = Superseded()
        for messages in scan(client, settings.raw_topic, claim_all(snapshot.raw), systems.progress, "counting"):
            for message in messages:
                raw += 1
                raw_done += message.offset() < snapshot.priced.get(message.partition(), 0)
                if headers := read_headers(message):
                    replayed += count_replays(headers) > 0
                    if (mark := mark_of(headers)) and (ride := identity(message)):
                        reprocessed += 1
                        superseded.add(mark, ride[0])
        results = _read_results(systems, client, snapshot)
        dead = _read_dead_letters(systems, client, snapshot.dlq)
    rides = pa.Table.from_batches(results.by_ride, _BY_RIDE)
    is_superseded = superseded.covers(rides["ride_id"], *_positions(rides))
    valid = rides.filter(pa.array(~is_superseded))
    in_flight = results.count - results.sunk

    # A commit may be seen before its messages are: those that are held back may be the missing ones.
    hidden_results, hidden_letters = (sum(it.held for it in ends.values()) for ends in (snapshot.result, snapshot.dlq))
    is_result = [it for it in results.sample if (it.partition(), it.offset()) not in dead.unreadable]
    # A result whose refusal is hidden would break its schema.
    is_checked = [] if hidden_letters else is_result
    faults = schema_faults(SCHEMAS / "rides_result.schema.json", is_checked, value_of)
    faults += schema_faults(SCHEMAS / "rides_dlq.schema.json", dead.sample, headers_as_text)
    missing = raw_done - (results.count - results.replayed + dead.of_raw)
    if not 0 <= missing <= hidden_results + hidden_letters:
        faults.append(
            f"{raw_done} raw messages are done with, but there are {results.count - results.replayed} results and "
            f"{dead.of_raw} dead letters of them"
        )
    exported = is_before(snapshot.exported, *_positions(rides))
    stale = rides.filter(pa.array(is_superseded & exported))
    parquet, rows, doubled, to_purge = _read_parquet(systems, snapshot.exported, stale)
    most_rows = results.exported - len(stale) - sum(at < snapshot.exported.get(by, 0) for by, at in dead.unreadable)
    # What is exported and not yet indexed may turn out to be no result, and a refusal may be held back.
    least_rows = most_rows - (results.exported - results.sunk) - hidden_letters
    if not least_rows <= rows <= most_rows or doubled:
        faults.append(f"Parquet holds {rows} of {most_rows} results, {doubled} of them more than once")
    if to_purge and not is_under_way:
        faults.append(f"Parquet holds {to_purge} results that a reprocessing has replaced and purged")
    # Until it is purged, a ride that is rejected by now may be there.
    rides_at_most = rides if is_under_way else valid
    refused = dead.refused | dead.unreadable
    least = _expected_documents(valid, refused, snapshot.indexed) - hidden_letters
    most = _expected_documents(rides_at_most, refused, {it: within.end for it, within in snapshot.result.items()})
    documents = _count_documents(systems, least, most)
    if not least <= documents <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        faults.append(f"Elasticsearch holds {documents} rides, not {wanted}")

    deleted = sum(found.low for topic in (snapshot.raw, snapshot.result, snapshot.dlq) for found in topic.values())
    if deleted:
        faults.append(f"Retention has deleted {deleted} messages, so what is left cannot be held against each other")
    return Ledger(
        raw=raw,
        result=results.count - results.replayed,
        duplicates=len(valid) - pc.count_distinct(valid["ride_id"]).as_py(),
        dlq=dead.of_raw,
        dlq_by_reason=dict(dead.by_reason.most_common()),
        foreign=dead.foreign,
        refused=dead.refusals,
        replayed=replayed + results.replayed,
        reprocessed=reprocessed,
        superseded=int(is_superseded.sum()),
        pending=raw - raw_done,
        in_flight=in_flight,
        held_back=snapshot.held_back(settings),
        is_reprocessing=is_under_way,
        to_purge=to_purge,
        elasticsearch=documents,
        parquet=parquet,
        balanced=None if deleted else not faults,
        faults=faults,
        sample_result=value_of(is_result[0]) if is_result else None,
        sample_dead_letter=headers_as_text(dead.sample[0]) if dead.sample else None,
    )


def _snapshot(systems: Systems[RidesSettings], client: Consumer) -> _Snapshot:
    """Read the topics' ends between two equal looks at the committed offsets: messages and offsets move together.

    The ends are read when the transactions that are open at first have ended, if that takes no longer than SETTLE_S.
    """

    settings, config = systems.settings, systems.config

    def offsets(topic: str, group: str) -> dict[int, int]:
        return {partition: at or 0 for partition, at in read_group_offsets(config, topic, group).items()}

    def look() -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        return (
            offsets(settings.raw_topic, COMPUTE_GROUP),
            offsets(settings.result_topic, INDEX_GROUP),
            offsets(settings.result_topic, EXPORT_GROUP),
        )

    topics = (settings.raw_topic, settings.result_topic, settings.dlq_topic)

    def ends_of_topics(settle_s: float = 0) -> list[dict[int, Bounds]]:
        return [
            read_bounds(config, client, topic, list_partitions(client, topic), settle_s=settle_s) for topic in topics
        ]

    ends_of_topics(SETTLE_S)

    def attempt() -> _Snapshot | None:
        before = look()
        ends = ends_of_topics()
        return _Snapshot(*before, *ends) if look() == before else None

    until_still = Retrying(
        retry=retry_if_result(lambda found: found is None),
        stop=stop_after_attempt(20),
        wait=wait_fixed(0.1),
        retry_error_callback=lambda _: None,
    )
    found: _Snapshot | None = until_still(attempt)
    if found is None:
        raise ServiceUnavailableError("The topics move too fast for a consistent look. Try again.")
    return found


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
        results.sunk += is_exported and is_indexed
        # What is not indexed yet may turn out to be no result.
        if is_indexed and len(results.sample) < _SAMPLE:
            results.sample.append(message)
        try:
            ride_id = bytes.fromhex(_decode_ride_id(message.value() or b"").ride_id.replace("-", ""))
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError):
            continue  # no result; TransformJSON refuses it, and the dead letters say so
        if len(ride_id) == 16:
            rows.append((message.partition(), message.offset(), ride_id))
        if len(rows) >= 100_000:
            flush()
    flush()
    return results


def _read_dead_letters(systems: Systems[RidesSettings], client: Consumer, within: Mapping[int, Bounds]) -> _DeadLetters:
    settings, dead = systems.settings, _DeadLetters()
    lists = scan(client, settings.dlq_topic, claim_all(within), systems.progress, "counting")
    for message in (message for messages in lists for message in messages):
        headers = read_headers(message)
        if is_dead_letter_of(headers, settings.raw_topic, COMPUTE_GROUP):
            dead.of_raw += 1
            dead.by_reason[read_error(headers, "exception.class.name")] += 1
        elif is_dead_letter_of(headers, settings.result_topic, INDEX_GROUP):
            dead.refusals += 1
            texts = read_error(headers, "partition"), read_error(headers, "offset")
            if all(map(str.isdigit, texts)):  # otherwise its schema fault says so
                position = int(texts[0]), int(texts[1])
                is_unreadable = read_error(headers, "stage") == "VALUE_CONVERTER"
                (dead.unreadable if is_unreadable else dead.refused).add(position)
        else:
            dead.foreign += 1
            continue
        if len(dead.sample) < _SAMPLE:
            dead.sample.append(message)
    return dead


def _expected_documents(rides: pa.Table, refused: set[tuple[int, int]], indexed: Mapping[int, int]) -> int:
    """How many rides of these results, as far as they are indexed and not refused."""
    partitions, offsets = _positions(rides)
    is_refused = np.isin(_keys(partitions, offsets), [at << 48 | by for at, by in refused])
    held = rides.filter(pa.array(is_before(indexed, partitions, offsets) & ~is_refused))
    count: int = pc.count_distinct(held["ride_id"]).as_py()
    return count


def _positions(rides: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The partitions and the offsets of results."""
    return rides["partition"].to_numpy().astype(np.int64), rides["offset"].to_numpy()


def _keys(partitions: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each position as one integer, so that looking them up stays linear."""
    return partitions << 48 | offsets


def _count_documents(systems: Systems[RidesSettings], least: int, most: int) -> int:
    client, index = systems.elasticsearch, systems.settings.rides_index

    def count() -> int:
        with elasticsearch_explained(client, f"counting {index}"):
            found: int = client.count(index=index, ignore_unavailable=True)["count"]
        return found

    until_searchable = Retrying(
        retry=retry_if_result(lambda found: not least <= found <= most),
        stop=stop_after_delay(_SEARCHABLE_WITHIN_S),
        wait=wait_fixed(0.5),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    found: int = until_searchable(count)
    return found


def _read_parquet(
    systems: Systems[RidesSettings], exported: Mapping[int, int], stale: pa.Table
) -> tuple[int, int, int, int]:
    """Rows in all; rows of results that the group has passed, how many of those are there more than once, and how many
    stale ones, which are in neither of the two.
    """

    def positions(blob: storage.Blob) -> pa.Table:
        return pq.read_table(io.BytesIO(blob.download_as_bytes()), columns=["kafka_partition", "kafka_offset"])

    settings = systems.settings
    with storage_explained(systems.gcs, f"reading bucket {settings.bucket}"):
        blobs = [
            blob
            for blob in systems.gcs.list_blobs(settings.bucket, prefix=join(settings.gcs_prefix, ""))
            if blob.name.endswith(".parquet")
        ]
        tables = []
        with ThreadPoolExecutor(8) as pool:
            for number, table in enumerate(pool.map(positions, blobs), start=1):
                tables.append(table)
                systems.progress("counting parquet", number, len(blobs))
    if not tables:
        return 0, 0, 0, 0
    table = pa.concat_tables(tables)
    partitions, offsets = table["kafka_partition"].to_numpy().astype(np.int64), table["kafka_offset"].to_numpy()
    keys = _keys(partitions, offsets)[is_before(exported, partitions, offsets)]
    is_stale = np.isin(keys, _keys(*_positions(stale)))
    valid = keys[~is_stale]
    return len(table), len(valid), len(valid) - len(np.unique(valid)), int(is_stale.sum())
