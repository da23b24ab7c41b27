"""What Kibana asks Elasticsearch for a panel, and what the panel shows of the answer.

It translates the parts of Kibana 8.9 to 9.x that the dashboard uses: Lens columns, a map's grid and documents layers,
a saved search. Tests compare the figures with the rides; `picture` draws them for the docs. Anything else in a panel is
rejected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from elasticsearch import Elasticsearch

from infra.kibana.saved_objects import SavedObject
from jobs.errors import ConfigurationError

RECORDS = "___records___"
METRICS = {"average": "avg", "sum": "sum", "min": "min", "max": "max"}
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

# Kibana's constants: maps/common/constants.ts and ES_GEO_GRID's resolutions; discover:sampleSize.
_RESOLUTIONS = {"COARSE": 2, "FINE": 3, "MOST_FINE": 4}
_FINEST_TILE = 29
_MOST_CELLS = 65_535
_MOST_DOCUMENTS = 10_000
_SAMPLE = 500

Json = dict[str, Any]
Row = dict[str, Any]
Column = tuple[str, Json]  # its id and its definition in Lens


@dataclass(frozen=True)
class Rides:
    """The rides, or other documents, of an index in a time range, queried like Kibana.

    Both ends have a time zone and are included. Every query raises ConfigurationError if the panel uses a feature that
    is not translated.
    """

    client: Elasticsearch
    index: str
    start: datetime
    end: datetime
    time_field: str = "ts"

    def of_lens(self, panel: SavedObject, layer_id: str) -> list[Row]:
        """The table that Lens draws a layer from: one row per innermost bucket, values by column id.

        Dates are in ms since 1970 (UTC); an average of nothing is None.
        """
        layer, state = lens_layers(panel)[layer_id], panel["attributes"]["state"]
        columns = [(name, layer["columns"][name]) for name in layer["columnOrder"]]
        answer = self._search(
            size=0,
            track_total_hits=True,
            query=self._query(state["query"], state["filters"]),
            aggs=self._aggregations(columns),
        )
        whole = {"doc_count": answer["hits"]["total"]["value"], **answer.get("aggregations", {})}
        return list(self._rows(columns, whole, {}, 0))

    def of_cells(self, panel: SavedObject, layer: Json, zoom: float) -> list[Row]:
        """A map's circles at a zoom level: `key` (z/x/y of the tile), `lat`, `lon` in degrees, `doc_count`, metrics."""
        source = layer["sourceDescriptor"]
        if source["requestType"] != "point" or source["resolution"] not in _RESOLUTIONS:
            raise _unknown(panel, f"{source['requestType']} {source['resolution']}")
        metrics = {
            f"{metric['type']}_of_{metric['field']}": {metric["type"]: {"field": metric["field"]}}
            for metric in source["metrics"]
            if metric["type"] != "count"
        }
        field = {"field": source["geoField"]}
        tile = min(math.ceil(zoom) + _RESOLUTIONS[source["resolution"]], _FINEST_TILE)
        cells = {
            "geotile_grid": {**field, "precision": tile, "size": _MOST_CELLS},
            "aggs": {"centroid": {"geo_centroid": field}, **metrics},
        }
        answer = self._search(size=0, query=self._map_query(panel, source), aggs={"cells": cells})
        return [
            {
                "key": cell["key"],
                **cell["centroid"]["location"],
                "doc_count": cell["doc_count"],
                **{name: cell[name]["value"] for name in metrics},
            }
            for cell in answer["aggregations"]["cells"]["buckets"]
        ]

    def of_documents(self, panel: SavedObject, layer: Json) -> list[Row]:
        """A map's single rides, anywhere on earth: the point and the tooltip's fields, by their names."""
        source = layer["sourceDescriptor"]
        if source["scalingType"] != "LIMIT":
            raise _unknown(panel, source["scalingType"])
        query = self._map_query(panel, source)
        query["bool"]["filter"].append({"exists": {"field": source["geoField"]}})
        fields = [source["geoField"], *source["tooltipProperties"]]
        return self._documents(fields, query=query, size=_MOST_DOCUMENTS)

    def of_search(self, panel: SavedObject) -> list[Row]:
        """The first page of a saved search: what it is sorted by, and its columns, by field."""
        attributes = panel["attributes"]
        source = attributes["kibanaSavedObjectMeta"]["searchSourceJSON"]
        fields = list(dict.fromkeys([*(field for field, _ in attributes["sort"]), *attributes["columns"]]))
        sort = [{field: {"order": order}} for field, order in attributes["sort"]]
        query = self._query(source["query"], source["filter"])
        return self._documents(fields, query=query, size=_SAMPLE, sort=sort)

    def _search(self, **body: Any) -> Json:
        answer: Json = self.client.search(index=self.index, **body).body
        return answer

    def _documents(self, fields: list[str], **body: Any) -> list[Row]:
        answer = self._search(fields=[{"field": field} for field in fields], source=False, **body)
        return [{field: hit["fields"][field][0] for field in fields} for hit in answer["hits"]["hits"]]

    def _query(self, query: Json, filters: list[Json]) -> Json:
        if query["query"] or any(one["meta"]["negate"] or one["meta"]["disabled"] for one in filters):
            raise ConfigurationError(f"A query ({query['query']!r}) and negated filters are not translated.")
        ends = {"gte": self.start.isoformat(), "lte": self.end.isoformat(), "format": "strict_date_optional_time"}
        return {"bool": {"filter": [{"range": {self.time_field: ends}}, *(one["query"] for one in filters)]}}

    def _map_query(self, panel: SavedObject, source: Json) -> Json:
        if not (source["applyGlobalTime"] and source["applyGlobalQuery"]):
            raise _unknown(panel, "a layer without the dashboard's time and query")
        state = panel["attributes"]["mapStateJSON"]
        return self._query(state["query"], state["filters"])

    def _aggregations(self, columns: list[Column]) -> Json:
        """Buckets in the order of the columns, each inside the one before; the metrics inside all of them."""
        metrics = {
            name: {METRICS[column["operationType"]]: {"field": column["sourceField"]}}
            for name, column in columns
            if column["operationType"] in METRICS
        } | {
            name: {"percentiles": {"field": column["sourceField"], "percents": [column["params"]["percentile"]]}}
            for name, column in columns
            if column["operationType"] == "percentile"
        }
        aggregations = metrics
        for name, column in reversed(columns):
            if column["isBucketed"]:
                # The metric that orders buckets must be directly inside them.
                by = column["params"].get("orderBy", {}).get("columnId")
                beside = {by: metrics[by]} if by in metrics else {}
                aggregations = {
                    name: {**self._buckets(name, column, dict(columns)), "aggs": {**beside, **aggregations}}
                }
        return aggregations

    def _buckets(self, name: str, column: Json, columns: Json) -> Json:
        params, field = column["params"], {"field": column["sourceField"]}
        if column["operationType"] == "date_histogram":
            interval_seconds(params["interval"])  # rejects intervals that depend on the browser
            # Kibana uses a calendar interval for one of a unit.
            kind = "calendar_interval" if params["interval"] in ("1m", "1h", "1d") else "fixed_interval"
            histogram = {**field, kind: params["interval"], "time_zone": "UTC", "min_doc_count": 1}
            if params["includeEmptyRows"]:
                ends = {"min": _ms(self.start), "max": _ms(self.end)}
                histogram |= {"min_doc_count": 0, "extended_bounds": ends}
            return {"date_histogram": histogram}
        if column["operationType"] == "range" and params["type"] == "range":
            ranges = [{"key": item["label"], "from": item["from"], "to": item["to"]} for item in params["ranges"]]
            return {"range": {**field, "ranges": ranges}}
        if column["operationType"] == "terms" and not params["otherBucket"] and not params["missingBucket"]:
            by = {"alphabetical": "_key", "column": params["orderBy"].get("columnId")}[params["orderBy"]["type"]]
            if by in columns and columns[by]["operationType"] == "count":
                by = "_count"
            return {"terms": {**field, "size": params["size"], "order": {by: params["orderDirection"]}}}
        raise ConfigurationError(f"Column {name}: {column['operationType']} with {params} is not translated.")

    def _rows(self, columns: list[Column], bucket: Json, outer: Row, interval_s: int) -> Iterator[Row]:
        inside = [(name, column) for name, column in columns if column["isBucketed"] and name not in outer]
        if not inside:
            metrics = ((name, column) for name, column in columns if not column["isBucketed"])
            yield outer | {name: _metric(name, column, bucket, interval_s) for name, column in metrics}
            return
        name, column = inside[0]
        is_time = column["operationType"] == "date_histogram"
        seconds = interval_seconds(column["params"]["interval"]) if is_time else interval_s
        for inner in bucket[name]["buckets"]:
            partial = is_time and not _ms(self.start) <= inner["key"] <= _ms(self.end) - 1_000 * seconds
            if not (partial and column["params"]["dropPartials"]):
                yield from self._rows(columns, inner, outer | {name: inner["key"]}, seconds)


