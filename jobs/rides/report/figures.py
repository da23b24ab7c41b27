"""The page to look at: what Elasticsearch's own aggregations say of the rides, as one HTML file readable offline."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from itertools import accumulate
from pathlib import Path
from statistics import median
from string import Template
from typing import Any

import plotly.graph_objects as go
from elasticsearch import Elasticsearch, NotFoundError
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from jobs.errors import DatastreamError
from jobs.rides import zones as playbook
from jobs.rides.zones import Zones
from jobs.sinks.elasticsearch import explained

# A figure of the page: the title of its card, and what is drawn in it. A figure of TALL_PX takes two rows.
Figure = tuple[str, go.Figure]

MOST_BUCKETS = 120
_INTERVALS_S = (
    *(1, 2, 5, 10, 15, 30),
    *(60 * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(3_600 * hours for hours in (1, 2, 3, 6, 12)),
    *(86_400 * days for days in (1, 2, 7, 14, 30, 90, 365, 3_650, 36_500)),
)
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))

_PRICE_BINS = 50
_LEAST_PRICE_BIN = 0.01
# Cells of this zoom level of the usual map tiles are 0.61 km · cos(latitude) wide; only the fullest are drawn.
_MAP_ZOOM = 16
_MOST_CELLS = 10_000
_EQUATOR_KM = 40_075.017

_REQUEST_TIMEOUT_S = 60
_SNAPSHOT = "2m"

# Colours of Okabe and Ito, which colour-blind people can tell apart (https://jfly.uni-koeln.de/color/).
COMFORT_COLOURS = {"low": "#0072B2", "medium": "#E69F00", "high": "#009E73"}
_ZONE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A900", "#3d4a5c")
_OTHER_COLOUR = "#999999"  # a comfort that the contract does not know
_ALL_COLOUR = "#3d4a5c"  # all rides, whatever their comfort
_GRID_COLOUR = "#e9edf2"
_DENSITY = ((0.0, "#b9c6d6"), (0.4, "#6d87a8"), (1.0, "#1f3354"))

_HEIGHT_PX = 320
TALL_PX = 716  # two cards and what is between them

_AXIS = {
    "gridcolor": _GRID_COLOUR,
    "zeroline": False,
    "title": {"standoff": 8, "font": {"size": 12}},
    "tickfont": {"size": 12},
    "ticks": "outside",
    "ticklen": 5,
    "tickcolor": "rgba(0,0,0,0)",
}
_STYLE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "#3d4a5c"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 58, "r": 14, "t": 34, "b": 56},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": "#c6cfda", "font": {"color": "#1c2736"}},
        "bargap": 0.08,
        "xaxis": {**_AXIS, "linecolor": "#c6cfda"},
        "yaxis": _AXIS,
    }
)

_PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Answers:
    """What Elasticsearch said of one moment of an index. Times in ms since 1970 (UTC), prices in their own unit."""

    index: str
    rides: int
    interval_s: int
    price_bin: float
    price_top: float  # where the price distribution ends, at or just above the 99th percentile
    summary: dict[str, Any]  # aggregations over all rides
    charts: dict[str, Any]  # aggregations by bucket, bin and cell


def write_report(client: Elasticsearch, index: str, path: Path) -> Path:
    """Write the page of an index's rides: one HTML file that loads nothing else.

    The zones of the playbook are shown if their file (`zones.json`, by `make bqml`) lies beside the page.

    Returns:
        The path. A page that is there already is replaced at once, never half written.

    Raises:
        DatastreamError: the index is missing or has no rides yet.
        ServiceUnavailableError, ConfigurationError: Elasticsearch does not answer, or not to this user.
    """
    answers = ask(client, index)
    content = page(answers, figures(answers, playbook.read(path.with_name(playbook.FILE))), datetime.now(UTC))
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_text(content, encoding="utf-8")
    return unfinished.replace(path)


def ask(client: Elasticsearch, index: str) -> Answers:
    """Aggregate the index, all of it as it is at one moment (a point in time), so that every figure agrees.

    Raises:
        DatastreamError, ServiceUnavailableError, ConfigurationError: as `write_report`.
    """
    client = client.options(request_timeout=_REQUEST_TIMEOUT_S)
    with explained(client, f"reading {index} for the report"):
        try:
            snapshot = client.open_point_in_time(index=index, keep_alive=_SNAPSHOT, allow_partial_search_results=False)
        except NotFoundError as error:
            raise _no_rides(client, f"no index {index}") from error
        point_in_time = {"id": snapshot["id"], "keep_alive": _SNAPSHOT}
        try:
            found = client.search(pit=point_in_time, size=0, track_total_hits=True, aggs=_summary_aggregations())
            summary = found["aggregations"]
            if summary["first"]["value"] is None:
                raise _no_rides(client, f"no rides in index {index}")
            interval = interval_s(summary["first"]["value"], summary["last"]["value"])
            price_bin, price_top = price_bins(summary["prices"]["values"]["99.0"])
            charts = client.search(pit=point_in_time, size=0, aggs=_chart_aggregations(interval, price_bin, price_top))
        finally:
            client.options(ignore_status=404).close_point_in_time(id=snapshot["id"])
    rides = found["hits"]["total"]["value"]
    return Answers(index, rides, interval, price_bin, price_top, summary, charts["aggregations"])


def _no_rides(client: Elasticsearch, what: str) -> DatastreamError:
    where = ", ".join(str(node.base_url) for node in client.transport.node_pool.all())
    return DatastreamError(
        f"Elasticsearch at {where} has {what} yet, so there is nothing to report. Run `make demo`; or, if the services "
        "are up, un-pause dag_compute_cost and dag_index_and_export in Airflow and send rides with `make produce`."
    )


def interval_s(first_ms: float, last_ms: float) -> int:
    """The shortest interval (s) of the ladder that cuts [first, last] into MOST_BUCKETS buckets at the most."""
    for seconds in _INTERVALS_S:
        # Elasticsearch's buckets start at multiples of the interval since 1970.
        if last_ms // (1_000 * seconds) - first_ms // (1_000 * seconds) < MOST_BUCKETS:
            return seconds
    return _INTERVALS_S[-1]


def interval_name(seconds: int) -> str:
    """An interval as people write it: 300 → `5 min`."""
    size, unit = next((size, unit) for size, unit in _UNITS if seconds % size == 0)
    return f"{seconds // size} {unit}"


def price_bins(highest: float) -> tuple[float, float]:
    """Width of a bin (1, 2 or 5 times a power of ten) and the end of the last one, so that `highest` is in it."""
    rough = max(highest / _PRICE_BINS, _LEAST_PRICE_BIN)
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(float(f"{step * power:.3g}") for step in (1, 2, 5, 10) if step * power >= rough * 0.999)
    # Divided and cut as Elasticsearch does it: `//` would put 1.0 below the bin of width 0.02 that begins there.
    top = width * (math.floor(highest / width) + 1)
    if float(f"{top:.12g}") <= highest:  # 1.9 / 0.05 is a little less than 38
        top += width
    return width, float(f"{top:.12g}") if math.isfinite(top) else sys.float_info.max


def _summary_aggregations() -> dict[str, Any]:
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


def _chart_aggregations(interval: int, price_bin: float, price_top: float) -> dict[str, Any]:
    average_price = {"avg": {"field": "price_total"}}
    return {
        "time": {
            "date_histogram": {"field": "ts", "fixed_interval": f"{interval}s"},
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
            "geotile_grid": {"field": "origin", "precision": _MAP_ZOOM, "size": _MOST_CELLS},
            "aggs": {"centre": {"geo_centroid": {"field": "origin"}}, "price": average_price},
        },
    }


def figures(answers: Answers, zones: Zones | None = None) -> list[Figure]:
    """The page's figures in their order; the first one takes the whole width. Those of zones come last."""
    of_zones = [("Zones", _zones(zones)), ("Revenue by zone and comfort", _revenue_by_zone(zones))] if zones else []
    return [
        ("Rides per minute", _rides_per_minute(answers)),
        ("Average distance", _average_distance(answers)),
        ("Average price", _average_price(answers)),
        ("Rides and revenue by comfort", _by_comfort(answers)),
        ("Origins of rides", _origins(answers)),
        ("Price distribution", _price_distribution(answers)),
        *of_zones,
    ]


