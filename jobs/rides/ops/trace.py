"""Find one ride in each topic, in Elasticsearch and in Parquet."""

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
from jobs.sinks.elasticsearch import translate_errors as translate_elasticsearch_errors
from jobs.sinks.parquet import join
from jobs.sinks.parquet import translate_errors as translate_storage_errors


class Sighting(msgspec.Struct, frozen=True):
    """A place that holds a ride, and what it holds.

    `position`: partition and offset, `_id` and version, or an object's URI. `error`: why a message is a dead letter.
    `content`: a message's value, or the fields of a document or row.
    """

    place: str
    position: dict[str, int | str]
    content: bytes | dict[str, Any] | None
    error: str | None = None


def trace(systems: Systems[RidesSettings], ride_id: str) -> Iterator[Sighting]:
    """Yield each place that holds the ride, upstream first. Reads whole topics."""
    settings, config, elasticsearch, gcs = systems.settings, systems.config, systems.elasticsearch, systems.gcs
    hours: set[str] = set()
    with translate_broker_errors(config, "tracing a ride"), open_consumer(config, "trace") as client:
        for topic in (settings.raw_topic, settings.result_topic, settings.dlq_topic):
            ranges = claim_all(read_bounds(config, client, topic, list_partitions(client, topic), settle_s=SETTLE_S))
            for messages in scan(client, topic, ranges, systems.progress, "reading"):
                for message in messages:
                    key, value = message.key() or b"", message.value() or b""
                    if not any(ride_id in text.decode("utf-8", "replace").lower() for text in (key, value)):
                        continue
                    if topic == settings.result_topic:
                        hours |= _find_hour(value)
                    headers = read_headers(message)
                    reason, text = (read_error(headers, f"exception.{part}") for part in ("class.name", "message"))
                    position: dict[str, int | str] = {"partition": message.partition(), "offset": message.offset()}
                    yield Sighting(topic, position, message.value(), f"{reason}: {text}" if reason else None)
    with translate_elasticsearch_errors(elasticsearch, "looking up a ride"):
        answer = elasticsearch.options(ignore_status=404).get(index=settings.rides_index, id=ride_id)
        if answer.get("found"):
            position = {"_id": ride_id, "version": answer["_version"]}
            yield Sighting(f"Elasticsearch {settings.rides_index}", position, answer["_source"])
    with translate_storage_errors(gcs, f"reading bucket {settings.bucket}"):
        for hour in sorted(hours):
            for blob in gcs.list_blobs(settings.bucket, prefix=join(settings.gcs_prefix, f"{hour}/")):
                table = pq.read_table(io.BytesIO(blob.download_as_bytes()))
                for row in table.filter(pc.equal(table["ride_id"], ride_id)).to_pylist():
                    yield Sighting("Parquet", {"object": f"gs://{settings.bucket}/{blob.name}"}, row)


def _find_hour(result: bytes) -> set[str]:
    """Return the path of the hour whose Parquet objects hold a result; empty if the message is not a result."""
    try:
        return {json.loads(result)["ts"][:13].replace("-", "/").replace("T", "/")}
    except (ValueError, TypeError, KeyError):
        return set()