def lens_layers(panel: SavedObject) -> dict[str, Json]:
    """The layers of a decoded Lens object by their ids."""
    layers: dict[str, Json] = panel["attributes"]["state"]["datasourceStates"]["formBased"]["layers"]
    return layers


def map_layers(panel: SavedObject) -> list[Json]:
    """The layers of a decoded map that show rides, lowest first."""
    return [
        layer for layer in panel["attributes"]["layerListJSON"] if layer["sourceDescriptor"]["type"].startswith("ES_")
    ]


def _metric(name: str, column: Json, bucket: Json, interval_s: int) -> float | None:
    if column["operationType"] == "count" and column["sourceField"] == RECORDS:
        value: float | None = bucket["doc_count"]
    elif column["operationType"] in METRICS:
        value = bucket[name]["value"]
    elif column["operationType"] == "percentile":
        (value,) = bucket[name]["values"].values()
    else:
        raise ConfigurationError(f"Column {name}: {column['operationType']} is not translated.")
    if not bucket["doc_count"] and column.get("params", {}).get("emptyAsNull"):
        return None
    if "timeScale" in column and value is not None:
        value *= _SECONDS[column["timeScale"]] / interval_s
    return value


def interval_seconds(interval: str) -> int:
    """The length of a fixed interval like 1m, in s.

    Raises:
        ConfigurationError: it is not fixed; `auto` depends on the width of the browser.
    """
    match = re.fullmatch(r"(\d+)([smhd])", interval)
    if not match:
        raise ConfigurationError(f"The interval {interval!r} is not fixed, like 1m.")
    return int(match[1]) * _SECONDS[match[2]]


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000)


def _unknown(panel: SavedObject, what: str) -> ConfigurationError:
    return ConfigurationError(f"{panel['type']} {panel['id']}: {what} is not translated.")
