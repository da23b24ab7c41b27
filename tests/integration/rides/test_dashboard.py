"""Each panel of Kibana's dashboard shows the figures of the indexed rides.

No Kibana is available here. `tests.testkit.dashboard.queries` translates the saved objects to Kibana's requests, which
run against a real Elasticsearch. The expected figures are computed from the rides alone.
"""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any

import pytest
from elasticsearch import Elasticsearch
from elasticsearch.helpers import bulk

from infra.kibana.saved_objects import SavedObject, objects_folder, read
from jobs.rides.vertical import TEMPLATE
from jobs.sinks.elasticsearch import apply_template
from tests.testkit.dashboard.picture import latest, page
from tests.testkit.dashboard.queries import Rides, lens_layers, map_layers

Ride = dict[str, Any]
Group = Callable[[Ride], Hashable]

# Neither end is a whole minute, and rides lie outside of both.
START = datetime(2026, 1, 5, 8, 0, 20, tzinfo=UTC)
END = datetime(2026, 1, 5, 9, 29, 40, tzinfo=UTC)
MINUTE_MS, FIVE_MINUTES_MS = 60_000, 300_000
ZOOM = 11

OBJECTS = {(saved["type"], saved["id"]): saved for saved in read(objects_folder("rides"))}
LENS = [(name, layer) for (kind, name), saved in OBJECTS.items() if kind == "lens" for layer in lens_layers(saved)]
MAPS = [(name, layer["id"]) for (kind, name), saved in OBJECTS.items() if kind == "map" for layer in map_layers(saved)]


def make_rides() -> list[Ride]:
    """600 rides before, in and after the time range: a gap of ten minutes, more cheap than expensive ones."""
    rng = random.Random(7)
    rides = []
    for number in range(600):
        second = rng.choice([rng.uniform(-600, 2_400), rng.uniform(3_000, 6_000)])
        rides.append(
            {
                "ride_id": f"00000000-0000-4000-8000-{number:012d}",
                "ts": START + timedelta(milliseconds=round(1_000 * second)),
                "comfort": rng.choice(["low", "low", "low", "medium", "medium", "high"]),
                "origin": {"lat": rng.gauss(40.75, 0.02), "lon": rng.gauss(-73.98, 0.02)},
                "destination": {"lat": rng.gauss(40.64, 0.05), "lon": rng.gauss(-73.78, 0.05)},
                "distance_km": rng.lognormvariate(1.2, 0.6),
                "duration_min": rng.lognormvariate(2.5, 0.4),
                "price_total": rng.lognormvariate(2.8, 0.5),
                "kafka_partition": number % 6,
                "kafka_offset": number // 6,
            }
        )
    return rides


def milliseconds(ride: Ride) -> int:
    return round(ride["ts"].timestamp() * 1_000)


def comfort(ride: Ride) -> str:
    return str(ride["comfort"])


def minute(ride: Ride) -> int:
    return milliseconds(ride) // MINUTE_MS * MINUTE_MS


def five_minutes(ride: Ride) -> int:
    return milliseconds(ride) // FIVE_MINUTES_MS * FIVE_MINUTES_MS


def tile(point: dict[str, float], zoom: int) -> str:
    """The map tile of a point as z/x/y (https://wiki.openstreetmap.org/wiki/Slippy_map_tilenames)."""
    x = (point["lon"] + 180) / 360
    y = (1 - math.asinh(math.tan(math.radians(point["lat"]))) / math.pi) / 2
    return f"{zoom}/{math.floor(x * 2**zoom)}/{math.floor(y * 2**zoom)}"


def grouped(rides: Iterable[Ride], *by: Group) -> dict[tuple[Hashable, ...], list[Ride]]:
    groups = defaultdict(list)
    for ride in rides:
        groups[tuple(group(ride) for group in by)].append(ride)
    return dict(groups)


def means(groups: dict[Any, list[Ride]], field: str) -> dict[Any, float]:
    return {key: fmean(ride[field] for ride in rides) for key, rides in groups.items()}


def sums(groups: dict[Any, list[Ride]], field: str) -> dict[Any, float]:
    return {key: math.fsum(ride[field] for ride in rides) for key, rides in groups.items()}


def exactly(expected: dict[Any, float]) -> Any:
    """Averages and sums may differ by rounding; keys must be equal."""
    return pytest.approx(expected, rel=1e-9, abs=0)


@pytest.fixture(scope="module")
def everything() -> list[Ride]:
    return make_rides()


