"""The report's figures: plots of the aggregations and of the zones."""

from __future__ import annotations

import html
import math
from bisect import bisect_left
from collections.abc import Iterable, Set
from itertools import accumulate
from statistics import median
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from jobs.rides.report.formats import format_interval, format_number
from jobs.rides.report.queries import MAP_ZOOM, Answers, read_metric
from jobs.rides.zones import Zones
from jobs.terminal import escape_unprintable

# The title of a card and its plot. A plot of height TALL_PX spans two rows.
Figure = tuple[str, go.Figure]

_EQUATOR_KM = 40_075.017

# The colour-blind safe palette of Okabe and Ito (https://jfly.uni-koeln.de/color/).
COMFORT_COLOURS = {"low": "#0072B2", "medium": "#E69F00", "high": "#009E73"}
_ZONE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B8A900", "#3d4a5c")
_OTHER_COLOUR = "#999999"  # a comfort that is not in the contract
_ALL_COLOUR = "#3d4a5c"  # rides of all comforts
_GRID_COLOUR = "#e9edf2"
_DENSITY_SCALE = ((0.0, "#b9c6d6"), (0.4, "#6d87a8"), (1.0, "#1f3354"))

_HEIGHT_PX = 320
TALL_PX = 716  # two cards and the gap between them

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


def draw_figures(answers: Answers, zones: Zones | None = None) -> list[Figure]:
    """Draw the figures in page order. The first spans the full width; zones come last."""
    zone_figures = (
        [("Zones", _draw_zones(zones)), ("Revenue by zone and comfort", _draw_revenue_by_zone(zones))] if zones else []
    )
    return [
        ("Rides per minute", _draw_rides_per_minute(answers)),
        ("Average distance", _draw_average_distance(answers)),
        ("Average price", _draw_average_price(answers)),
        ("Rides and revenue by comfort", _draw_comforts(answers)),
        ("Origins of rides", _draw_origins(answers)),
        ("Price distribution", _draw_price_distribution(answers)),
        *zone_figures,
    ]


def _draw_rides_per_minute(answers: Answers) -> go.Figure:
    buckets = answers.charts["time"]["buckets"]
    times = [_compute_middle_ms(bucket, answers) for bucket in buckets]
    per_minute = 60 / answers.interval_s
    figure = _create_figure(barmode="stack", bargap=0, hovermode="x unified")
    for comfort in _list_comforts(answers):
        counts = [_map_by_key(bucket["comfort"]).get(comfort, {"doc_count": 0})["doc_count"] for bucket in buckets]
        figure.add_bar(
            x=times,
            y=[count * per_minute for count in counts],
            width=1_000 * answers.interval_s,
            name=escape(comfort),
            marker={"color": _choose_colour(comfort), "line": {"width": 0}},
            customdata=counts,
            hovertemplate="%{y:,.1f} rides/min (%{customdata:,} rides)",
        )
    _set_time_axis(figure, answers, "; the first and last may be partly covered")
    return figure.update_yaxes(title_text="rides/min", rangemode="tozero")


def _draw_average_distance(answers: Answers) -> go.Figure:
    buckets = answers.charts["time"]["buckets"]
    values = [read_metric(bucket["distance"]) for bucket in buckets]
    figure = _create_figure(showlegend=False)
    times = [_compute_middle_ms(bucket, answers) for bucket in buckets]
    _add_line(figure, times, values, name="all rides", colour=_ALL_COLOUR, unit="km")
    _set_time_axis(figure, answers)
    return _set_average_axis(figure, "average distance (km)", values)


def _draw_average_price(answers: Answers) -> go.Figure:
    buckets = answers.charts["time"]["buckets"]
    times = [_compute_middle_ms(bucket, answers) for bucket in buckets]
    figure = _create_figure(hovermode="x unified")
    comfort_values: list[float | None] = []
    for comfort in _list_comforts(answers):
        values = [read_metric(_map_by_key(bucket["comfort"]).get(comfort, {}).get("price")) for bucket in buckets]
        _add_line(figure, times, values, name=escape(comfort), colour=_choose_colour(comfort))
        comfort_values += values
    values = [read_metric(bucket["price"]) for bucket in buckets]
    _add_line(figure, times, values, name="all rides", colour=_ALL_COLOUR)
    _set_time_axis(figure, answers)
    return _set_average_axis(figure, "average price of a ride", comfort_values)


