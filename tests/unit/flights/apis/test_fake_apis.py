"""The stand-in APIs: their answers have the documented shapes, and the collectors understand them."""

from __future__ import annotations

import json
import statistics
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jsonschema
import pytest
import uvicorn

from infra.fake_apis.app import app
from infra.fake_apis.data import find_wind, make_air_pollution, make_flights, make_weather
from infra.local.runner import ports
from jobs.flights.airports import AIRPORTS
from jobs.flights.contract import Flight, Weather
from jobs.flights.sources import aviationstack, openweather
from jobs.flights.vertical import FlightsSettings
from jobs.settings import ROOT
from tests.testkit.wait import until

SCHEMAS = ROOT / "infra" / "fake_apis" / "schemas"
# A winter's day, the night that ends summer time in New York, a summer's day, and now.
MOMENTS = [
    datetime(2026, 1, 5, 12, 34, 56, tzinfo=UTC),
    datetime(2026, 11, 1, 5, 30, tzinfo=UTC),
    datetime(2026, 7, 31, 23, 59, tzinfo=UTC),
    datetime.now(UTC),
]
PLACES = [(airport.lat, airport.lon) for airport in AIRPORTS.values()] + [(90.0, 180.0), (-90.0, -180.0)]


def check(name: str, body: Any) -> None:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    assert [f"{error.json_path}: {error.message}" for error in checker.iter_errors(body)] == []


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    (port,) = ports.find_free(1)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started, "the stand-in")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("moment", MOMENTS)
def test_bodies_have_the_documented_shapes(moment: datetime) -> None:
    for lat, lon in PLACES:
        for units in ("standard", "metric", "imperial"):
            check("openweather_weather", make_weather(lat, lon, units, moment))
        check("openweather_air_pollution", make_air_pollution(lat, lon, moment))
    rows = make_flights(moment)
    assert {row["departure"]["iata"] for row in rows[:100]} == AIRPORTS.keys()
    check("aviationstack_flights", {"pagination": {"limit": 100, "offset": 0, "count": 0, "total": 0}, "data": rows})


def test_schemas_refuse_other_shapes() -> None:
    body = make_weather(1, 2, "metric", MOMENTS[0])
    for changes in ({"dt": "now"}, {"cod": "404"}, {"rain": {"1h": 0}}, {"extra": 1}):
        with pytest.raises(AssertionError):
            check("openweather_weather", {**body, **changes})


def test_rain_and_gusts_are_absent_where_there_are_none() -> None:
    bodies = [make_weather(lat, lon, "metric", MOMENTS[0]) for lat, lon in PLACES]
    assert {"rain" in body for body in bodies} == {True, False}
    assert {"gust" in body["wind"] for body in bodies} == {True, False}


def test_the_data_are_the_same_within_their_period() -> None:
    noon = datetime(2026, 1, 5, 12, tzinfo=UTC)
    later = noon + timedelta(minutes=9)
    assert make_weather(1, 2, "metric", noon) == make_weather(1, 2, "metric", later)
    assert make_weather(1, 2, "metric", noon) != make_weather(1, 2, "metric", noon + timedelta(minutes=10))
    numbers = [[row["flight"]["iata"] for row in make_flights(moment)] for moment in (noon, later)]
    assert numbers[0] == numbers[1]


def test_wind_delays_flights() -> None:
    winds, delays = [], []
    for row in make_flights(MOMENTS[0]):
        if row["departure"]["delay"] is not None:
            airport = AIRPORTS[row["departure"]["iata"]]
            winds.append(find_wind(airport.lat, airport.lon, MOMENTS[0]))
            delays.append(row["departure"]["delay"])
    assert statistics.correlation(winds, delays) > 0.7


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/data/2.5/weather?lat=1&lon=2", 401, {"cod": 401}),
        ("/data/2.5/weather?lat=1&lon=2&appid=invalid", 401, {"cod": 401}),
        ("/data/2.5/weather?lat=91&lon=2&appid=k", 400, {"cod": "400", "message": "wrong latitude"}),
        ("/data/2.5/weather?lat=1&lon=x&appid=k", 400, {"cod": "400", "message": "wrong longitude"}),
        ("/data/2.5/air_pollution?appid=k", 400, {"cod": "400", "message": "Nothing to geocode"}),
        ("/v1/flights", 401, {"code": "missing_access_key"}),
        ("/v1/flights?access_key=invalid", 401, {"code": "invalid_access_key"}),
        ("/v1/flights?access_key=k&limit=101", 422, {"code": "validation_error"}),
    ],
)
def test_errors_have_the_documented_shapes(url: str, path: str, status: int, error: dict[str, Any]) -> None:
    response = httpx.get(url + path, trust_env=False)
    assert response.status_code == status
    body = response.json()
    assert error.items() <= body.get("error", body).items()


def test_the_collectors_understand_the_answers(url: str) -> None:
    settings = FlightsSettings(
        _env_file=None, flights_apis_url=url, flights_places=",".join(AIRPORTS), flights_aviationstack_pages=9
    )
    weather = list(openweather.collect(settings))
    assert [item.place_id for item in weather if isinstance(item, Weather)] == list(AIRPORTS)
    assert all(item.aqi for item in weather if isinstance(item, Weather))
    flights = list(aviationstack.collect(settings, datetime.now(UTC)))
    assert all(isinstance(item, Flight) for item in flights)
    assert len(flights) > 100
    assert any(item.marketing_number for item in flights if isinstance(item, Flight))
    assert {item.source for item in flights} == {"fake:aviationstack"}  # type: ignore[union-attr]
