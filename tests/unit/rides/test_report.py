"""The report from handwritten answers: intervals, bins, figures, and a page that loads no other file."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import msgspec
import plotly.graph_objects as go
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

from jobs.rides.report.figures import COMFORT_COLOURS, draw_figures
from jobs.rides.report.formats import format_duration, format_interval, format_number
from jobs.rides.report.page import format_headlines, render_page
from jobs.rides.report.queries import MAX_BUCKETS, Answers, choose_interval, choose_price_bins
from jobs.rides.zones import Revenue, Zone, Zones

START = 1_767_600_000_000  # 2026-01-05T08:00:00Z, in ms
MINUTE = 60_000
NOW = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)


def build_terms(counts: dict[str, int], price: float = 20.0) -> dict[str, Any]:
    return {
        "buckets": [
            {"key": key, "doc_count": count, "price": {"value": price}, "revenue": {"value": count * price}}
            for key, count in counts.items()
        ]
    }


def build_bucket(minute: int, distance: float | None, price: float | None, counts: dict[str, int]) -> dict[str, Any]:
    return {
        "key": START + minute * MINUTE,
        "doc_count": sum(counts.values()),
        "distance": {"value": distance},
        "price": {"value": price},
        "comfort": build_terms(counts),
    }


def build_cell(lat: float, lon: float, count: int) -> dict[str, Any]:
    location = {"lat": lat, "lon": lon}
    return {"key": "16/1/1", "doc_count": count, "centre": {"location": location}, "price": {"value": 20.0}}


def build_answers(**changes: Any) -> Answers:
    """Build answers about 200 rides in three buckets of 2 min. The middle bucket is empty; one price is an outlier."""
    content: dict[str, Any] = {
        "index": "rides",
        "rides": 200,
        "interval_s": 120,
        "price_bin": 10.0,
        "price_top": 30.0,
        "summary": {
            "first": {"value": START + 1.0},
            "last": {"value": START + 5 * MINUTE + 1.0},
            "revenue": {"value": 4_000.0},
            "distance": {"value": 5.25},
            "price": {"value": 20.0},
            "highest_price": {"value": 9_999.5},
            "prices": {"values": {"50.0": 15.0, "99.0": 29.0}},
            "comfort": build_terms({"high": 20, "low": 120, "medium": 60}),
        },
        "charts": {
            "time": {
                "buckets": [
                    build_bucket(0, 5.0, 18.0, {"low": 100, "medium": 60}),
                    build_bucket(2, None, None, {}),
                    build_bucket(4, 6.0, 25.0, {"low": 20, "high": 20}),
                ]
            },
            "usual_prices": {
                "doc_count": 199,
                "bins": {
                    "buckets": [
                        {"key": 0.0, "doc_count": 100, "comfort": build_terms({"low": 100})},
                        {"key": 10.0, "doc_count": 80, "comfort": build_terms({"low": 20, "medium": 60})},
                        {"key": 20.0, "doc_count": 19, "comfort": build_terms({"high": 19})},
                    ]
                },
            },
            "origins": {
                "buckets": [build_cell(40.75, -73.98, 150), build_cell(40.65, -73.78, 49), build_cell(0.0, 0.0, 1)]
            },
        },
    }
    return Answers(**content | changes)


def draw(answers: Answers | None = None) -> dict[str, go.Figure]:
    return dict(draw_figures(answers or build_answers()))


def map_traces(figure: go.Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data}


@pytest.mark.parametrize(
    ("length_s", "expected"),
    [(0, 1), (54, 1), (119, 1), (120, 2), (600, 10), (3_600, 60), (6 * 3_600, 300), (86_400, 900), (7 * 86_400, 7_200)],
)
def test_the_interval_fits_the_time_span(length_s: int, expected: int) -> None:
    assert choose_interval(START, START + 1_000 * length_s) == expected


@given(st.tuples(*2 * [st.integers(-62_135_596_800_000, 253_402_300_799_999)]).map(sorted))
def test_the_number_of_buckets_is_limited(span: list[int]) -> None:
    width_ms = 1_000 * choose_interval(*map(float, span))
    assert 1 <= span[1] // width_ms - span[0] // width_ms + 1 <= MAX_BUCKETS


@given(st.floats(0, sys.float_info.max))
@example(1.0)
@example(sys.float_info.max)
def test_price_bins_are_limited_and_contain_the_percentile(highest: float) -> None:
    width, top = choose_price_bins(highest)
    assert top > highest or top == sys.float_info.max
    assert 1 <= top / width < 52
    assert float(f"{width:.0e}") == width
    assert f"{width:.0e}"[0] in "125"


def test_typical_prices_have_round_bins() -> None:
    assert choose_price_bins(74.6) == (2.0, 76.0)
    assert choose_price_bins(0.0) == (0.01, 0.01)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (0.0, "0"),
        (5.739, "5.74"),
        (20_000, "20,000"),
        (388_808.5, "388,808"),
        (2.5e9, "2.50 bn"),
        (1.5e20, "1.5e+20"),
    ],
)
def test_numbers_are_formatted(value: float | None, expected: str) -> None:
    assert format_number(value) == expected


def test_durations_and_intervals_are_formatted() -> None:
    assert [format_duration(seconds) for seconds in (0, 54.2, 5_025, 86_400, 90_061)] == [
        *("0 s", "54 s", "1 h 23 min", "1 d", "1 d 1 h")
    ]
    assert [format_interval(seconds) for seconds in (1, 90, 300, 7_200, 86_400)] == [
        "1 s",
        "90 s",
        "5 min",
        "2 h",
        "1 d",
    ]


def test_headlines_are_formatted() -> None:
    assert format_headlines(build_answers()) == [
        ("Rides", "200", "40 per minute"),
        ("Revenue", "4,000", "sum of all prices"),
        ("Average distance", "5.25 km", "as the crow flies"),
        ("Average price", "20", "median 15"),
        ("Time span", "5 min", "from the first to the last ride"),
    ]


def test_rides_are_scaled_to_a_minute_and_stacked_by_comfort() -> None:
    figure = draw()["Rides per minute"]
    by_comfort = map_traces(figure)
    assert list(by_comfort) == ["low", "medium", "high"]
    assert list(by_comfort["low"].y) == [50, 0, 10]
    assert list(by_comfort["low"].customdata) == [100, 0, 20]
    assert list(by_comfort["medium"].y) == [30, 0, 0]
    assert list(by_comfort["high"].y) == [0, 0, 10]
    assert list(by_comfort["low"].x) == [START + minute * MINUTE for minute in (1, 3, 5)]
    assert figure.layout.xaxis.range == (START, START + 6 * MINUTE)
    assert "2 min" in figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text == "rides/min"


def test_averages_have_gaps_where_rides_are_missing() -> None:
    distance = draw()["Average distance"]
    assert list(distance.data[0].y) == [5.0, None, 6.0]
    assert distance.layout.yaxis.title.text == "average distance (km)"
    prices = map_traces(draw()["Average price"])
    assert list(prices["all rides"].y) == [18.0, None, 25.0]
    assert list(prices["high"].y) == [None, None, 20.0]


def test_the_average_axis_is_cut_at_an_outlier() -> None:
    charts = build_answers().charts
    charts["time"]["buckets"] = [
        build_bucket(2 * position, km, 20.0, {"low": 1}) for position, km in enumerate((5.0, 5.0, 5.0, 19_000.0))
    ]
    axis = draw(build_answers(charts=charts))["Average distance"].layout.yaxis
    assert axis.range == (0, pytest.approx(1.08 * 15))
    assert axis.title.text == "average distance (km), cut"


def test_an_overflowed_sum_is_omitted() -> None:
    summary = build_answers().summary
    summary["revenue"] = {"value": "Infinity"}
    summary["comfort"]["buckets"][1]["revenue"] = {"value": "Infinity"}
    answers = build_answers(summary=summary)
    assert format_headlines(answers)[1][1] == "–"
    assert list(map_traces(draw(answers)["Rides and revenue by comfort"])["revenue"].x) == [None, 1_200, 400]


def test_rides_and_revenue_are_shown_by_comfort() -> None:
    bars = map_traces(draw()["Rides and revenue by comfort"])
    assert list(bars["rides"].y) == ["low", "medium", "high"]
    assert list(bars["rides"].x) == [120, 60, 20]
    assert list(bars["revenue"].x) == [2_400, 1_200, 400]
    assert bars["revenue"].text[0] == "2,400<br>60.0%"


def test_each_comfort_has_one_colour() -> None:
    figures = draw()
    for title in ("Rides per minute", "Average price", "Price distribution"):
        colours = {name: trace.marker.color for name, trace in map_traces(figures[title]).items()}
        colours.pop("all rides", None)
        assert colours == COMFORT_COLOURS
    assert list(figures["Rides and revenue by comfort"].data[0].marker.color) == list(COMFORT_COLOURS.values())


def test_an_unknown_comfort_comes_last() -> None:
    summary = build_answers().summary
    summary["comfort"]["buckets"].insert(0, build_terms({"luxury": 1})["buckets"][0])
    assert list(map_traces(draw(build_answers(summary=summary))["Rides per minute"])) == [
        "low",
        "medium",
        "high",
        "luxury",
    ]


def test_prices_above_the_percentile_are_only_counted() -> None:
    figure = draw()["Price distribution"]
    assert list(map_traces(figure)["low"].y) == [100, 20, 0]
    assert list(map_traces(figure)["low"].x) == [5.0, 15.0, 25.0]
    assert figure.layout.xaxis.range == (0, 30)
    assert "99th percentile" in figure.layout.xaxis.title.text
    assert "not shown: 1 ride above, the highest at 10,000" in figure.layout.xaxis.title.text


def test_the_map_covers_99_percent_of_origins() -> None:
    cells = [build_cell(40.75, -73.98, 1_500), build_cell(40.65, -73.78, 490), build_cell(0.0, 0.0, 1)]
    figure = draw(build_answers(rides=2_000, charts=build_answers().charts | {"origins": {"buckets": cells}}))[
        "Origins of rides"
    ]
    trace, layout = figure.data[0], figure.layout
    assert list(trace.x) == [-73.98, -73.78, 0.0]
    assert list(trace.y) == [40.75, 40.65, 0.0]
    assert list(trace.marker.size) == [1_500, 490, 1]
    assert layout.xaxis.range == pytest.approx((-73.99, -73.77))
    assert layout.yaxis.range == pytest.approx((40.645, 40.755))
    assert layout.yaxis.scaleratio == pytest.approx(1.3188, abs=1e-3)  # 1 / cos(40.7°)
    assert "9 rides in the emptiest cells are not shown" in layout.xaxis.title.text


def build_zones(**changes: Any) -> Zones:
    content: dict[str, Any] = {
        "generated_at": "2026-01-05T09:00:00+00:00",
        "engine": "the <local> engine",
        "reference": "form, no header",
        "zones": [
            Zone(1, "Midtown", -73.98, 40.75, 900, 1.0),
            Zone(2, "Kennedy & co", -73.78, 40.65, 100, 2.0),
        ],
        "revenue": [
            Revenue(2, "Kennedy & co", "low", 70.0, 3, 1),
            Revenue(1, "Midtown", "low", 50.0, 5, 0),
            Revenue(1, "Midtown", "high", 30.0, 1, 0),
        ],
        "sample": [(-73.981, 40.751, 1), (-73.982, 40.752, 1), (-73.781, 40.651, 2)],
    }
    return Zones(**content | changes)


def test_zones_are_optional() -> None:
    assert not {"Zones", "Revenue by zone and comfort"} & draw().keys()


def test_zones_are_shown_on_a_map() -> None:
    figure = dict(draw_figures(build_answers(), build_zones()))["Zones"]
    centres = map_traces(figure)["zones"]
    assert list(centres.x) == [-73.98, -73.78]
    assert list(centres.y) == [40.75, 40.65]
    assert [list(row) for row in centres.customdata] == [[80.0, 900], [70.0, 100]]
    assert centres.text == ("<b>Midtown</b>", "<b>Kennedy &amp; co</b>")
    midtown = map_traces(figure)["rides in Midtown"]
    assert list(midtown.x) == [-73.981, -73.982]
    assert midtown.marker.color == centres.marker.color[0] != centres.marker.color[1]
    title = figure.layout.xaxis.title.text
    assert "3 of 9 rides, 1 start outside" in title
    assert "&lt;local&gt;" in title
    assert "made-up" not in title
    made_up = dict(draw_figures(build_answers(), build_zones(reference="a GENERATED stand-in")))["Zones"]
    assert "made-up" in made_up.layout.xaxis.title.text


def test_revenue_is_shown_by_zone_and_comfort() -> None:
    figure = dict(draw_figures(build_answers(), build_zones()))["Revenue by zone and comfort"]
    bars = map_traces(figure)
    assert list(bars) == ["low", "high"]
    assert list(bars["low"].y) == ["Kennedy &amp; co", "Midtown"], "the highest at the top"
    assert list(bars["low"].x) == [70.0, 50.0]
    assert list(bars["high"].x) == [0.0, 30.0]
    assert list(bars["low"].customdata) == [3, 5]
    assert {name: bar.marker.color for name, bar in bars.items()} == {
        name: COMFORT_COLOURS[name] for name in ("low", "high")
    }


def test_comforts_and_labels_from_outside_are_escaped() -> None:
    """A browser would run the script, follow the direction of the text, and show a link."""
    nasty, shown = (
        "<a href='http://x'>\u202e</script>\n",
        "&lt;a href=&#x27;http://x&#x27;&gt;\\u202e&lt;/script&gt;\\n",
    )
    content = json.dumps(msgspec.to_builtins(build_answers())).replace('"low"', json.dumps(nasty))
    answers = msgspec.json.decode(content, type=Answers)
    zones = build_zones()
    revenue = [msgspec.structs.replace(part, label=nasty, comfort=nasty) for part in zones.revenue]
    figures = dict(draw_figures(answers, msgspec.structs.replace(zones, revenue=revenue)))
    for title in ("Rides per minute", "Average price", "Price distribution", "Revenue by zone and comfort"):
        assert shown in map_traces(figures[title]), title
    assert shown in list(map_traces(figures["Rides and revenue by comfort"])["rides"].y)
    assert list(map_traces(figures["Revenue by zone and comfort"])[shown].y) == [shown]
    html = render_page(answers, figures.items(), NOW)
    assert nasty not in html
    assert "\u202e" not in html


class ResourceParser(HTMLParser):
    """Collects what a browser would fetch for a page, and its styles and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.current_tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.current_tag = tag
        names = {"src", "href", "srcset", "data", "poster", "action", "background"}
        self.resources += [f"{tag} {name}={value}" for name, value in attrs if name in names]
        self.resources += [tag for _ in [0] if tag in {"link", "base", "iframe", "object", "embed", "img"}]
        self.styles += [value or "" for name, value in attrs if name == "style"]

    def handle_endtag(self, tag: str) -> None:
        self.current_tag = ""

    def handle_data(self, data: str) -> None:
        if self.current_tag == "script":
            self.scripts.append(data)
        elif self.current_tag == "style":
            self.styles.append(data)


def test_the_page_loads_no_other_file() -> None:
    answers = build_answers()
    html = render_page(answers, draw_figures(answers), NOW)
    parser = ResourceParser()
    parser.feed(html)
    parser.close()
    assert parser.resources == []
    assert not [style for style in parser.styles if re.search(r"url\(|@import", style)]
    plotly, *ours = parser.scripts
    assert plotly == get_plotlyjs()
    assert sum("Plotly.newPlot" in script for script in ours) == len(draw_figures(answers))
    assert not [script for script in ours if re.search(r"\bimport\b|https?://(?!plot\.ly\b)", script)]


def test_the_page_names_its_source_and_escapes_text() -> None:
    answers = build_answers(index="<rides>")
    html = render_page(answers, [*draw_figures(answers), ("Zones & more", go.Figure())], NOW)
    assert "2026-01-05 08:00:00 to 2026-01-05 08:05:00 UTC" in html
    assert "Generated at 2026-01-05 09:30:00 UTC from the Elasticsearch index &lt;rides&gt;, 200 rides." in html
    assert "<h2>Zones &amp; more</h2>" in html
    assert html.count('<article class="card') == 7