def _draw_comforts(answers: Answers) -> go.Figure:
    buckets = _map_by_key(answers.summary["comfort"])
    comforts = _list_comforts(answers)
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    revenues = [read_metric(buckets[comfort]["revenue"]) for comfort in comforts]
    rides: list[float | None] = [buckets[comfort]["doc_count"] for comfort in comforts]
    for column, (name, values) in enumerate((("rides", rides), ("revenue", revenues)), start=1):
        total = sum(value or 0 for value in values)
        figure.add_bar(
            x=values,
            y=[escape(comfort) for comfort in comforts],
            orientation="h",
            name=name,
            marker={"color": [_choose_colour(comfort) for comfort in comforts]},
            text=[
                f"{format_number(value)}<br>{(value or 0) / total:.1%}" if total else format_number(value)
                for value in values
            ],
            textposition="auto",
            insidetextanchor="end",
            textangle=0,
            hovertemplate=f"%{{y}}: %{{x:,.2~f}} {name}<extra></extra>",
            row=1,
            col=column,
        )
        title = "rides" if name == "rides" else "revenue (sum of prices)"
        figure.update_xaxes(title_text=title, nticks=5, rangemode="tozero", row=1, col=column)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    margin = {"t": 12, "l": 74}
    return figure.update_layout(template=_STYLE, showlegend=False, height=_HEIGHT_PX, bargap=0.3, margin=margin)


def _draw_price_distribution(answers: Answers) -> go.Figure:
    usual = answers.charts["usual_prices"]
    buckets = usual["bins"]["buckets"]
    figure = _create_figure(barmode="stack", hovermode="x unified")
    for comfort in _list_comforts(answers):
        figure.add_bar(
            x=[bucket["key"] + answers.price_bin / 2 for bucket in buckets],
            y=[_map_by_key(bucket["comfort"]).get(comfort, {"doc_count": 0})["doc_count"] for bucket in buckets],
            width=answers.price_bin,
            name=escape(comfort),
            marker={"color": _choose_colour(comfort), "line": {"width": 0.5, "color": "#ffffff"}},
            hovertemplate="%{y:,} rides",
        )
    hidden = answers.rides - usual["doc_count"]
    title = f"price of a ride, in bins of {answers.price_bin:g}"
    if hidden:
        highest = format_number(read_metric(answers.summary["highest_price"]))
        rides = "1 ride" if hidden == 1 else f"{hidden:,} rides"
        title += f" up to the 99th percentile<br>(not shown: {rides} above, the highest at {highest})"
    figure.update_xaxes(title_text=title, range=[0, answers.price_top])
    return figure.update_yaxes(title_text="rides", rangemode="tozero").update_layout(margin={"b": 72})


def _draw_origins(answers: Answers) -> go.Figure:
    cells = answers.charts["origins"]["buckets"]
    counts = [cell["doc_count"] for cell in cells]
    lats = [cell["centre"]["location"]["lat"] for cell in cells]
    lons = [cell["centre"]["location"]["lon"] for cell in cells]
    lat_range, lon_range = _compute_usual_extent(lats, counts), _compute_usual_extent(lons, counts)
    stretch = 1 / max(0.1, math.cos(math.radians(sum(lat_range) / 2)))
    cell_km = _EQUATOR_KM / 2**MAP_ZOOM / stretch
    figure = _create_figure(height=TALL_PX, hovermode="closest", showlegend=False, margin={"l": 70, "t": 48})
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
            "colorscale": _DENSITY_SCALE,
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
        customdata=[read_metric(cell["price"]) for cell in cells],
        hovertemplate="%{marker.color:,} rides<br>average price %{customdata:,.2f}<br>"
        "%{y:.4f}° lat, %{x:.4f}° lon<extra></extra>",
        name="origins",
    )
    title = f"longitude (°); one bubble per cell of about {cell_km:.2g} km"
    if hidden := answers.rides - sum(counts):
        title += f"<br>({hidden:,} rides in the emptiest cells are not shown)"
    figure.update_xaxes(title_text=title, range=lon_range)
    return figure.update_yaxes(title_text="latitude (°)", range=lat_range, scaleanchor="x", scaleratio=stretch)


def _draw_zones(zones: Zones) -> go.Figure:
    figure = _create_figure(height=TALL_PX, hovermode="closest", showlegend=False, margin={"l": 70, "t": 14, "b": 92})
    for position, zone in enumerate(zones.zones):
        colour = _ZONE_COLOURS[position % len(_ZONE_COLOURS)]
        members = [(lon, lat) for lon, lat, centroid_id in zones.sample if centroid_id == zone.centroid_id]
        figure.add_scatter(
            x=[lon for lon, _ in members],
            y=[lat for _, lat in members],
            mode="markers",
            marker={"size": 4, "color": colour, "opacity": 0.55},
            hoverinfo="skip",
            name=f"rides in {zone.label}",
        )
    # From south to north, labels alternate between above and below, so that neighbours do not overlap.
    south_to_north = sorted(zones.zones, key=lambda zone: zone.latitude)
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
        textposition=["bottom center" if south_to_north.index(zone) % 2 else "top center" for zone in zones.zones],
        textfont={"size": 12, "color": "#1c2736"},
        customdata=[[revenue.get(zone.centroid_id, 0.0), zone.reference_points] for zone in zones.zones],
        hovertemplate="%{text}<br>revenue %{customdata[0]:,.2f}<br>%{customdata[1]:,} reference points<br>"
        "%{y:.4f}° lat, %{x:.4f}° lon<extra></extra>",
        name="zones",
    )
    places = [(lon, lat) for lon, lat, _ in zones.sample] + [(zone.longitude, zone.latitude) for zone in zones.zones]
    lon_range, lat_range = (
        _compute_usual_extent([place[axis] for place in places], [1] * len(places)) for axis in (0, 1)
    )
    padding = 0.08 * (lon_range[1] - lon_range[0])  # labels at the edge extend beyond their zones
    stretch = 1 / max(0.1, math.cos(math.radians(sum(lat_range) / 2)))
    title = (
        f"longitude (°); zones by k-means on {escape(zones.engine)},<br>"
        f"origins of {len(zones.sample):,} of {zones.rides:,} rides, {zones.outside:,} start outside the trained area"
    )
    if "GENERATED" in zones.reference:
        title += "<br>learnt from made-up reference points"
    figure.update_xaxes(title_text=title, range=[lon_range[0] - padding, lon_range[1] + padding])
    return figure.update_yaxes(title_text="latitude (°)", range=lat_range, scaleanchor="x", scaleratio=stretch)


