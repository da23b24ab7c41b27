"""CommitOffsets: the group moves on once both sinks hold its claim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.observability.stats import Stats

from jobs.kafka.staged import read_manifest
from jobs.settings import Settings
from operators.base import DatastreamOperator


class CommitOffsetsOperator(DatastreamOperator):
    """Publishes what the sinks refused and commits the claim's ends, in one transaction.

    Args:
        transformed: URL of TransformJSON's manifest.
        indexed: URL of PutElasticSearch's manifest.
        dlq_topic: for dead letters.
    """

    template_fields: Sequence[str] = ("transformed", "indexed", "dlq_topic")

    def __init__(self, *, transformed: Any, indexed: Any, dlq_topic: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.transformed = transformed
        self.indexed = indexed
        self.dlq_topic = dlq_topic

    def work(self, context: Context, settings: Settings) -> None:
        from jobs.kafka.commit import Rejects, commit_offsets

        transformed = read_manifest(self.transformed)
        rejects = [
            Rejects(transformed, "TransformJSON", "VALUE_CONVERTER"),
            Rejects(read_manifest(self.indexed), "PutElasticSearch", "TASK_PUT"),
        ]
        refused = commit_offsets(self.kafka, transformed, rejects, self.dlq_topic, self.dag_id)
        self.run_folder(context, settings).delete()
        self.log.info("Committed %s; refused: %d", transformed.ends, refused.total())
        for reason, count in refused.items():
            Stats.incr(f"datastream.rides.refused.{reason}", count)
