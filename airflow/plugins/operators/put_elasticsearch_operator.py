"""PutElasticSearch: indexes rows, one document per ride."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context
from airflow.sdk.observability.stats import Stats

from jobs.kafka.staged import read_manifest
from jobs.rides.vertical import RidesSettings
from operators.base import DatastreamOperator


class PutElasticsearchOperator(DatastreamOperator):
    """Indexes transformed rows. Documents that Elasticsearch rejects for good are staged for CommitOffsets.

    Args:
        staged: URL of ConsumeKafka's manifest.
        transformed: URL of TransformJSON's manifest.
    """

    template_fields: Sequence[str] = ("staged", "transformed")

    def __init__(self, *, staged: Any, transformed: Any, es_conn_id: str = "es_local", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.staged = staged
        self.transformed = transformed
        self.es_conn_id = es_conn_id

    def work(self, context: Context, settings: RidesSettings) -> str:
        from hooks.elasticsearch_hook import ElasticsearchHook
        from jobs.rides.index import put_elasticsearch

        staged = self.read_unfinished(self.staged)
        client = ElasticsearchHook(self.es_conn_id).get_conn
        url, indexed = put_elasticsearch(
            client, settings.rides_index, staged, read_manifest(self.transformed), self.locate_folder(context, settings)
        )
        count = indexed.records - indexed.rejects
        self.log.info("Indexed %d rides into %s, rejected %d", count, settings.rides_index, indexed.rejects)
        Stats.incr("datastream.rides.indexed", count)
        self.report_freshness("datastream.rides.freshness", staged)
        return url
