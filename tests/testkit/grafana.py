"""What Grafana asks Prometheus and Elasticsearch for a panel, and whether it gets an answer.

It reads the JSON in infra/grafana/dashboards, and translates what those dashboards use: PromQL with Grafana's
variables, and Elasticsearch's metrics by terms and by time.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import requests
from elasticsearch import Elasticsearch

from infra.grafana.builder import TIME_FIELD, Dashboard, Needs, Panel, Query
from infra.grafana.catalog import DASHBOARDS
from jobs.clients import make_local_session

Json = dict[str, Any]

_METRIC = re.compile(
    r"\b(?:airflow|container|datastream|elasticsearch|kafka|pg|prometheus|scrape|statsd)[_:][a-z0-9_:]+\b|\b(?:up|ALERTS)\b"
)


class QueryError(AssertionError):
    """A source rejects a query."""


@dataclass(frozen=True)
class Sources:
    """The data sources, asked for the last `range_s` seconds.

    Attributes:
        prometheus: its URL.
        rate_interval_s: Grafana's `$__rate_interval`: at least four scrapes.
    """

    prometheus: str
    elasticsearch: Elasticsearch
    index: str = "rides"
    range_s: int = 900
    rate_interval_s: int = 60

    def count_values(self, target: Json) -> int:
        """Run the query of a panel; count the values that it would show.

        Raises:
            QueryError: the source rejects it.
        """
        if target["datasource"]["type"] == "elasticsearch":
            return sum(value is not None for value in self._search(target))
        values = self._query(self.substitute(target["expr"]), instant=target["instant"])
        return sum(math.isfinite(float(value)) for value in values)

    def list_label_values(self, variable: Json) -> list[str]:
        """The choices of a dashboard's variable."""
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
        values: list[str] = self._get(f"label/{label}/values", {"match[]": metric})
        return values

    def substitute(self, expr: str) -> str:
        """Fill in Grafana's variables. Those of a dashboard select all."""
        named = {"__range": f"{self.range_s}s", "__rate_interval": f"{self.rate_interval_s}s"}
        return re.sub(r"\$(\w+)", lambda match: named.get(match[1], ".*"), expr)

    def _query(self, expr: str, *, instant: bool) -> list[str]:
        if instant:
            result = self._get("query", {"query": expr})["result"]
            return [series["value"][1] for series in result]
        now = time.time()
        times = {"start": now - self.range_s, "end": now, "step": 15}
        result = self._get("query_range", {"query": expr, **times})["result"]
        return [value for series in result for _, value in series["values"]]

    def _get(self, call: str, parameters: Json) -> Any:
        try:
            answer = make_local_session().get(f"{self.prometheus}/api/v1/{call}", params=parameters, timeout=30)
            content = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise QueryError(f"{parameters}: {error}") from error
        if content["status"] != "success":
            raise QueryError(f"{parameters}: {content['error']}")
        return content["data"]

    def _search(self, target: Json) -> list[float | None]:
        """The values of the innermost buckets."""
        metrics = {metric["id"]: metric for metric in target["metrics"]}
        aggregations: Json = {
            number: {metric["type"]: {"field": metric["field"]}}
            for number, metric in metrics.items()
            if metric["type"] != "count"
        }
        for bucket in reversed(target["bucketAggs"]):
            inner = {"aggs": aggregations} if aggregations else {}
            aggregations = {bucket["id"]: {bucket["type"]: _translate(bucket), **inner}}
        query = {"range": {TIME_FIELD: {"gte": f"now-{self.range_s}s", "lte": "now"}}}
        answer = self.elasticsearch.search(index=self.index, size=0, query=query, aggs=aggregations)
        levels = [bucket["id"] for bucket in target["bucketAggs"]]
        return [
            bucket["doc_count"] or None if metric["type"] == "count" else bucket[number]["value"]
            for bucket in _list_buckets(answer["aggregations"], levels)
            for number, metric in metrics.items()
        ]


def _translate(bucket: Json) -> Json:
    """The body of a bucket aggregation, as Grafana's backend makes it."""
    settings = bucket["settings"]
    least = int(settings["min_doc_count"])
    if bucket["type"] == "terms":
        order = {settings["orderBy"].replace("_term", "_key"): settings["order"]}
        return {"field": bucket["field"], "size": int(settings["size"]), "min_doc_count": least, "order": order}
    assert (bucket["type"], settings["interval"]) == ("date_histogram", "auto"), f"not translated: {bucket}"
    return {"field": bucket["field"], "fixed_interval": "30s", "min_doc_count": least}


def _list_buckets(answer: Json, levels: list[str]) -> Iterator[Json]:
    if not levels:
        yield answer
        return
    for bucket in answer[levels[0]]["buckets"]:
        yield from _list_buckets(bucket, levels[1:])


def list_queries() -> Iterator[tuple[Dashboard, Panel, Query, Json]]:
    """Each query as declared, and as the dashboard has it."""
    for dashboard in DASHBOARDS:
        panels = [panel for panel in dashboard.to_json()["panels"] if panel["type"] != "row"]
        for panel, drawn in zip(dashboard.panels, panels, strict=True):
            for query, target in zip(panel.queries, drawn["targets"], strict=True):
                yield dashboard, panel, query, target


def find_empty_queries(sources: Sources, available: Collection[Needs] = ()) -> list[str]:
    """The queries without an answer, apart from those that need what is not available.

    Raises:
        QueryError: a source rejects a query, even one that may be empty.
    """
    empty = []
    for dashboard, panel, query, target in list_queries():
        count = sources.count_values(target)
        if not count and query.needs in ("", *available):
            asks = target.get("expr") or target["metrics"]
            empty.append(f"{dashboard.name}: {panel.title}: {asks}")
    return empty


def list_metrics(expr: str) -> set[str]:
    """The names of the metrics in PromQL."""
    return set(_METRIC.findall(expr))