def headlines(answers: Answers) -> list[tuple[str, str, str]]:
    """Label, value and note of each headline figure."""
    summary = answers.summary
    length_s = (summary["last"]["value"] - summary["first"]["value"]) / 1_000
    rate = f"{number(answers.rides * 60 / length_s)} per minute" if length_s else "at one moment"
    return [
        ("Rides", number(answers.rides), rate),
        ("Revenue", number(_value(summary["revenue"])), "sum of all prices"),
        ("Average distance", f"{number(_value(summary['distance']))} km", "as the crow flies"),
        ("Average price", number(_value(summary["price"])), f"median {number(summary['prices']['values']['50.0'])}"),
        ("Time span", duration(length_s), "from the first to the last ride"),
    ]


def number(value: float | None) -> str:
    """A figure for people: at least three digits, thousands grouped, a power of ten where it would be endless."""
    if value is None:
        return "–"
    if abs(value) >= 1e12:
        return f"{value:.3g}"
    if abs(value) >= 1e9:
        return f"{value / 1e9:.2f} bn"
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1_000 else f"{value:,.2f}"


def duration(seconds: float) -> str:
    """A length of time in its two largest units: 5025 → `1 h 23 min`."""
    left = round(seconds)
    parts = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        parts.append((count, unit))
    start = next((at for at, (count, _) in enumerate(parts) if count), len(parts) - 1)
    return " ".join(f"{count:,} {unit}" for count, unit in parts[start : start + 2] if count) or "0 s"


