"""CommitOffsets: commits the offsets of a claim after the sinks have written it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.observability.stats import Stats

from jobs.kafka.staged import read_manifest
from jobs.settings import Settings
from operators.base import DatastreamOperator


class CommitOffsetsOperator(DatastreamOperator):
    """Publishes the rejects as dead letters and commits the claim's ends, in one transaction.

    Args:
        transformed: URL of the manifest of the task that transformed the messages.
        transformed_by: id of that task, for the headers of dead letters.
        put: URL of the manifest of the task that wrote to the sink.
        put_by: id of that task, for the headers of dead letters.
        dlq_topic: topic for dead letters.
        refused_metric: name of the counter; its tag is the reason.
    """

    template_fields: Sequence[str] = ("transformed", "put", "dlq_topic")

    def __init__(
        self,
        *,
        transformed: Any,
        transformed_by: str,
        put: Any,
        put_by: str,
        dlq_topic: str,
        refused_metric: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.transformed = transformed
        self.transformed_by = transformed_by
        self.put = put
        self.put_by = put_by
        self.dlq_topic = dlq_topic
        self.refused_metric = refused_metric

    def work(self, context: Context, settings: Settings) -> None:
        from jobs.kafka.commit import Rejects, commit_offsets

        transformed = read_manifest(self.transformed)
        rejects = [
            Rejects(transformed, self.transformed_by, "VALUE_CONVERTER"),
            Rejects(read_manifest(self.put), self.put_by, "TASK_PUT"),
        ]
        refused = commit_offsets(self.kafka, transformed, rejects, self.dlq_topic, self.dag_id)
        self.locate_run_folder(context, settings).delete()
        self.log.info("Committed %s, rejected %d messages", transformed.ends, refused.total())
        for reason, count in refused.items():
            Stats.incr(self.refused_metric, count, tags={"reason": reason})
