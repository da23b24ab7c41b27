"""PublishKafka: results, dead letters and offsets in transactions of whole chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.observability.stats import Stats

from jobs.kafka.staged import read_manifest
from jobs.settings import Settings
from operators.base import DatastreamOperator


class PublishKafkaOperator(DatastreamOperator):
    """Publishes what became of the staged messages, exactly once.

    Args:
        computed: URL of ComputeCostTravel's manifest.
        result_topic: for results.
        dlq_topic: for dead letters.
    """

    template_fields: Sequence[str] = ("computed", "result_topic", "dlq_topic")

    def __init__(self, *, computed: Any, result_topic: str, dlq_topic: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.computed = computed
        self.result_topic = result_topic
        self.dlq_topic = dlq_topic

    def work(self, context: Context, settings: Settings) -> None:
        from jobs.kafka.publish import Outlet, publish

        # publish() itself looks at the committed offsets; a try after the last commit still ends as a success.
        manifest = read_manifest(self.computed)
        outlet = Outlet(self.result_topic, self.dlq_topic, self.dag_id, "ComputeCostTravel", "TRANSFORMATION")
        published = publish(self.kafka, manifest, outlet)
        self.run_folder(context, settings).delete()
        rejected = ", ".join(f"{count} {reason}" for reason, count in published.rejects.most_common())
        self.log.info("Published %d results; rejected: %s", published.results, rejected or "none")
        Stats.incr("datastream.rides.priced", published.results)
        for reason, count in published.rejects.items():
            Stats.incr(f"datastream.rides.rejected.{reason}", count)