def page(answers: Answers, drawn: Iterable[Figure], generated: datetime) -> str:
    """The whole HTML, with plotly.js in it once."""
    first, last = (_moment(answers.summary[end]["value"]) for end in ("first", "last"))
    cards = [
        f'<article class="card{" tall" if figure.layout.height == TALL_PX else ""}"><h2>{escape(title)}</h2>'
        + figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            include_mathjax=False,
            div_id=f"figure-{position}",
            config={"responsive": True, "displaylogo": False, "displayModeBar": False},
        )
        + "</article>"
        for position, (title, figure) in enumerate(drawn)
    ]
    tiles = [
        f'<div class="card"><div class="label">{escape(label)}</div><div class="value">{escape(value)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
        for label, value, note in headlines(answers)
    ]
    return Template(_PAGE.read_text(encoding="utf-8")).substitute(
        plotly=get_plotlyjs(),
        span=escape(f"{first:%Y-%m-%d %H:%M:%S} to {last:%Y-%m-%d %H:%M:%S} UTC"),
        headlines="\n".join(tiles),
        figures="\n".join(cards),
        source=escape(
            f"Generated at {generated:%Y-%m-%d %H:%M:%S} UTC from the Elasticsearch index {answers.index}, "
            f"{answers.rides:,} rides. Prices have no currency: they are in the unit that the rides came with."
        ),
    )


def _rides_per_minute(answers: Answers) -> go.Figure:
    buckets = answers.charts["time"]["buckets"]
    times = [_middle(bucket, answers) for bucket in buckets]
    per_minute = 60 / answers.interval_s
    figure = _figure(barmode="stack", bargap=0, hovermode="x unified")
    for comfort in _comforts(answers):
        counts = [_by_key(bucket["comfort"]).get(comfort, {"doc_count": 0})["doc_count"] for bucket in buckets]
        figure.add_bar(
            x=times,
            y=[count * per_minute for count in counts],
            width=1_000 * answers.interval_s,
            name=comfort,
            marker={"color": _colour(comfort), "line": {"width": 0}},
            customdata=counts,
            hovertemplate="%{y:,.1f} rides/min (%{customdata:,} rides)",
        )
    _time_axis(figure, answers, "; the first and last may be partly covered")
    return figure.update_yaxes(title_text="rides/min", rangemode="tozero")


def _average_distance(answers: Answers) -> go.Figure:
    buckets = answers.charts["time"]["buckets"]
    values = [_value(bucket["distance"]) for bucket in buckets]
    figure = _figure(showlegend=False)
    times = [_middle(bucket, answers) for bucket in buckets]
    _add_line(figure, times, values, name="all rides", colour=_ALL_COLOUR, unit="km")
    _time_axis(figure, answers)
    return _average_axis(figure, "average distance (km)", values)


