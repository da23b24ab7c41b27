"""What a dashboard is declared with, and the classic JSON (schema 39) that Grafana provisions.

A panel names what it asks and how to read the answer; ids, places on the grid and Grafana's options follow from that.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

SCHEMA_VERSION = 39
TAG = "datastream"
PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
ELASTICSEARCH = {"type": "elasticsearch", "uid": "elasticsearch"}
WAREHOUSE = {"type": "grafana-postgresql-datasource", "uid": "warehouse"}

# The time field of Elasticsearch's data source: infra/grafana/provisioning/datasources/elasticsearch.yml.
TIME_FIELD = "ts"

_COLUMNS = 24

# What a query needs besides the running stack: the containers' metrics, a run of dbt, or the shop's marts. Without that
# it may be empty.
Needs = Literal["", "docker", "dbt", "shop"]


@dataclass(frozen=True)
class Prom:
    """A PromQL query. `legend` may contain labels: {{topic}}."""

    expr: str
    legend: str = ""
    needs: Needs = ""

    def to_json(self, ref: str, *, instant: bool, table: bool) -> dict[str, Any]:
        return {
            "refId": ref,
            "datasource": PROMETHEUS,
            "expr": self.expr,
            "legendFormat": "__auto" if table else self.legend or "__auto",
            "instant": instant,
            "range": not instant,
            "format": "table" if table else "time_series",
        }


@dataclass(frozen=True)
class Rides:
    """An aggregation of the rides in Elasticsearch, by comfort, by time or by both.

    Attributes:
        metrics: the aggregations and their fields: ("sum", "price_total"); ("count", "") counts rides.
    """

    metrics: tuple[tuple[str, str], ...]
    by_comfort: bool = False
    by_time: bool = False
    legend: str = ""
    needs: Needs = ""

    def to_json(self, ref: str, **_: bool) -> dict[str, Any]:
        metrics = [
            {"id": str(number), "type": kind, **({"field": name} if name else {})}
            for number, (kind, name) in enumerate(self.metrics, 1)
        ]
        terms = {
            "id": "11",
            "type": "terms",
            "field": "comfort",
            "settings": {"size": "10", "min_doc_count": "1", "order": "asc", "orderBy": "_term"},
        }
        histogram = {
            "id": "12",
            "type": "date_histogram",
            "field": TIME_FIELD,
            "settings": {"interval": "auto", "min_doc_count": "0", "trimEdges": "0"},
        }
        return {
            "refId": ref,
            "datasource": ELASTICSEARCH,
            "query": "",
            "alias": self.legend,
            "metrics": metrics,
            "bucketAggs": [*([terms] if self.by_comfort else []), *([histogram] if self.by_time else [])],
        }


@dataclass(frozen=True)
class Sql:
    """A SELECT from the shop's warehouse, as grafana_ro.

    In a chart its columns are `time`, in rising order, and a value for each series; or `time`, `metric` and one value.
    In other panels each row is a value or a line.
    """

    statement: str
    needs: Needs = "shop"

    def to_json(self, ref: str, *, instant: bool, **_: bool) -> dict[str, Any]:
        return {
            "refId": ref,
            "datasource": WAREHOUSE,
            "editorMode": "code",
            "rawQuery": True,
            "rawSql": inspect.cleandoc(self.statement),
            "format": "table" if instant else "time_series",
        }


Query = Prom | Rides | Sql


def _ref(index: int) -> str:
    """The name of a query in its panel: A, B, …"""
    return chr(ord("A") + index)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel.

    Attributes:
        about: what it shows and what to look for; the text behind the panel's (i).
        queries: the queries, of one data source. A panel with a value or a table asks for the newest values only.
        empty: what it means if there are no data; stands in the empty panel.
        unit: one of Grafana's units.
        warn, alarm: from these values on, yellow and red; below them if `low_is_bad`.
        values: names and colours of values, for a state.
        reduce: what a value is made of, for a query by time: lastNotNull, sum.
        last: the range of this panel, such as 90d, whatever the dashboard's is.
    """

    kind: Literal["stat", "lines", "bars", "table", "gauges"] = "lines"
    title: str
    about: str
    queries: Sequence[Query]
    empty: str
    unit: str = "short"
    decimals: int | None = None
    warn: float | None = None
    alarm: float | None = None
    low_is_bad: bool = False
    values: dict[int, tuple[str, str]] = field(default_factory=dict)
    reduce: str = "lastNotNull"
    last: str = ""
    width: int = 12
    height: int = 8

    @property
    def source(self) -> dict[str, str]:
        return {Prom: PROMETHEUS, Rides: ELASTICSEARCH, Sql: WAREHOUSE}[type(self.queries[0])]

    def to_json(self, number: int, x: int, y: int) -> dict[str, Any]:
        is_table, is_series = self.kind == "table", self.kind in ("lines", "bars")
        types = {"lines": "timeseries", "bars": "timeseries", "gauges": "bargauge"}
        panel = {
            "id": number,
            "type": types.get(self.kind, self.kind),
            "title": self.title,
            "description": self.about,
            "datasource": self.source,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [
                query.to_json(_ref(index), instant=not is_series, table=is_table)
                for index, query in enumerate(self.queries)
            ],
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": self._options(),
        }
        if self.kind == "bars":
            panel["interval"] = "1m"  # bars as wide as $__rate_interval, or each event would be in several
        if self.last:
            panel["timeFrom"] = self.last
        if is_table and self.source == PROMETHEUS:
            panel["transformations"] = self._tidy_table()
        return panel

    def _defaults(self) -> dict[str, Any]:
        defaults: dict[str, Any] = {
            "unit": self.unit,
            "noValue": self.empty,
            "color": {"mode": "palette-classic" if self.kind in ("lines", "bars") else "thresholds"},
            "thresholds": {
                "mode": "absolute",
                "steps": [{"value": start, "color": colour} for start, colour in self._list_colours()],
            },
            "mappings": [
                {"type": "value", "options": {str(value): {"text": text, "color": colour, "index": index}}}
                for index, (value, (text, colour)) in enumerate(self.values.items())
            ],
        }
        if self.decimals is not None:
            defaults["decimals"] = self.decimals
        if self.kind in ("lines", "bars"):
            defaults["min"] = 0
            defaults["custom"] = {
                "drawStyle": "bars" if self.kind == "bars" else "line",
                "fillOpacity": 70 if self.kind == "bars" else 10,
                "lineWidth": 1,
                "showPoints": "auto",
                "spanNulls": False,
                "stacking": {"mode": "normal" if self.kind == "bars" else "none", "group": "A"},
                "thresholdsStyle": {"mode": "off" if self.warn is self.alarm is None else "line"},
            }
        return defaults

    def _list_colours(self) -> list[tuple[float | None, str]]:
        """Each colour with the value from which it counts, in rising order."""
        limits = [
            (limit, colour) for limit, colour in ((self.warn, "yellow"), (self.alarm, "red")) if limit is not None
        ]
        if not self.low_is_bad:
            return [(None, "green"), *limits]
        limits.reverse()
        starts = [None, *(limit for limit, _ in limits)]
        return list(zip(starts, [*(colour for _, colour in limits), "green"], strict=True))

    def _options(self) -> dict[str, Any]:
        # One bar for each row of a SELECT.
        is_by_row = self.kind == "gauges" and self.source == WAREHOUSE
        values = {"calcs": [self.reduce], "fields": "", "values": is_by_row}
        if self.kind == "stat":
            return {
                "reduceOptions": values,
                "colorMode": "background" if self.values else "value",
                "graphMode": "none",
                "justifyMode": "auto",
                "orientation": "auto",
                "textMode": "auto",
                "wideLayout": True,
            }
        if self.kind == "gauges":
            return {
                "reduceOptions": values,
                "displayMode": "basic",
                "orientation": "horizontal",
                "showUnfilled": True,
                "valueMode": "color",
            }
        if self.kind == "table":
            return {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "fields": ""}}
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }

    def _tidy_table(self) -> list[dict[str, Any]]:
        """One table of all queries: a column for each, named after it. What every series has says nothing."""
        several = len(self.queries) > 1
        titles = {
            f"Value #{_ref(index)}" if several else "Value": query.legend or self.title
            for index, query in enumerate(self.queries)
            if isinstance(query, Prom)
        }
        hidden = dict.fromkeys(("Time", "__name__", "job", "instance"), True)
        return [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": hidden, "renameByName": titles}},
        ]


