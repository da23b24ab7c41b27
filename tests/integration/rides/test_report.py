"""The report against a real Elasticsearch: the page shows what was indexed."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from elasticsearch import Elasticsearch
from elasticsearch.helpers import bulk

from jobs.errors import DatastreamError, ServiceUnavailableError
from jobs.rides.report import write_report
from jobs.rides.report.formats import format_number
from jobs.rides.vertical import TEMPLATE
from jobs.rides.zones import Revenue, Zone, Zones, write
from jobs.sinks.elasticsearch import apply_template

START = datetime(2026, 1, 5, 8, tzinfo=UTC)
RIDES = 800
INTERVAL_S = 60  # the interval chosen for 90 minutes


def make_rides() -> list[dict[str, Any]]:
    """Make 90 minutes of rides with a gap. One price is an outlier."""
    rng = random.Random(3)
    rides = []
    for position in range(RIDES):
        second = rng.choice([rng.uniform(0, 2_400), rng.uniform(3_000, 5_399)])
        rides.append(
            {
                "ride_id": f"{position:08d}",
                "ts": START + timedelta(milliseconds=round(1_000 * second)),
                "comfort": rng.choice(["low", "low", "medium", "high"]),
                "origin": {"lat": rng.gauss(40.75, 0.02), "lon": rng.gauss(-73.98, 0.02)},
                "distance_km": rng.lognormvariate(1.2, 0.6),
                "price_total": rng.lognormvariate(2.8, 0.5),
            }
        )
    rides[0]["ts"], rides[1]["ts"] = START, START + timedelta(seconds=5_399)
    rides[2]["price_total"] = 1e6
    return rides


def index_rides(client: Elasticsearch, index: str, rides: list[dict[str, Any]]) -> None:
    apply_template(client, index, TEMPLATE)
    documents = [
        {"_index": index, "_id": ride["ride_id"], "_source": ride | {"ts": ride["ts"].isoformat()}} for ride in rides
    ]
    assert bulk(client, documents, refresh=True) == (len(rides), [])


def read_figures(html: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Read the traces of a page by card title and trace name."""
    decoder = json.JSONDecoder()
    figures = {}
    for title, card in re.findall(r"<h2>(.*?)</h2>(.*?)</article>", html, re.DOTALL):
        start = card.index("[", card.index("Plotly.newPlot("))
        figures[title] = {trace["name"]: trace for trace in decoder.raw_decode(card, start)[0]}
    return figures


def read_headlines(html: str) -> dict[str, str]:
    return dict(re.findall(r'class="label">(.*?)</div><div class="value">(.*?)</div>', html))


def group_by_minute(
    rides: list[dict[str, Any]], read_value: Callable[[dict[str, Any]], float]
) -> dict[float, list[float]]:
    """Group values by the middle of their minute, in ms since 1970."""
    groups: dict[float, list[float]] = {}
    for ride in rides:
        minute = int(ride["ts"].timestamp()) // INTERVAL_S
        groups.setdefault((minute + 0.5) * 1_000 * INTERVAL_S, []).append(read_value(ride))
    return groups


def read_points(trace: dict[str, Any]) -> dict[float, float]:
    """Read the points of a trace without gaps and zeros."""
    return {x: y for x, y in zip(trace["x"], trace["y"], strict=True) if y}


def test_the_page_shows_the_indexed_rides(stack: Any, index: str, tmp_path: Path) -> None:
    rides = make_rides()
    index_rides(stack.elasticsearch, index, rides)
    path = write_report(stack.elasticsearch, index, tmp_path / "new" / "report.html")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    html = path.read_text(encoding="utf-8")
    figures = read_figures(html)
    counts = Counter(ride["comfort"] for ride in rides)

    prices = [ride["price_total"] for ride in rides]
    headlines = read_headlines(html)
    assert headlines["Rides"] == str(RIDES)
    assert headlines["Revenue"] == format_number(sum(prices))
    assert headlines["Average distance"] == f"{fmean(ride['distance_km'] for ride in rides):.2f} km"
    assert headlines["Average price"] == format_number(fmean(prices))
    assert headlines["Time span"] == "1 h 29 min"
    assert f"from the Elasticsearch index {index}, {RIDES} rides" in html

    per_minute, average = figures["Rides per minute"], figures["Average price"]
    assert list(per_minute) == ["low", "medium", "high"]
    for comfort, trace in per_minute.items():
        comfort_values = group_by_minute(
            [ride for ride in rides if ride["comfort"] == comfort], lambda ride: ride["price_total"]
        )
        assert len(trace["x"]) == 90
        assert read_points(trace) == {minute: len(values) for minute, values in comfort_values.items()}
        assert read_points(average[comfort]) == pytest.approx(
            {minute: fmean(values) for minute, values in comfort_values.items()}
        )
    everything = group_by_minute(rides, lambda ride: ride["price_total"])
    assert read_points(average["all rides"]) == pytest.approx(
        {minute: fmean(values) for minute, values in everything.items()}
    )
    distances = group_by_minute(rides, lambda ride: ride["distance_km"])
    assert read_points(figures["Average distance"]["all rides"]) == pytest.approx(
        {minute: fmean(values) for minute, values in distances.items()}
    )

    comfort = figures["Rides and revenue by comfort"]
    assert dict(zip(comfort["rides"]["y"], comfort["rides"]["x"], strict=True)) == counts
    assert dict(zip(comfort["revenue"]["y"], comfort["revenue"]["x"], strict=True)) == pytest.approx(
        {name: sum(ride["price_total"] for ride in rides if ride["comfort"] == name) for name in counts}
    )

    distribution = figures["Price distribution"]
    top = max(trace["x"][-1] + trace["width"] / 2 for trace in distribution.values())
    assert sorted(prices)[int(0.98 * RIDES)] < top < 200
    for name, trace in distribution.items():
        bins = Counter(
            (math.floor(ride["price_total"] / trace["width"]) + 0.5) * trace["width"]
            for ride in rides
            if ride["comfort"] == name and ride["price_total"] < top
        )
        assert read_points(trace) == pytest.approx(bins)
    assert "the highest at 1,000,000" in html

    origins = figures["Origins of rides"]["origins"]
    assert sum(origins["marker"]["size"]) == RIDES
    mean_lat = sum(lat * size for lat, size in zip(origins["y"], origins["marker"]["size"], strict=True)) / RIDES
    assert mean_lat == pytest.approx(fmean(ride["origin"]["lat"] for ride in rides), abs=1e-5)