def _average_price(answers: Answers) -> go.Figure:
    buckets = answers.charts["time"]["buckets"]
    times = [_middle(bucket, answers) for bucket in buckets]
    figure = _figure(hovermode="x unified")
    every: list[float | None] = []
    for comfort in _comforts(answers):
        values = [_value(_by_key(bucket["comfort"]).get(comfort, {}).get("price")) for bucket in buckets]
        _add_line(figure, times, values, name=comfort, colour=_colour(comfort))
        every += values
    values = [_value(bucket["price"]) for bucket in buckets]
    _add_line(figure, times, values, name="all rides", colour=_ALL_COLOUR)
    _time_axis(figure, answers)
    return _average_axis(figure, "average price of a ride", every)


def _by_comfort(answers: Answers) -> go.Figure:
    buckets = _by_key(answers.summary["comfort"])
    comforts = _comforts(answers)
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    revenues = [_value(buckets[comfort]["revenue"]) for comfort in comforts]
    rides: list[float | None] = [buckets[comfort]["doc_count"] for comfort in comforts]
    for column, (what, values) in enumerate((("rides", rides), ("revenue", revenues)), start=1):
        total = sum(value or 0 for value in values)
        figure.add_bar(
            x=values,
            y=comforts,
            orientation="h",
            name=what,
            marker={"color": [_colour(comfort) for comfort in comforts]},
            text=[f"{number(value)}<br>{(value or 0) / total:.1%}" if total else number(value) for value in values],
            textposition="auto",
            insidetextanchor="end",
            textangle=0,
            hovertemplate=f"%{{y}}: %{{x:,.2~f}} {what}<extra></extra>",
            row=1,
            col=column,
        )
        unit = "rides" if what == "rides" else "revenue (sum of prices)"
        figure.update_xaxes(title_text=unit, nticks=5, rangemode="tozero", row=1, col=column)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    margin = {"t": 12, "l": 74}
    return figure.update_layout(template=_STYLE, showlegend=False, height=_HEIGHT_PX, bargap=0.3, margin=margin)


def _price_distribution(answers: Answers) -> go.Figure:
    usual = answers.charts["usual_prices"]
    buckets = usual["bins"]["buckets"]
    figure = _figure(barmode="stack", hovermode="x unified")
    for comfort in _comforts(answers):
        figure.add_bar(
            x=[bucket["key"] + answers.price_bin / 2 for bucket in buckets],
            y=[_by_key(bucket["comfort"]).get(comfort, {"doc_count": 0})["doc_count"] for bucket in buckets],
            width=answers.price_bin,
            name=comfort,
            marker={"color": _colour(comfort), "line": {"width": 0.5, "color": "#ffffff"}},
            hovertemplate="%{y:,} rides",
        )
    above = answers.rides - usual["doc_count"]
    title = f"price of a ride, in bins of {answers.price_bin:g}"
    if above:
        highest = number(_value(answers.summary["highest_price"]))
        rides = "1 ride" if above == 1 else f"{above:,} rides"
        title += f" up to the 99th percentile<br>(not shown: {rides} above, the highest at {highest})"
    figure.update_xaxes(title_text=title, range=[0, answers.price_top])
    return figure.update_yaxes(title_text="rides", rangemode="tozero").update_layout(margin={"b": 72})


