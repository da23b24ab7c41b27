"""Messages of `rides_raw` as Spark's Kafka source reads them, and as `price` wants them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import ConfigurationError
from jobs.kafka.client import Config
from jobs.kafka.scan import Claim
from jobs.kafka.staged import MESSAGE_SCHEMA

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# A batch of Arrow ends with the record that reaches one of these: memory stays flat whatever the size of a message.
BATCH_RECORDS = 8_000
BATCH_BYTES = 8 * 2**20
# Java's client holds this many messages of a partition on the heap. With its default of 500, messages of 1 MB that
# compress well fill a heap of 1 GiB: the client limits only compressed bytes.
POLL_RECORDS = 50
# librdkafka's settings that Java's client has under the same name: it also takes those of security.
_PASSED = ("bootstrap.servers", "security.protocol", "sasl.mechanism")


def make_options(config: Config) -> dict[str, str]:
    """The options of Spark's Kafka source. It fails if retention has deleted a message that it is to read.

    Args:
        config: confluent-kafka's configuration.

    Raises:
        ConfigurationError: a setting has another name in Java.
    """
    if unknown := sorted(config.keys() - set(_PASSED)):
        raise ConfigurationError(f"Spark's Kafka source cannot take these settings of the connection: {unknown}.")
    return {
        **{f"kafka.{name}": str(value) for name, value in config.items()},
        "kafka.isolation.level": "read_committed",
        "kafka.max.poll.records": str(POLL_RECORDS),
        "includeHeaders": "true",
        "failOnDataLoss": "true",
    }


def make_range_options(topic: str, claims: Iterable[Claim]) -> dict[str, str]:
    """The options of a batch that reads these ranges. One without offsets is left out."""
    ranges = [claim for claim in claims if claim.start < claim.end]
    return {
        "assign": json.dumps({topic: [claim.partition for claim in ranges]}),
        "startingOffsets": json.dumps({topic: {str(claim.partition): claim.start for claim in ranges}}),
        "endingOffsets": json.dumps({topic: {str(claim.partition): claim.end for claim in ranges}}),
    }


def limit_batches(spark: SparkSession) -> None:
    """Limit the batches that `mapInArrow` gets, by records and by bytes."""
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", str(BATCH_RECORDS))
    spark.conf.set("spark.sql.execution.arrow.maxBytesPerBatch", str(BATCH_BYTES))


def make_messages(rows: pa.RecordBatch) -> pa.RecordBatch:
    """A batch of MESSAGE_SCHEMA from a batch of Spark's Kafka source."""
    columns: dict[str, Any] = {name: rows.column(name) for name in ("offset", "key", "value", "headers")}
    columns["timestamp"] = pc.divide(rows.column("timestamp").cast(pa.int64()), 1000)
    arrays = [columns[field.name].cast(field.type) for field in MESSAGE_SCHEMA]
    return pa.record_batch(arrays, schema=MESSAGE_SCHEMA)
