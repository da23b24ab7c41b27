"""The report's figures: plots of what Elasticsearch answered, and of the zones."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from html import escape
from itertools import accumulate
from statistics import median
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from jobs.rides.report.formats import interval_name, number
from jobs.rides.report.queries import MAP_ZOOM, Answers, metric_value
from jobs.rides.zones import Zones

# A figure of the page: the title of its card, and what is drawn in it. A figure of TALL_PX takes two rows.
Figure = tuple[str, go.Figure]

_EQUATOR_KM = 40_075.017

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
    values = [metric_value(bucket["distance"]) for bucket in buckets]
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
        values = [metric_value(_by_key(bucket["comfort"]).get(comfort, {}).get("price")) for bucket in buckets]
        _add_line(figure, times, values, name=comfort, colour=_colour(comfort))
        every += values
    values = [metric_value(bucket["price"]) for bucket in buckets]
    _add_line(figure, times, values, name="all rides", colour=_ALL_COLOUR)
    _time_axis(figure, answers)
    return _average_axis(figure, "average price of a ride", every)


def _by_comfort(answers: Answers) -> go.Figure:
    buckets = _by_key(answers.summary["comfort"])
    comforts = _comforts(answers)
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    revenues = [metric_value(buckets[comfort]["revenue"]) for comfort in comforts]
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
        highest = number(metric_value(answers.summary["highest_price"]))
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
    cell_km = _EQUATOR_KM / 2**MAP_ZOOM / stretch
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
        customdata=[metric_value(cell["price"]) for cell in cells],
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