def _origins(answers: Answers) -> go.Figure:
    cells = answers.charts["origins"]["buckets"]
    counts = [cell["doc_count"] for cell in cells]
    lats = [cell["centre"]["location"]["lat"] for cell in cells]
    lons = [cell["centre"]["location"]["lon"] for cell in cells]
    lat_range, lon_range = _usual_extent(lats, counts), _usual_extent(lons, counts)
    stretch = 1 / max(0.1, math.cos(math.radians(sum(lat_range) / 2)))
    cell_km = _EQUATOR_KM / 2**_MAP_ZOOM / stretch
    figure = _figure(height=TALL_PX, hovermode="closest", showlegend=False, margin={"l": 70, "t": 48})
    figure.add_scatter(
        x=lons,
        y=lats,
        mode="markers",
        marker={
            "size": counts,
            "sizemode": "area",
            "sizeref": 2 * max(counts) / 22**2,
            "sizemin": 1.6,
            "color": counts,
            "cmin": 0,
            "cmax": max(counts),
            "colorscale": _DENSITY,
            "opacity": 0.8,
            "line": {"width": 0},
            "colorbar": {
                "title": {"text": "rides per cell", "side": "top", "font": {"size": 12}},
                "orientation": "h",
                "thickness": 10,
                "outlinewidth": 0,
                **{"len": 0.5, "x": 0, "xanchor": "left", "xpad": 0, "y": 1, "yanchor": "bottom", "ypad": 0},
            },
        },
        customdata=[_value(cell["price"]) for cell in cells],
        hovertemplate="%{marker.color:,} rides<br>average price %{customdata:,.2f}<br>"
        "%{y:.4f}° lat, %{x:.4f}° lon<extra></extra>",
        name="origins",
    )
    title = f"longitude (°); one bubble per cell of about {cell_km:.2g} km"
    if left := answers.rides - sum(counts):
        title += f"<br>({left:,} rides in the emptiest cells are not shown)"
    figure.update_xaxes(title_text=title, range=lon_range)
    return figure.update_yaxes(title_text="latitude (°)", range=lat_range, scaleanchor="x", scaleratio=stretch)


def _zones(zones: Zones) -> go.Figure:
    figure = _figure(height=TALL_PX, hovermode="closest", showlegend=False, margin={"l": 70, "t": 14, "b": 92})
    for position, zone in enumerate(zones.zones):
        colour = _ZONE_COLOURS[position % len(_ZONE_COLOURS)]
        members = [(lon, lat) for lon, lat, member_of in zones.sample if member_of == zone.centroid_id]
        figure.add_scatter(
            x=[lon for lon, _ in members],
            y=[lat for _, lat in members],
            mode="markers",
            marker={"size": 4, "color": colour, "opacity": 0.55},
            hoverinfo="skip",
            name=f"rides in {zone.label}",
        )
    # Names above and below their places in turn, so that neighbours' names do not meet.
    rank = sorted(zones.zones, key=lambda zone: zone.latitude)
    revenue: dict[int, float] = {}
    for part in zones.revenue:
        revenue[part.centroid_id] = revenue.get(part.centroid_id, 0.0) + part.revenue
    figure.add_scatter(
        x=[zone.longitude for zone in zones.zones],
        y=[zone.latitude for zone in zones.zones],
        mode="markers+text",
        marker={
            "size": 11,
            "color": [_ZONE_COLOURS[position % len(_ZONE_COLOURS)] for position in range(len(zones.zones))],
            "line": {"width": 2, "color": "#1c2736"},
        },
        text=[f"<b>{escape(zone.label)}</b>" for zone in zones.zones],
        textposition=["bottom center" if rank.index(zone) % 2 else "top center" for zone in zones.zones],
        textfont={"size": 12, "color": "#1c2736"},
        customdata=[[revenue.get(zone.centroid_id, 0.0), zone.reference_points] for zone in zones.zones],
        hovertemplate="%{text}<br>revenue %{customdata[0]:,.2f}<br>%{customdata[1]:,} reference points<br>"
        "%{y:.4f}° lat, %{x:.4f}° lon<extra></extra>",
        name="zones",
    )
    places = [(lon, lat) for lon, lat, _ in zones.sample] + [(zone.longitude, zone.latitude) for zone in zones.zones]
    lon_range, lat_range = (_usual_extent([place[axis] for place in places], [1] * len(places)) for axis in (0, 1))
    room = 0.08 * (lon_range[1] - lon_range[0])  # names are wider than the zones at the edge
    stretch = 1 / max(0.1, math.cos(math.radians(sum(lat_range) / 2)))
    title = (
        f"longitude (°); zones by k-means on {escape(zones.engine)},<br>"
        f"origins of {len(zones.sample):,} of {zones.rides:,} rides, {zones.outside:,} start outside the trained area"
    )
    if "GENERATED" in zones.reference:
        title += "<br>learnt from made-up reference points"
    figure.update_xaxes(title_text=title, range=[lon_range[0] - room, lon_range[1] + room])
    return figure.update_yaxes(title_text="latitude (°)", range=lat_range, scaleanchor="x", scaleratio=stretch)