def test_the_page_shows_zones_from_the_same_folder(stack: Any, index: str, tmp_path: Path) -> None:
    index_rides(stack.elasticsearch, index, make_rides())
    path = tmp_path / "report.html"
    assert "Zones" not in read_figures(write_report(stack.elasticsearch, index, path).read_text(encoding="utf-8"))
    zone = Zone(1, "Midtown", -73.98, 40.75, 900, 1.0)
    part = Revenue(1, "Midtown", "low", 12_345.5, 7, 0)
    write(Zones("2026-01-05", "here", "a file", [zone], [part], [(-73.99, 40.76, 1)]), tmp_path / "zones.json")
    figures = read_figures(write_report(stack.elasticsearch, index, path).read_text(encoding="utf-8"))
    assert figures["Zones"]["zones"]["text"] == ["<b>Midtown</b>"]
    assert figures["Revenue by zone and comfort"]["low"]["x"] == [12_345.5]
    # Zones of an incompatible version are ignored.
    (tmp_path / "zones.json").write_text("{}")
    assert "Zones" not in read_figures(write_report(stack.elasticsearch, index, path).read_text(encoding="utf-8"))


def test_a_report_of_one_ride_is_written(stack: Any, index: str, tmp_path: Path) -> None:
    index_rides(stack.elasticsearch, index, make_rides()[:1])
    html = write_report(stack.elasticsearch, index, tmp_path / "report.html").read_text(encoding="utf-8")
    assert read_headlines(html)["Rides"] == "1"
    assert read_headlines(html)["Time span"] == "0 s"


def test_extreme_rides_do_not_break_the_page(stack: Any, index: str, tmp_path: Path) -> None:
    """The limits of the contract: years 1 to 9999, a pole, and prices whose sum overflows a double."""
    first, second, third = make_rides()[:3]
    first |= {"ts": datetime(1, 1, 1, tzinfo=UTC), "price_total": 1.7e308, "origin": {"lat": 90, "lon": 180}}
    second |= {"ts": datetime(9999, 12, 31, 23, 59, 59, 999_000, UTC), "price_total": 1.7e308}
    index_rides(stack.elasticsearch, index, [first, second, third])
    html = write_report(stack.elasticsearch, index, tmp_path / "report.html").read_text(encoding="utf-8")
    assert read_headlines(html)["Revenue"] == "–"
    assert sum(sum(map(bool, trace["y"])) for trace in read_figures(html)["Rides per minute"].values()) == 3


def test_the_report_replaces_an_older_one(stack: Any, index: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    index_rides(stack.elasticsearch, index, make_rides()[:3])
    assert read_headlines(write_report(stack.elasticsearch, index, path).read_text(encoding="utf-8"))["Rides"] == "3"


@pytest.mark.parametrize("exists", [False, True], ids=["missing", "empty"])
def test_a_report_without_rides_names_the_remedy(stack: Any, index: str, tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    if exists:
        apply_template(stack.elasticsearch, "rides", TEMPLATE)
        stack.elasticsearch.indices.create(index=index, wait_for_active_shards="1")
    with pytest.raises(DatastreamError, match=rf"{index}.*`make demo`.*un-pause.*`make produce`") as raised:
        write_report(stack.elasticsearch, index, path)
    assert type(raised.value) is DatastreamError
    assert stack.settings.es_url in str(raised.value)
    assert path.read_text() == "old"


def test_a_report_without_elasticsearch_names_the_address(tmp_path: Path) -> None:
    client = Elasticsearch("http://127.0.0.1:9", max_retries=0)
    with pytest.raises(ServiceUnavailableError, match=r"127\.0\.0\.1:9\b.*`make local-status`"):
        write_report(client, "rides", tmp_path / "report.html")
