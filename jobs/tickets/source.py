"""The topic of the tickets, on Redpanda or Kafka."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from jobs.errors import ServiceUnavailableError
from jobs.kafka.client import QUIET, REQUEST_TIMEOUT_S, open_consumer, translate_broker_errors
from jobs.kafka.offsets import Bounds, list_partitions, read_bounds, read_topic_id
from jobs.spark.checkpoint import Ends


@dataclass(frozen=True)
class Topic:
    """A topic and the address of its broker."""

    broker: str
    name: str

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of confluent-kafka."""
        return {"bootstrap.servers": self.broker}

    @property
    def options(self) -> dict[str, str]:
        """The options of Spark's Kafka source."""
        return {
            "kafka.bootstrap.servers": self.broker,
            "kafka.isolation.level": "read_committed",
            "includeHeaders": "true",
            "failOnDataLoss": "true",
        }

    def make_range_options(self, bounds: Mapping[int, Bounds]) -> dict[str, str]:
        """The options of a batch that reads these offsets."""
        first = {str(partition): bound.low for partition, bound in bounds.items()}
        ends = {str(partition): bound.end for partition, bound in bounds.items()}
        return {
            **self.options,
            "assign": json.dumps({self.name: list(bounds)}),
            "startingOffsets": json.dumps({self.name: first}),
            "endingOffsets": json.dumps({self.name: ends}),
        }

    def wait(self, seconds: float) -> None:
        """Wait until a broker answers.

        Raises:
            ServiceUnavailableError: no broker answers in time.
        """
        try:
            AdminClient({**QUIET, **self.config}).list_topics(timeout=seconds)
        except KafkaException as error:
            raise ServiceUnavailableError(
                f"No broker answered at {self.broker} within {seconds:g} s ({error.args[0].str()}). Start it, correct "
                "REDPANDA_BROKER_LOCAL, or wait longer (PRODUCER_TIMEOUT)."
            ) from error

    def read_bounds(self) -> dict[int, Bounds]:
        """The offsets of each partition.

        Raises:
            ConfigurationError: the topic does not exist.
            ServiceUnavailableError: the broker does not answer.
        """
        with (
            translate_broker_errors(self.config, f"reading the offsets of {self.name}"),
            open_consumer(self.config, "tickets") as client,
        ):
            return read_bounds(self.config, client, self.name, list_partitions(client, self.name))

    def read_id(self) -> str:
        """What changes when the topic is recreated: the ids of the cluster and of the topic."""
        with translate_broker_errors(self.config, f"reading the id of {self.name}"):
            admin = AdminClient({**QUIET, **self.config})  # must live until the answer arrives
            cluster = admin.describe_cluster(request_timeout=REQUEST_TIMEOUT_S).result()
            return f"{cluster.cluster_id}/{read_topic_id(self.config, self.name)}"

    def commit(self, group: str, ends: Ends) -> None:
        """Commit offsets for a consumer group that only shows the position to other tools."""
        offsets = [TopicPartition(self.name, partition, offset) for partition, offset in ends.items()]
        with translate_broker_errors(self.config, f"committing the offsets of {group}"):
            admin = AdminClient({**QUIET, **self.config})
            request = [ConsumerGroupTopicPartitions(group, offsets)]
            for answer in admin.alter_consumer_group_offsets(request, request_timeout=REQUEST_TIMEOUT_S).values():
                answer.result()