@pytest.fixture(scope="module")
def rides(everything: list[Ride]) -> list[Ride]:
    """Those within the time range."""
    inside = [ride for ride in everything if START <= ride["ts"] <= END]
    assert 300 < len(inside) < len(everything)
    assert min(map(minute, inside)) < START.timestamp() * 1_000, "a minute is covered in part"
    return inside


@pytest.fixture(scope="module")
def shown(stack: Any, everything: list[Ride]) -> Rides:
    client: Elasticsearch = stack.elasticsearch
    index = "rides-dashboard"
    apply_template(client, index, TEMPLATE)
    documents = (
        {"_index": index, "_id": ride["ride_id"], "_source": ride | {"ts": ride["ts"].isoformat()}}
        for ride in everything
    )
    assert bulk(client, documents, refresh=True) == (len(everything), [])
    return Rides(client, index, START, END)


def in_whole_minutes(rides: list[Ride]) -> list[Ride]:
    """Those of minutes that the time range covers from end to end."""
    start, end = START.timestamp() * 1_000, END.timestamp() * 1_000
    return [ride for ride in rides if start <= minute(ride) <= end - MINUTE_MS]


# What a layer shows: the column of its figures, the key columns, and a function that computes the figures from rides.
FIGURES: dict[tuple[str, str], tuple[str, list[str], Callable[[list[Ride]], dict[Any, float]]]] = {
    ("ride-count", "rides"): ("count", [], lambda rides: {(): len(rides)}),
    ("average-distance", "rides"): ("average_distance", [], lambda rides: means(grouped(rides), "distance_km")),
    ("average-price", "rides"): ("average_price", [], lambda rides: means(grouped(rides), "price_total")),
    ("revenue", "rides"): ("revenue", [], lambda rides: sums(grouped(rides), "price_total")),
    ("rides-per-minute", "by-comfort"): (
        "rides_per_minute",
        ["comfort", "minute"],
        lambda rides: Counter((comfort(ride), minute(ride)) for ride in in_whole_minutes(rides)),
    ),
    ("rides-by-comfort", "by-comfort"): (
        "rides",
        ["comfort"],
        lambda rides: Counter((comfort(ride),) for ride in rides),
    ),
    ("average-distance-per-minute", "all"): (
        "average_distance",
        ["minute"],
        lambda rides: means(grouped(rides, minute), "distance_km"),
    ),
    ("average-price-per-minute", "all"): (
        "all_average_price",
        ["all_minute"],
        lambda rides: means(grouped(rides, minute), "price_total"),
    ),
    ("average-price-per-minute", "by-comfort"): (
        "average_price",
        ["comfort", "minute"],
        lambda rides: means(grouped(rides, comfort, minute), "price_total"),
    ),
    ("revenue-by-comfort", "by-comfort"): (
        "revenue",
        ["comfort", "five_minutes"],
        lambda rides: sums(grouped(rides, comfort, five_minutes), "price_total"),
    ),
}


@pytest.mark.parametrize(("name", "layer"), LENS)
def test_a_lens_layer_shows_the_figures_of_the_rides(shown: Rides, rides: list[Ride], name: str, layer: str) -> None:
    value, keys, figures = FIGURES[name, layer]
    actual = {tuple(row[key] for key in keys): row[value] for row in shown.of_lens(OBJECTS["lens", name], layer)}
    # Buckets without rides are tested below.
    assert {key: figure for key, figure in actual.items() if figure} == exactly(figures(rides))


def test_the_time_axis_includes_minutes_without_rides(shown: Rides) -> None:
    rows = shown.of_lens(OBJECTS["lens", "rides-per-minute"], "by-comfort")
    minutes = [row["minute"] for row in rows if row["comfort"] == "low"]
    first = round(datetime(2026, 1, 5, 8, 1, tzinfo=UTC).timestamp() * 1_000)
    assert minutes == list(range(first, first + 88 * MINUTE_MS, MINUTE_MS))
    assert 0 in [row["rides_per_minute"] for row in rows]


def test_a_minute_without_rides_has_no_average(shown: Rides) -> None:
    rows = shown.of_lens(OBJECTS["lens", "average-distance-per-minute"], "all")
    assert len(rows) == 90
    empty = [row["average_distance"] for row in rows if not row["average_distance"]]
    assert len(empty) >= 9
    assert set(empty) == {None}


