"""The page about the flights, without databases."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import combinations

import pytest

from jobs.flights.airports import AIRPORTS, Airport
from jobs.flights.figures import MAX_FLIGHTS, Delays, Departure, Figures, Latest, Wind, summarise
from jobs.flights.page import Box, fit_projection, place_labels, render_page

NOON = datetime(2026, 1, 5, 12)
HOSTILE = Airport("CDG", "<b>\"A\" & 'B'</b>", "Paris & <Orly>", "FR", 49.0, 2.5, "Europe/Paris")


def departure(delay: float | None, airport: str = "CDG", minute: int = 0, source: str = "csv") -> Departure:
    return Departure(airport, "landed", NOON + timedelta(minutes=minute), delay, source)


def wind(minute: float, speed: float | None, place: str = "CDG", source: str = "openweather") -> Wind:
    return Wind(place, NOON + timedelta(minutes=minute), speed, source)


def by_wind(departures: Sequence[Departure], winds: Sequence[Wind]) -> dict[int, int]:
    """The number of flights in each bin."""
    return {number: it.flights for number, it in summarise(departures, winds, [], AIRPORTS).by_wind.items()}


def parse(page: str) -> list[ET.Element]:
    """The images of a page; each must be XML."""
    parts = page.split("<svg")[1:]
    return [ET.fromstring("<svg" + part.partition("</svg>")[0] + "</svg>") for part in parts]  # noqa: S314 (own page)


def test_a_page_without_data_says_so() -> None:
    page = render_page(Figures())
    assert "No flights yet" in page
    assert "Fake data" not in page
    assert page.count("<p>None</p>") == 4
    assert "$" not in page


def test_a_page_of_one_flight_has_all_charts() -> None:
    figures = summarise([departure(42)], [wind(30, 7.5)], [], AIRPORTS)
    page = render_page(figures)
    assert len(parse(page)) == 4
    assert "Scheduled departures from 2026-01-05 12:00 to 2026-01-05 12:00 UTC" in page
    assert "CDG Charles de Gaulle, Paris: 42 min, 100% late, 1 flight<" in page
    assert "6–9 m/s: 42 min" in page
    assert f"{MAX_FLIGHTS:,}" in page


def test_texts_of_the_data_are_escaped() -> None:
    latest = Latest(HOSTILE, NOON, 1.5, None, "<script>alert('x')</script> & \"more\"", 3)
    page = render_page(summarise([departure(3)], [wind(0, 3)], [latest], {"CDG": HOSTILE}))
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(&#x27;x&#x27;)" in page
    titles = [element.text or "" for image in parse(page) for element in image.iter("title")]
    assert any(HOSTILE.name in title and HOSTILE.city in title for title in titles)


def test_unknown_delays_count_as_flights_only() -> None:
    figures = summarise([departure(None), departure(None, "DSS"), departure(20, "DSS")], [], [], AIRPORTS)
    assert figures.delays == Delays(flights=3, known=1, late=1, mean_min=20)
    assert figures.by_airport == {AIRPORTS["CDG"]: Delays(1), AIRPORTS["DSS"]: Delays(2, 1, 1, 20)}
    page = render_page(figures)
    assert "Charles de Gaulle, Paris: –, – late, 1 flight<" in page
    parse(page)


def test_a_flight_is_late_from_the_first_minute_above_the_limit() -> None:
    figures = summarise([departure(15), departure(15.1), departure(-5), departure(None)], [], [], AIRPORTS)
    assert figures.delays.late == 1
    assert figures.delays.late_share == pytest.approx(1 / 3)
    assert figures.delays.mean_min == pytest.approx(25.1 / 3)


def test_early_departures_have_no_bar() -> None:
    page = render_page(summarise([departure(-12)], [wind(0, 1)], [], AIRPORTS))
    assert "-12 min" in page
    sizes = [float(it.attrib[name]) for image in parse(page) for it in image.iter() for name in ("width", "height")
             if name in it.attrib]  # fmt: skip
    assert min(sizes) >= 0


@pytest.mark.parametrize(
    ("winds", "bins"),
    [
        ([wind(-90, 4)], {1: 1}),
        ([wind(90, 4)], {1: 1}),
        ([wind(-90.1, 4), wind(90.1, 4)], {}),
        ([wind(-40, 1), wind(30, 4), wind(50, 10)], {1: 1}),
        ([wind(-20, 1), wind(30, 4)], {0: 1}),
        ([wind(-20, 1), wind(20, 4)], {0: 1}),
        ([wind(1, None), wind(30, 4)], {1: 1}),
        ([wind(0, 4, place="DSS")], {}),
        ([wind(0, 2.99)], {0: 1}),
        ([wind(0, 3)], {1: 1}),
        ([wind(0, 99)], {7: 1}),
    ],
)
def test_a_flight_has_the_wind_observed_nearest_to_its_departure(winds: list[Wind], bins: dict[int, int]) -> None:
    assert by_wind([departure(5)], winds) == bins
    assert by_wind([departure(5)], winds[::-1]) == bins
    assert by_wind([departure(None)], winds) == {}


def test_the_page_says_how_much_is_fake() -> None:
    departures = [departure(1, source=source) for source in ("faker", "fake:aviationstack", "csv", "fakers")]
    winds = [wind(0, 3, source=source) for source in ("fake:openweather", "openweather")]
    page = render_page(summarise(departures, winds, [], AIRPORTS))
    assert "Fake data: 2 of 4 flights and 1 of 2 weather observations" in page


def test_the_map_shows_every_airport_inside_and_its_labels_apart() -> None:
    figures = summarise([departure(5, iata) for iata in AIRPORTS], [], [], AIRPORTS)
    (drawn, *_) = parse(render_page(figures))
    _, _, width, height = map(float, drawn.attrib["viewBox"].split())
    circles = {
        (it.findtext("title") or "")[:3]: (float(it.attrib["cx"]), float(it.attrib["cy"]), float(it.attrib["r"]))
        for it in drawn.iter("circle")
    }
    assert set(circles) == set(AIRPORTS)
    assert all(0 < x < width and 0 < y < height for x, y, _ in circles.values())
    labels = place_labels(circles, (width, height))
    assert set(labels) == set(AIRPORTS)
    boxes = [*labels.values(), *(Box(x - r, y - r, x + r, y + r) for x, y, r in circles.values())]
    count = len(labels)
    pairs = [(a, b) for a, b in combinations(range(len(boxes)), 2) if a < count]
    assert not [pair for pair in pairs if boxes[pair[0]].overlaps(boxes[pair[1]])]


@pytest.mark.parametrize(
    "points",
    [[(49.0, 2.5)], [(0.0, 0.0)], [(89.0, 179.0)], [(-89.0, -179.0), (89.0, 179.0)], [(-60.0, 10.0), (60.0, 10.0)]],
)
def test_the_map_holds_its_points(points: list[tuple[float, float]]) -> None:
    projection = fit_projection(points)
    for x, y in (projection.project(*point) for point in points):
        assert 0 < x < 1000
        assert 0 < y < projection.height
    assert 400 <= projection.height <= 700
