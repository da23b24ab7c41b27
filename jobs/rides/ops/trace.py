"""Find one ride in each topic, in Elasticsearch and in Parquet."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.compute as pc

from jobs.clients import Systems
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.offsets import SETTLE_S, list_partitions, read_bounds
from jobs.kafka.scan import claim_all, scan
from jobs.kafka.staged import make_message_batch
from jobs.rides.transform import KEY_SCHEMA, flatten
from jobs.rides.vertical import RidesSettings
from jobs.sinks.elasticsearch import translate_errors
from jobs.sinks.parquet import list_objects, read_table, split_by_hour
from jobs.tracing import Sighting, make_sighting


def trace(systems: Systems[RidesSettings], ride_id: str) -> Iterator[Sighting]:
    """Yield each place that holds the ride, upstream first. Reads whole topics.

    Raises:
        ConfigurationError: an object of the ride's hour is from another program.
        ServiceUnavailableError: a service does not answer.
    """
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
                        rows, _ = flatten(make_message_batch([message]), message.partition())
                        hours |= {hour for hour, _ in split_by_hour(rows)}
                    yield make_sighting(message)
    with translate_errors(elasticsearch, "looking up a ride"):
        answer = elasticsearch.options(ignore_status=404).get(index=settings.rides_index, id=ride_id)
        if answer.get("found"):
            position: dict[str, int | str] = {"_id": ride_id, "version": answer["_version"]}
            yield Sighting(f"Elasticsearch {settings.rides_index}", position, answer["_source"])
    for hour in sorted(hours):
        for blob in list_objects(gcs, settings.bucket, settings.gcs_prefix, (hour, hour)):
            table = read_table(blob, KEY_SCHEMA, with_others=True)
            for row in table.filter(pc.equal(table["ride_id"], ride_id)).to_pylist():
                yield Sighting("Parquet", {"object": f"gs://{settings.bucket}/{blob.name}"}, row)
