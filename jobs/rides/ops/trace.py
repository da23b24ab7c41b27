"""One ride's way through the stack: where it is in each topic, in Elasticsearch and in Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.clients import Systems
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.dead_letter import read_error, read_headers
from jobs.kafka.offsets import SETTLE_S, list_partitions, read_bounds
from jobs.kafka.scan import claim_all, scan
from jobs.rides.vertical import RidesSettings
from jobs.sinks.elasticsearch import explained as elasticsearch_explained
from jobs.sinks.parquet import explained as storage_explained
from jobs.sinks.parquet import join


class Sighting(msgspec.Struct, frozen=True):
    """Where a ride was seen, and what was there."""

    place: str
    position: str
    content: str


def trace(systems: Systems[RidesSettings], ride_id: str) -> Iterator[Sighting]:
    """Every place that holds the ride, in the order of its way. Reads whole topics: for a look, not for a loop."""
    settings, config, elasticsearch, gcs = systems.settings, systems.config, systems.elasticsearch, systems.gcs
    hours: set[str] = set()
    with translate_broker_errors(config, "tracing a ride"), open_consumer(config, "trace") as client:
        for topic in (settings.raw_topic, settings.result_topic, settings.dlq_topic):
            within = read_bounds(config, client, topic, list_partitions(client, topic), settle_s=SETTLE_S)
            for messages in scan(client, topic, claim_all(within), systems.progress, "reading"):
                for message in messages:
                    text = (message.value() or b"").decode("utf-8", "replace")
                    key = (message.key() or b"").decode("utf-8", "replace")
                    if ride_id not in (key.lower(), key) and ride_id not in text.lower():
                        continue
                    if topic == settings.result_topic:
                        hours |= _hour(text)
                    reason = read_error(read_headers(message), "exception.class.name")
                    why = f"{reason}: {read_error(read_headers(message), 'exception.message')} — " if reason else ""
                    position = f"partition {message.partition()}, offset {message.offset()}"
                    yield Sighting(topic, position, why + text)
    with elasticsearch_explained(elasticsearch, "looking a ride up"):
        found = elasticsearch.options(ignore_status=404).get(index=settings.rides_index, id=ride_id)
        if found.get("found"):
            position = f"_id {ride_id}, version {found['_version']}"
            yield Sighting(f"Elasticsearch {settings.rides_index}", position, json.dumps(found["_source"]))
    with storage_explained(gcs, f"reading bucket {settings.bucket}"):
        for hour in sorted(hours):
            for blob in gcs.list_blobs(settings.bucket, prefix=join(settings.gcs_prefix, f"{hour}/")):
                table = pq.read_table(io.BytesIO(blob.download_as_bytes()))
                for row in table.filter(pc.equal(table["ride_id"], ride_id)).to_pylist():
                    yield Sighting("Parquet", f"gs://{settings.bucket}/{blob.name}", _json(row))


def _hour(result: str) -> set[str]:
    """The path of the hour in which Parquet has a result; none if it is no result."""
    try:
        return {json.loads(result)["ts"][:13].replace("-", "/").replace("T", "/")}
    except (ValueError, TypeError, KeyError):
        return set()


def _json(row: dict[str, Any]) -> str:
    return json.dumps(row, default=str)