@dataclass(frozen=True)
class Row:
    """A heading, and the panels below it from left to right, in lines of 24 columns."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a dashboard: values of a label, all of them at first."""

    label: str
    metric: str

    @property
    def query(self) -> str:
        return f"label_values({self.metric}, {self.label})"

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "query",
            "name": self.label,
            "datasource": PROMETHEUS,
            "definition": self.query,
            "query": {"query": self.query, "refId": "Variable", "qryType": 1},
            "refresh": 2,
            "sort": 1,
            "includeAll": True,
            "allValue": ".*",
            "multi": True,
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """One dashboard; its file is infra/grafana/dashboards/<name>.json, its uid ds-<name>."""

    name: str
    about: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()

    @property
    def uid(self) -> str:
        return f"ds-{self.name}"

    @property
    def panels(self) -> Iterator[Panel]:
        return (panel for row in self.rows for panel in row.panels)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": None,
            "uid": self.uid,
            "title": self.name.capitalize(),
            "description": self.about,
            "tags": [TAG],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": False,
            "graphTooltip": 1,
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "refresh": "30s",
            "links": _LINKS,
            "annotations": {"list": []},
            "templating": {"list": [variable.to_json() for variable in self.variables]},
            "panels": list(self._place_panels()),
        }

    def encode(self) -> str:
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False) + "\n"

    def _place_panels(self) -> Iterator[dict[str, Any]]:
        number, y = 1, 0
        for row in self.rows:
            yield {
                "id": number,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": _COLUMNS, "h": 1},
                "panels": [],
            }
            number, x, y, height = number + 1, 0, y + 1, 0
            for panel in row.panels:
                if x + panel.width > _COLUMNS:
                    x, y, height = 0, y + height, 0
                yield panel.to_json(number, x, y)
                number, x, height = number + 1, x + panel.width, max(height, panel.height)
            y += height


