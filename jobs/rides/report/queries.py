"""The report's queries to Elasticsearch: aggregations, and the intervals and bins that they use."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any

from elasticsearch import Elasticsearch, NotFoundError

from jobs.errors import DatastreamError
from jobs.sinks.elasticsearch import translate_errors

MAX_BUCKETS = 120
_INTERVALS_S = (
    *(1, 2, 5, 10, 15, 30),
    *(60 * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(3_600 * hours for hours in (1, 2, 3, 6, 12)),
    *(86_400 * days for days in (1, 2, 7, 14, 30, 90, 365, 3_650, 36_500)),
)

_PRICE_BINS = 50
_MIN_PRICE_BIN = 0.01
# A map tile of this zoom level is 0.61 km · cos(latitude) wide. Only the tiles with the most rides are drawn.
MAP_ZOOM = 16
_MAX_CELLS = 10_000

_REQUEST_TIMEOUT_S = 60
_KEEP_ALIVE = "2m"


@dataclass(frozen=True)
class Answers:
    """Aggregations of an index at one point in time. Times in ms since 1970 (UTC), prices in the unit of the rides."""

    index: str
    rides: int
    interval_s: int
    price_bin: float
    price_top: float  # end of the price distribution, at or just above the 99th percentile
    summary: dict[str, Any]  # aggregations over all rides
    charts: dict[str, Any]  # aggregations by bucket, bin and cell


def fetch_answers(client: Elasticsearch, index: str) -> Answers:
    """Aggregate the index at one point in time, so that all figures agree.

    Raises:
        DatastreamError, ServiceUnavailableError, ConfigurationError: as in `write_report`.
    """
    client = client.options(request_timeout=_REQUEST_TIMEOUT_S)
    with translate_errors(client, f"reading {index} for the report"):
        try:
            snapshot = client.open_point_in_time(
                index=index, keep_alive=_KEEP_ALIVE, allow_partial_search_results=False
            )
        except NotFoundError as error:
            raise _build_no_rides_error(client, f"no index {index}") from error
        point_in_time = {"id": snapshot["id"], "keep_alive": _KEEP_ALIVE}
        try:
            response = client.search(
                pit=point_in_time, size=0, track_total_hits=True, aggs=_build_summary_aggregations()
            )
            summary = response["aggregations"]
            if summary["first"]["value"] is None:
                raise _build_no_rides_error(client, f"no rides in index {index}")
            interval_s = choose_interval(summary["first"]["value"], summary["last"]["value"])
            price_bin, price_top = choose_price_bins(summary["prices"]["values"]["99.0"])
            charts = client.search(
                pit=point_in_time, size=0, aggs=_build_chart_aggregations(interval_s, price_bin, price_top)
            )
        finally:
            client.options(ignore_status=404).close_point_in_time(id=snapshot["id"])
    rides = response["hits"]["total"]["value"]
    return Answers(index, rides, interval_s, price_bin, price_top, summary, charts["aggregations"])


def choose_interval(first_ms: float, last_ms: float) -> int:
    """Choose the shortest interval (s) that divides [first, last] into at most MAX_BUCKETS buckets."""
    for seconds in _INTERVALS_S:
        # Elasticsearch aligns buckets to multiples of the interval since 1970.
        if last_ms // (1_000 * seconds) - first_ms // (1_000 * seconds) < MAX_BUCKETS:
            return seconds
    return _INTERVALS_S[-1]


def choose_price_bins(highest: float) -> tuple[float, float]:
    """Choose a bin width (1, 2 or 5 times a power of ten) and the end of the last bin, which contains `highest`."""
    rough = max(highest / _PRICE_BINS, _MIN_PRICE_BIN)
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(float(f"{step * power:.3g}") for step in (1, 2, 5, 10) if step * power >= rough * 0.999)
    # Elasticsearch divides, then rounds down. `1.0 // 0.02` is 49, but Elasticsearch puts 1.0 into bin 50.
    top = width * (math.floor(highest / width) + 1)
    if float(f"{top:.12g}") <= highest:  # 1.9 / 0.05 is slightly less than 38
        top += width
    return width, float(f"{top:.12g}") if math.isfinite(top) else sys.float_info.max


def read_metric(aggregation: dict[str, Any] | None) -> float | None:
    """Read the value of a metric. None if no ride has the field, or if their sum overflows a double."""
    value = aggregation["value"] if aggregation else None
    return float(value) if value is not None and math.isfinite(float(value)) else None


def _build_no_rides_error(client: Elasticsearch, missing: str) -> DatastreamError:
    addresses = ", ".join(str(node.base_url) for node in client.transport.node_pool.all())
    return DatastreamError(
        f"Elasticsearch at {addresses} has {missing} yet, so there is nothing to report. "
        "Run `make demo`; or, if the services are up, un-pause dag_compute_cost and dag_index_and_export in Airflow "
        "and send rides with `make produce`."
    )


def _build_summary_aggregations() -> dict[str, Any]:
    return {
        "first": {"min": {"field": "ts"}},
        "last": {"max": {"field": "ts"}},
        "revenue": {"sum": {"field": "price_total"}},
        "distance": {"avg": {"field": "distance_km"}},
        "price": {"avg": {"field": "price_total"}},
        "highest_price": {"max": {"field": "price_total"}},
        "prices": {"percentiles": {"field": "price_total", "percents": [50, 99]}},
        "comfort": {
            "terms": {"field": "comfort"},
            "aggs": {"revenue": {"sum": {"field": "price_total"}}, "price": {"avg": {"field": "price_total"}}},
        },
    }


def _build_chart_aggregations(interval_s: int, price_bin: float, price_top: float) -> dict[str, Any]:
    average_price = {"avg": {"field": "price_total"}}
    return {
        "time": {
            "date_histogram": {"field": "ts", "fixed_interval": f"{interval_s}s"},
            "aggs": {
                "distance": {"avg": {"field": "distance_km"}},
                "price": average_price,
                "comfort": {"terms": {"field": "comfort"}, "aggs": {"price": average_price}},
            },
        },
        "usual_prices": {
            "filter": {"range": {"price_total": {"lt": price_top}}},
            "aggs": {
                "bins": {
                    "histogram": {"field": "price_total", "interval": price_bin},
                    "aggs": {"comfort": {"terms": {"field": "comfort"}}},
                }
            },
        },
        "origins": {
            "geotile_grid": {"field": "origin", "precision": MAP_ZOOM, "size": _MAX_CELLS},
            "aggs": {"centre": {"geo_centroid": {"field": "origin"}}, "price": average_price},
        },
    }
