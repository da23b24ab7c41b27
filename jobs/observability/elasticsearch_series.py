"""Series of Elasticsearch, with the names of prometheus-community/elasticsearch_exporter 1.10.

https://github.com/prometheus-community/elasticsearch_exporter#metrics has the names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from elasticsearch import Elasticsearch
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

TIMEOUT_S = 3
COLORS = ("green", "yellow", "red")
_NODE = ["cluster", "host", "name"]
# Name, text, and the path in the answer of GET /_nodes/stats.
_NODE_SERIES = (
    ("elasticsearch_filesystem_data_available_bytes", "Free bytes", "fs.total.available_in_bytes"),
    ("elasticsearch_filesystem_data_size_bytes", "Size of the disk", "fs.total.total_in_bytes"),
    ("elasticsearch_indices_docs", "Documents", "indices.docs.count"),
    ("elasticsearch_indices_store_size_bytes", "Size of the indices", "indices.store.size_in_bytes"),
)
# The exposition adds _total to the names.
_NODE_COUNTERS = (
    ("elasticsearch_indices_indexing_index", "Documents indexed", "indices.indexing.index_total"),
    ("elasticsearch_indices_search_query", "Queries", "indices.search.query_total"),
)


class ElasticsearchReader:
    """Reads the series of one cluster. The client's user needs the cluster privilege `monitor`."""

    def __init__(self, client: Elasticsearch) -> None:
        self._client = client.options(request_timeout=TIMEOUT_S, max_retries=0)

    def read(self) -> Iterator[Metric]:
        """The series now.

        Raises:
            elasticsearch.ApiError, elastic_transport.TransportError: no answer.
        """
        health = self._client.cluster.health()
        cluster: str = health["cluster_name"]
        status = GaugeMetricFamily(
            "elasticsearch_cluster_health_status", "1 for the status", labels=["cluster", "color"]
        )
        for color in COLORS:
            status.add_metric([cluster, color], health["status"] == color)
        yield status
        for name in ("number_of_nodes", "unassigned_shards", "active_shards"):
            family = GaugeMetricFamily(f"elasticsearch_cluster_health_{name}", name, labels=["cluster"])
            family.add_metric([cluster], health[name])
            yield family
        nodes = self._client.nodes.stats(metric="jvm,fs,indices")["nodes"].values()
        yield from _node_series(cluster, list(nodes))


def _node_series(cluster: str, nodes: list[dict[str, Any]]) -> Iterator[Metric]:
    for part in ("used", "max"):
        family = GaugeMetricFamily(
            f"elasticsearch_jvm_memory_{part}_bytes", f"{part.title()} memory of the JVM", labels=[*_NODE, "area"]
        )
        for node in nodes:
            family.add_metric([*_names(cluster, node), "heap"], node["jvm"]["mem"][f"heap_{part}_in_bytes"])
        yield family
    for name, text, path in _NODE_SERIES:
        gauge = GaugeMetricFamily(name, text, labels=_NODE)
        for node in nodes:
            gauge.add_metric(_names(cluster, node), _find(node, path))
        yield gauge
    for name, text, path in _NODE_COUNTERS:
        counter = CounterMetricFamily(name, text, labels=_NODE)
        for node in nodes:
            counter.add_metric(_names(cluster, node), _find(node, path))
        yield counter


def _names(cluster: str, node: dict[str, Any]) -> list[str]:
    return [cluster, node["host"], node["name"]]


def _find(node: dict[str, Any], path: str) -> float:
    value: Any = node
    for key in path.split("."):
        value = value[key]
    return float(value)