def _link(title: str, url: str) -> dict[str, Any]:
    return {"type": "link", "title": title, "url": url, "icon": "external link", "targetBlank": True}


# Dashboards cannot read settings: the links have the default ports.
_LINKS = [
    {"type": "dashboards", "title": "Datastream", "tags": [TAG], "asDropdown": False, "keepTime": True},
    _link("Airflow", "http://localhost:8081"),
    _link("Kibana", "http://localhost:5601"),
    _link("Kafka-UI", "http://localhost:8080"),
]


def total(expr: str, *by: str) -> str:
    """PromQL for a sum by labels."""
    return f"sum by ({', '.join(by)}) ({expr})" if by else f"sum({expr})"


def grown(counter: str, *by: str, window: str = "$__range") -> str:
    """PromQL for what a counter has grown by in a window.

    `increase()` misses the first value of a series, and the counters of tasks appear with their first value: the first
    failure would not be shown. So a series that is new in the window counts with its whole value.
    """
    new = f"{counter} unless last_over_time({counter}[1h] offset {window})"
    return total(f"({new}) or increase({counter}[{window}])", *by)


def grown_in_interval(counter: str, *by: str) -> str:
    """As `grown`, for the intervals of a chart."""
    return grown(counter, *by, window="$__rate_interval")


def or_zero(expr: str) -> str:
    """PromQL for a value without labels that is 0 as long as its counter has not appeared."""
    return f"{expr} or vector(0)"


def per_second(counter: str, *by: str) -> str:
    """PromQL for a counter's rate."""
    return total(f"rate({counter}[$__rate_interval])", *by)


def mean(histogram: str, *by: str, window: str) -> str:
    """PromQL for the mean of a histogram's values in a window."""
    values, count = (grown(_part(histogram, name), *by, window=window) for name in ("sum", "count"))
    return f"{values} / ({count} > 0)"


def quantile(share: float, histogram: str, *by: str, window: str) -> str:
    """PromQL for a quantile of a histogram's values in a window."""
    return f"histogram_quantile({share}, {grown(_part(histogram, 'bucket'), 'le', *by, window=window)})"


def _part(histogram: str, name: str) -> str:
    """The selector of one of the series of a histogram; `histogram` may have labels: name{…}."""
    metric, brace, labels = histogram.partition("{")
    return f"{metric}_{name}{brace}{labels}"