@pytest.mark.parametrize("name", ["rides-per-minute", "average-price-per-minute", "revenue-by-comfort"])
def test_comforts_keep_their_order_and_colours(shown: Rides, name: str) -> None:
    rows = shown.of_lens(OBJECTS["lens", name], "by-comfort")
    assert list(dict.fromkeys(row["comfort"] for row in rows)) == ["high", "low", "medium"]


def test_the_largest_share_comes_first(shown: Rides, rides: list[Ride]) -> None:
    rows = shown.of_lens(OBJECTS["lens", "rides-by-comfort"], "by-comfort")
    assert [(row["comfort"], row["rides"]) for row in rows] == Counter(map(comfort, rides)).most_common()


def test_bars_add_up_to_the_revenue(shown: Rides) -> None:
    bars = shown.of_lens(OBJECTS["lens", "revenue-by-comfort"], "by-comfort")
    (whole,) = shown.of_lens(OBJECTS["lens", "revenue"], "rides")
    assert math.fsum(bar["revenue"] for bar in bars) == pytest.approx(whole["revenue"], rel=1e-9)


@pytest.mark.parametrize(("name", "layer_id"), MAPS)
def test_a_map_shows_the_places_of_the_rides(shown: Rides, rides: list[Ride], name: str, layer_id: str) -> None:
    field = {"origins": "origin", "destinations": "destination"}[name]
    panel = OBJECTS["map", name]
    layer = next(layer for layer in map_layers(panel) if layer["id"] == layer_id)
    check = {"ES_GEO_GRID": check_cells, "ES_SEARCH": check_documents}[layer["sourceDescriptor"]["type"]]
    check(shown, rides, panel, layer, field)


def check_cells(shown: Rides, rides: list[Ride], panel: SavedObject, layer: dict[str, Any], field: str) -> None:
    cells = {cell["key"]: cell for cell in shown.of_cells(panel, layer, ZOOM)}
    expected = {key: inside for (key,), inside in grouped(rides, lambda ride: tile(ride[field], ZOOM + 4)).items()}
    assert len(expected) > 20
    assert {key: cell["doc_count"] for key, cell in cells.items()} == {
        key: len(inside) for key, inside in expected.items()
    }
    prices = {key: cell["avg_of_price_total"] for key, cell in cells.items()}
    assert prices == exactly(means(expected, "price_total"))
    for key, inside in expected.items():
        for axis in ("lat", "lon"):
            # Elasticsearch keeps a coordinate in 32 bits.
            assert cells[key][axis] == pytest.approx(fmean(ride[field][axis] for ride in inside), abs=1e-6)


def check_documents(shown: Rides, rides: list[Ride], panel: SavedObject, layer: dict[str, Any], field: str) -> None:
    actual = {row["ride_id"]: row for row in shown.of_documents(panel, layer)}
    assert actual.keys() == {ride["ride_id"] for ride in rides}
    for ride in rides:
        row = actual[ride["ride_id"]]
        assert row[field] == {"type": "Point", "coordinates": [ride[field]["lon"], ride[field]["lat"]]}
        assert datetime.fromisoformat(row["ts"]) == ride["ts"]
        for name in ("comfort", "distance_km", "price_total"):
            assert row[name] == ride[name]


def test_the_search_shows_the_latest_rides(shown: Rides, rides: list[Ride]) -> None:
    rows = shown.of_search(OBJECTS["search", "latest-rides"])
    latest = sorted(rides, key=milliseconds, reverse=True)
    assert [row["ride_id"] for row in rows] == [ride["ride_id"] for ride in latest]
    for row, ride in zip(rows, latest, strict=True):
        assert datetime.fromisoformat(row["ts"]) == ride["ts"]
        for field in ("comfort", "distance_km", "duration_min", "price_total"):
            assert row[field] == ride[field]
        for field in ("origin", "destination"):
            assert row[field]["coordinates"] == [ride[field]["lon"], ride[field]["lat"]]


def test_the_picture_shows_every_panel(shown: Rides, everything: list[Ride]) -> None:
    rides = latest(shown.client, shown.index)
    assert rides.end == max(ride["ts"] for ride in everything)
    html, height = page(rides, OBJECTS.values())
    assert html.count("<section ") == len(OBJECTS) - 2, "all but the dashboard and the data view"
    assert f"<b>{len(everything):,}</b>" in html
    assert f"<b>{math.fsum(ride['price_total'] for ride in everything):,.2f}</b>" in html
    newest = max(everything, key=milliseconds)
    assert html.index(newest["ride_id"]) < html.index(sorted(everything, key=milliseconds)[-2]["ride_id"])
    assert "not a screenshot of Kibana" in html
    assert height > 1_000