def _draw_revenue_by_zone(zones: Zones) -> go.Figure:
    by_zone: dict[str, float] = {}
    for part in zones.revenue:
        by_zone[part.label] = by_zone.get(part.label, 0.0) + part.revenue
    labels = sorted(by_zone, key=by_zone.__getitem__)
    comforts = {part.comfort for part in zones.revenue}
    figure = _create_figure(
        height=TALL_PX, barmode="stack", hovermode="y unified", bargap=0.3, margin={"l": 160, "b": 72}
    )
    for comfort in _sort_comforts(comforts):
        parts = {part.label: part for part in zones.revenue if part.comfort == comfort}
        figure.add_bar(
            x=[parts[label].revenue if label in parts else 0.0 for label in labels],
            y=[escape(label) for label in labels],
            orientation="h",
            name=escape(comfort),
            marker={"color": _choose_colour(comfort), "line": {"width": 0}},
            customdata=[parts[label].rides if label in parts else 0 for label in labels],
            hovertemplate="%{x:,.2f} (%{customdata:,} rides)",
        )
    title = (
        f"revenue (sum of prices) of rides that start in the zone;<br>{format_number(sum(by_zone.values()))} in all, "
        f"as of {escape(zones.generated_at)}"
    )
    figure.update_xaxes(title_text=title, rangemode="tozero")
    return figure.update_yaxes(showgrid=False)


def escape(text: str) -> str:
    """Escape text from outside for the page: unprintable characters, and HTML, which plotly.js interprets in part."""
    return html.escape(escape_unprintable(text))


def _create_figure(**layout: Any) -> go.Figure:
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


def _set_time_axis(figure: go.Figure, answers: Answers, note: str = "") -> None:
    title = f"time of the ride (UTC), in buckets of {format_interval(answers.interval_s)}{note}"
    first, last = (answers.charts["time"]["buckets"][position]["key"] for position in (0, -1))
    figure.update_xaxes(type="date", title_text=title, range=[first, last + 1_000 * answers.interval_s])


def _compute_middle_ms(bucket: dict[str, Any], answers: Answers) -> float:
    """Compute the middle of a time bucket in ms since 1970 (UTC), the unit of plotly.js."""
    return float(bucket["key"]) + 500 * answers.interval_s


def _list_comforts(answers: Answers) -> list[str]:
    return _sort_comforts(_map_by_key(answers.summary["comfort"]).keys())


def _sort_comforts(comforts: Set[str]) -> list[str]:
    """Sort comforts in the order of the contract; those not in the contract come last."""
    known = [comfort for comfort in COMFORT_COLOURS if comfort in comforts]
    return known + sorted(comforts - COMFORT_COLOURS.keys())


def _choose_colour(comfort: str) -> str:
    return COMFORT_COLOURS.get(comfort, _OTHER_COLOUR)


def _map_by_key(aggregation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {bucket["key"]: bucket for bucket in aggregation["buckets"]}


def _set_average_axis(figure: go.Figure, title: str, values: Iterable[float | None]) -> go.Figure:
    """Set the axis to start at 0 and end at three medians at most, so that an outlier does not flatten the rest."""
    known = [value for value in values if value is not None]
    if not known or not median(known):
        return figure.update_yaxes(title_text=title, rangemode="tozero")
    top = min(max(known), 3 * median(known))
    return figure.update_yaxes(title_text=f"{title}, cut" if top < max(known) else title, range=[0, 1.08 * top])


def _compute_usual_extent(degrees: list[float], counts: list[int]) -> tuple[float, float]:
    """Compute the degrees between which 99 % of the rides are, with some padding."""
    ordered = sorted(zip(degrees, counts, strict=True))
    totals = list(accumulate(count for _, count in ordered))
    low, high = (ordered[bisect_left(totals, share * totals[-1])][0] for share in (0.005, 0.995))
    padding = max(0.005, 0.05 * (high - low))
    return low - padding, high + padding