def _revenue_by_zone(zones: Zones) -> go.Figure:
    by_zone: dict[str, float] = {}
    for part in zones.revenue:
        by_zone[part.label] = by_zone.get(part.label, 0.0) + part.revenue
    labels = sorted(by_zone, key=by_zone.__getitem__)
    found = {part.comfort for part in zones.revenue}
    figure = _figure(height=TALL_PX, barmode="stack", hovermode="y unified", bargap=0.3, margin={"l": 160, "b": 72})
    for comfort in [*(it for it in COMFORT_COLOURS if it in found), *sorted(found - COMFORT_COLOURS.keys())]:
        parts = {part.label: part for part in zones.revenue if part.comfort == comfort}
        figure.add_bar(
            x=[parts[label].revenue if label in parts else 0.0 for label in labels],
            y=labels,
            orientation="h",
            name=comfort,
            marker={"color": _colour(comfort), "line": {"width": 0}},
            customdata=[parts[label].rides if label in parts else 0 for label in labels],
            hovertemplate="%{x:,.2f} (%{customdata:,} rides)",
        )
    title = (
        f"revenue (sum of prices) of rides that start in the zone;<br>{number(sum(by_zone.values()))} in all, "
        f"as of {escape(zones.generated_at)}"
    )
    figure.update_xaxes(title_text=title, rangemode="tozero")
    return figure.update_yaxes(showgrid=False)


def _figure(**layout: Any) -> go.Figure:
    return go.Figure(layout={"template": _STYLE, "height": _HEIGHT_PX, "showlegend": True, **layout})


def _add_line(
    figure: go.Figure, times: list[float], values: list[float | None], *, name: str, colour: str, unit: str = ""
) -> None:
    figure.add_scatter(
        x=times,
        y=values,
        name=name,
        mode="lines+markers",
        connectgaps=False,
        line={"color": colour, "width": 2},
        marker={"color": colour, "size": 4},
        hovertemplate=f"%{{y:,.2f}} {unit}".rstrip(),
    )


def _time_axis(figure: go.Figure, answers: Answers, note: str = "") -> None:
    title = f"time of the ride (UTC), in buckets of {interval_name(answers.interval_s)}{note}"
    first, last = (answers.charts["time"]["buckets"][at]["key"] for at in (0, -1))
    figure.update_xaxes(type="date", title_text=title, range=[first, last + 1_000 * answers.interval_s])


def _middle(bucket: dict[str, Any], answers: Answers) -> float:
    """The middle of a time bucket, in ms since 1970 (UTC), which is how plotly.js counts."""
    return float(bucket["key"]) + 500 * answers.interval_s


def _comforts(answers: Answers) -> list[str]:
    """The comforts that there are, the contract's first and in its order."""
    found = _by_key(answers.summary["comfort"])
    return [comfort for comfort in COMFORT_COLOURS if comfort in found] + sorted(found.keys() - COMFORT_COLOURS.keys())


def _colour(comfort: str) -> str:
    return COMFORT_COLOURS.get(comfort, _OTHER_COLOUR)


def _by_key(aggregation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {bucket["key"]: bucket for bucket in aggregation["buckets"]}


def _value(aggregation: dict[str, Any] | None) -> float | None:
    """The value of a metric; None where no ride had one, or their sum is beyond what a double holds."""
    value = aggregation["value"] if aggregation else None
    return float(value) if value is not None and math.isfinite(float(value)) else None


def _average_axis(figure: go.Figure, title: str, values: Iterable[float | None]) -> go.Figure:
    """An axis from 0 to a little above the values, cut at three medians: one absurd ride must not flatten the rest."""
    there = [value for value in values if value is not None]
    if not there or not median(there):
        return figure.update_yaxes(title_text=title, rangemode="tozero")
    top = min(max(there), 3 * median(there))
    return figure.update_yaxes(title_text=f"{title}, cut" if top < max(there) else title, range=[0, 1.08 * top])


def _usual_extent(degrees: list[float], counts: list[int]) -> tuple[float, float]:
    """The degrees between which 99 % of the rides are, and some room around them."""
    ordered = sorted(zip(degrees, counts, strict=True))
    seen = list(accumulate(count for _, count in ordered))
    low, high = (ordered[bisect_left(seen, share * seen[-1])][0] for share in (0.005, 0.995))
    room = max(0.005, 0.05 * (high - low))
    return low - room, high + room


def _moment(milliseconds: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
