"""A picture of the dashboard for the docs: its panels on its grid, drawn from its own aggregations.

Kibana draws it differently, but with the same figures.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from elasticsearch import Elasticsearch
from plotly.offline import get_plotlyjs

from infra.kibana.saved_objects import Key, SavedObject, key
from jobs.errors import ConfigurationError, DatastreamError
from jobs.sinks.elasticsearch import translate_errors
from tests.testkit.dashboard.queries import Json, Rides, Row, lens_layers, map_layers

WIDTH_PX, ROW_PX = 1_440, 20
COLUMNS = 48
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

_SHOWN_ROWS = 10
_BROWSER_S = 120
# Kibana's names of colour scales → plotly's.
_SCALES = {"Blues": "Blues", "Yellow to Red": "YlOrRd"}
_COLOURS = ("#54b399", "#6092c0", "#d36086", "#9170b8")
_NOTE = "Drawn from the dashboard's own aggregations on {index}; not a screenshot of Kibana."

_STYLE = """
* { box-sizing: border-box; margin: 0; }
body { background: #f7f8fc; color: #343741; font: 13px Inter, system-ui, "DejaVu Sans", sans-serif; padding: 12px; }
h1 { font-size: 22px; } h1 + p { color: #69707d; margin: 2px 0 10px; }
main { display: grid; grid-template-columns: repeat(48, 1fr); grid-auto-rows: 20px; }
section { background: #fff; border: 1px solid #d3dae6; border-radius: 6px; margin: 4px; padding: 8px; overflow: hidden;
  display: flex; flex-direction: column; min-width: 0; }
h2 { font-size: 13px; } section > div { flex: 1; min-height: 0; }
.metric { height: 100%; display: flex; flex-direction: column; justify-content: space-between; }
.metric b { font-size: 32px; text-align: right; }
table { border-collapse: collapse; width: 100%; margin-top: 6px; font-size: 12px; }
td, th { text-align: left; padding: 3px 8px; border-bottom: 1px solid #e6ebf2; white-space: nowrap; }
"""


def draw(client: Elasticsearch, index: str, objects: Iterable[SavedObject], target: Path) -> None:
    """Write the picture as PNG, of the hours that end with the latest ride.

    Raises:
        ConfigurationError: no chromium is on the PATH, or a panel uses a feature that is not translated.
        DatastreamError: the index holds no rides, or chromium fails.
        ServiceUnavailableError: Elasticsearch does not answer.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ConfigurationError(
            f"The picture is drawn by a browser, and none of {', '.join(BROWSERS)} is on the PATH."
        )
    with translate_errors(client, f"reading {index} for the picture"):
        content, height = page(latest(client, index), objects)
    with tempfile.TemporaryDirectory() as folder:
        html, png = Path(folder, "dashboard.html"), Path(folder, "dashboard.png")
        html.write_text(content, encoding="utf-8")
        # Chromium's sandbox does not start as root, for example in containers. The page is ours and loads nothing.
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        size = [f"--window-size={WIDTH_PX},{height}", "--virtual-time-budget=10000", f"--screenshot={png}"]
        command = [browser, *options, *size, html.as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_BROWSER_S)
        except subprocess.TimeoutExpired as error:
            raise DatastreamError(f"{browser} drew nothing within {_BROWSER_S} s. Try again.") from error
        if not png.exists():
            raise DatastreamError(f"{browser} drew nothing (exit code {done.returncode}): {done.stderr[-500:].strip()}")
        shutil.copyfile(png, target)


def latest(client: Elasticsearch, index: str, length: timedelta = timedelta(hours=4)) -> Rides:
    """The rides of the last hours up to the latest ride.

    Raises:
        DatastreamError: the index holds no rides.
    """
    answer = client.search(index=index, size=0, aggs={"end": {"max": {"field": "ts"}}})
    end = answer["aggregations"]["end"]["value"]
    if end is None:
        raise DatastreamError(f"No rides in {index}. `make demo` brings some there.")
    moment = datetime.fromtimestamp(end / 1_000, UTC)
    return Rides(client, index, moment - length, moment)


def page(rides: Rides, objects: Iterable[SavedObject]) -> tuple[str, int]:
    """The dashboard as HTML that loads nothing else, and its height in px."""
    by_key = {key(saved): saved for saved in objects}
    dashboard = next(saved for saved in by_key.values() if saved["type"] == "dashboard")
    targets = {reference["name"]: Key(reference["type"], reference["id"]) for reference in dashboard["references"]}
    panels, sections = dashboard["attributes"]["panelsJSON"], []
    for panel in panels:
        saved, grid = by_key[targets[f"{panel['panelIndex']}:{panel['panelRefName']}"]], panel["gridData"]
        place = f"grid-area: {grid['y'] + 1} / {grid['x'] + 1} / span {grid['h']} / span {grid['w']}"
        title = "" if panel["embeddableConfig"].get("hidePanelTitles") else saved["attributes"]["title"]
        width = (WIDTH_PX - 24) * grid["w"] // COLUMNS - 26
        height = ROW_PX * grid["h"] - 42
        inner = f"<h2>{escape(title)}</h2><div>{_panel(rides, saved, width, height)}</div>"
        sections.append(f'<section style="{place}">{inner}</section>')
    rows = max(panel["gridData"]["y"] + panel["gridData"]["h"] for panel in panels)
    attributes = dashboard["attributes"]
    span = f"{rides.start:%Y-%m-%d %H:%M} to {rides.end:%H:%M} UTC. {_NOTE.format(index=rides.index)}"
    content = (
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><style>{_STYLE}</style><script>{get_plotlyjs()}</script>'
        f"<h1>{escape(attributes['title'])}</h1><p>{escape(span)}</p><main>{''.join(sections)}</main></html>"
    )
    return content, ROW_PX * rows + 90


def _panel(rides: Rides, saved: SavedObject, width: int, height: int) -> str:
    if saved["type"] == "search":
        return _table(saved, rides.of_search(saved)[:_SHOWN_ROWS])
    if saved["type"] == "map":
        figure = _map(rides, saved, width, height)
    elif saved["attributes"]["visualizationType"] == "lnsMetric":
        return _number(rides, saved)
    elif saved["attributes"]["visualizationType"] == "lnsPie":
        figure = _donut(rides, saved)
    else:
        figure = _lines_or_bars(rides, saved)
    figure.update_layout(
        width=width,
        height=height,
        margin={"l": 50, "r": 10, "t": 8, "b": 30},
        plot_bgcolor="#fff",
        colorway=_COLOURS,
        font={"size": 11, "color": "#69707d"},
    )
    figure.update_yaxes(gridcolor="#eef1f6", zeroline=False).update_xaxes(gridcolor="#f5f7fa", zeroline=False)
    html: str = figure.to_html(full_html=False, include_plotlyjs=False, config={"staticPlot": True})
    return html


def _number(rides: Rides, saved: SavedObject) -> str:
    state = saved["attributes"]["state"]["visualization"]
    column = lens_layers(saved)[state["layerId"]]["columns"][state["metricAccessor"]]
    (row,) = rides.of_lens(saved, state["layerId"])
    value = row[state["metricAccessor"]]
    form = column.get("params", {}).get("format", {}).get("params", {"decimals": 2})
    text = f"{value:,.{form['decimals']}f}{form.get('suffix', '')}"
    return f'<div class="metric"><span>{escape(column["label"])}</span><b>{escape(text)}</b></div>'


def _lines_or_bars(rides: Rides, saved: SavedObject) -> go.Figure:
    state = saved["attributes"]["state"]["visualization"]
    figure = go.Figure(layout={"barmode": "stack", "bargap": 0.1, "yaxis": {"title": state["yTitle"]}})
    for layer in state["layers"]:
        rows = rides.of_lens(saved, layer["layerId"])
        columns = lens_layers(saved)[layer["layerId"]]["columns"]
        for accessor in layer["accessors"]:
            for name, series in _series(rows, layer.get("splitAccessor")).items():
                x = [datetime.fromtimestamp(row[layer["xAccessor"]] / 1_000, UTC) for row in series]
                y = [row[accessor] for row in series]
                label = name or columns[accessor]["label"]
                if layer["seriesType"].startswith("bar"):
                    figure.add_bar(x=x, y=y, name=label)
                else:
                    figure.add_scatter(x=x, y=y, name=label, mode="lines", line={"width": 1.5}, connectgaps=True)
    return figure.update_layout(showlegend=len(figure.data) > 1)


def _series(rows: list[Row], split: str | None) -> dict[str, list[Row]]:
    series: dict[str, list[Row]] = {}
    for row in rows:
        series.setdefault(row[split] if split else "", []).append(row)
    return series


def _donut(rides: Rides, saved: SavedObject) -> go.Figure:
    (layer,) = saved["attributes"]["state"]["visualization"]["layers"]
    (group,), (metric,) = layer["primaryGroups"], layer["metrics"]
    rows = rides.of_lens(saved, layer["layerId"])
    colours = dict(zip(sorted(row[group] for row in rows), _COLOURS, strict=False))
    return go.Figure(
        go.Pie(
            labels=[row[group] for row in rows],
            values=[row[metric] for row in rows],
            hole=0.5,
            sort=False,
            marker={"colors": [colours[row[group]] for row in rows]},
        )
    )


def _map(rides: Rides, saved: SavedObject, width: int, height: int) -> go.Figure:
    """The grid layer's circles on an empty background, in the map's own projection."""
    layer: Json = next(layer for layer in map_layers(saved) if layer["sourceDescriptor"]["type"] == "ES_GEO_GRID")
    style = layer["style"]["properties"]
    size, colour = (style[name]["options"]["field"]["name"] for name in ("iconSize", "fillColor"))
    cells = rides.of_cells(saved, layer, saved["attributes"]["mapStateJSON"]["zoom"])
    most = max(cell[size] for cell in cells)
    smallest, largest = (style["iconSize"]["options"][name] for name in ("minSize", "maxSize"))
    latitude = sum(cell["lat"] for cell in cells) / len(cells)
    marker: dict[str, Any] = {
        "size": [smallest + (largest - smallest) * cell[size] / most for cell in cells],
        "color": [cell[colour] for cell in cells],
        "colorscale": _SCALES[style["fillColor"]["options"]["color"]],
        "opacity": layer["alpha"],
        "line": {"color": style["lineColor"]["options"]["color"], "width": 0.7},
        "colorbar": {"title": {"text": "rides"}, "thickness": 10},
    }
    figure = go.Figure(
        go.Scatter(x=[cell["lon"] for cell in cells], y=[cell["lat"] for cell in cells], mode="markers", marker=marker)
    )
    return figure.update_yaxes(scaleanchor="x", scaleratio=1 / math.cos(math.radians(latitude)))


def _table(saved: SavedObject, rows: list[Row]) -> str:
    names = list(rows[0]) if rows else saved["attributes"]["columns"]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{''.join(f'<td>{escape(_text(row[name]))}</td>' for name in names)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{degrees:.4f}" for degrees in reversed(value["coordinates"]))
    return f"{value:,.2f}" if isinstance(value, float) else str(value)
