"""What Grafana asks its data sources for a panel, and whether it gets an answer.

It reads the JSON in infra/grafana/dashboards, and translates what those dashboards use: PromQL with Grafana's
variables, Elasticsearch's metrics by terms and by time, and SQL with one macro.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import requests
from elasticsearch import Elasticsearch

from infra.grafana.builder import TIME_FIELD, Dashboard, Needs, Panel, Query, Sql
from infra.grafana.catalog import DASHBOARDS
from jobs.clients import make_local_session
from jobs.shop.database import GRAFANA, connect

Json = dict[str, Any]

_METRIC = re.compile(
    r"\b(?:airflow|container|datastream|elasticsearch|kafka|pg|prometheus|scrape|statsd)[_:][a-z0-9_:]+\b|\b(?:up|ALERTS)\b"
)


_TIME_FILTER = re.compile(r"\$__timeFilter\(([^)]*)\)")


class QueryError(AssertionError):
    """A source rejects a query, or Grafana its answer."""


@dataclass(frozen=True)
class Sources:
    """Prometheus and Elasticsearch, asked for the last `range_s` seconds.

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


def count_rows(settings: Any, panel: Panel, target: Json) -> int:
    """Run the SELECT of a panel as grafana_ro; count the rows in which it would show a value.

    Raises:
        QueryError: PostgreSQL rejects it, or its answer is not what the panel can draw.
    """
    statement = _substitute_macro(target["rawSql"], panel.last)
    try:
        with closing(connect(settings, GRAFANA)) as database:
            cursor = database.execute(statement)
            names = [column.name for column in cursor.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
    except psycopg.Error as error:
        raise QueryError(f"{panel.title}: {error}") from error
    if target["format"] == "time_series":
        _check_series(panel, names, rows)
    hidden = {"time", "metric"}
    return sum(any(value is not None for name, value in row.items() if name not in hidden) for row in rows)


def _substitute_macro(statement: str, last: str) -> str:
    """Fill in the range of the panel, as Grafana does; the dashboards' own is an hour."""
    until = datetime.now(UTC)
    since = until - (timedelta(days=int(last.removesuffix("d"))) if last else timedelta(hours=1))
    bounds = " AND ".join(f"'{time:%Y-%m-%dT%H:%M:%S.%fZ}'" for time in (since, until))
    filled = _TIME_FILTER.sub(rf"\1 BETWEEN {bounds}", statement)
    if "$" in filled:
        raise QueryError(f"not translated: {statement}")
    return filled


def _check_series(panel: Panel, names: list[str], rows: list[Json]) -> None:
    """What Grafana demands of a time series."""
    times = [row.get("time") for row in rows]
    values = [value for row in rows for name, value in row.items() if name not in {"time", "metric"}]
    if "metric" in names and len(names) != 3:
        raise QueryError(f"{panel.title}: its series would be named by column and metric")
    if not all(isinstance(time, date) for time in times) or times != sorted(times):
        raise QueryError(f"{panel.title}: no column `time` in rising order")
    if not all(isinstance(value, int | float | Decimal | None) for value in values):
        raise QueryError(f"{panel.title}: a value is no number")


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
    """The queries without an answer, apart from those of the warehouse and those that need what is not available.

    Raises:
        QueryError: a source rejects a query, even one that may be empty.
    """
    empty = []
    for dashboard, panel, query, target in list_queries():
        if isinstance(query, Sql):
            continue
        count = sources.count_values(target)
        if not count and query.needs in ("", *available):
            asks = target.get("expr") or target["metrics"]
            empty.append(f"{dashboard.name}: {panel.title}: {asks}")
    return empty


def list_metrics(expr: str) -> set[str]:
    """The names of the metrics in PromQL."""
    return set(_METRIC.findall(expr))
