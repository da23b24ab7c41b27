"""The producer makes the same observation, with the same event_id, as the collector of the flights."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import islice
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

import generate_weather
import weather_sources
from flight_lines import Options, add_faults
from flight_weather import AIRPORTS as AIRPORTS_FILE
from flight_weather import read_airports as read_places
from infra.fake_apis import data
from jobs.flights import quota
from jobs.flights.airports import AIRPORTS
from jobs.flights.contract import Kind, Reject, Weather
from jobs.flights.sources import openweather
from jobs.flights.sources.json_lines import read_json_lines
from jobs.flights.vertical import FlightsSettings
from put_weather import PLACES
from tests.testkit.apis import air_body, weather_body
from weather_observation import RejectedError, make_weather, read_airports
from weather_sources import OpenWeather, SourceError, parse_line

PRODUCER_AIRPORTS = read_airports()


def compare_fields(weather: Any) -> bytes:
    """All fields in their order, bit for bit, except the time of the fetch."""
    return msgspec.json.encode(weather).replace(weather.fetched_at.encode(), b"")


# --- The same answers of the API --------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def without_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector's quota is in a database."""
    for name in ("charge", "refund", "mark_used_up"):
        monkeypatch.setattr(quota, name, lambda *_: None)
    # Reading the certificates takes longer than a test. These servers have none.
    monkeypatch.setattr(
        "httpx._transports.default.create_ssl_context", lambda **_: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    )
    monkeypatch.setattr("httpx_retries.retry.time", SimpleNamespace(sleep=lambda _: None))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")


def fetch(url: str, places: str = "BOS", key: str = "") -> tuple[list[Any], int]:
    """One round of the producer: its observations, and how many inputs it rejected."""
    source = OpenWeather(PRODUCER_AIRPORTS, threading.Event(), places, key, url)
    batches = islice(source.fetch(), len(places.split(",")))
    return [weather for batch in batches for weather in batch], source.rejected


def collect(url: str, places: str = "BOS", key: str = "") -> list[Weather | Reject]:
    flights = FlightsSettings(_env_file=None, flights_apis_url=url, flights_places=places, flights_openweather_key=key)
    return list(openweather.collect(flights))  # type: ignore[arg-type]


def assert_same(url: str, places: str = "BOS", key: str = "") -> tuple[int, int]:
    """Returns the number of observations and of rejects."""
    collected = collect(url, places, key)
    expected = [one for one in collected if isinstance(one, Weather)]
    made, rejected = fetch(url, places, key)
    assert [compare_fields(weather) for weather in made] == [compare_fields(weather) for weather in expected]
    assert [weather.event_id for weather in made] == [weather.event_id for weather in expected]
    assert rejected == len(collected) - len(expected)
    return len(made), rejected


BODIES: list[tuple[Any, Any, tuple[int, int]]] = [
    (weather_body(), air_body(), (1, 0)),
    (weather_body(main={"temp": 30}), air_body(main={"aqi": 2.0}), (1, 1)),
    (weather_body(main={"temp": 30.0}), air_body(components={"pm2_5": 12}), (1, 0)),
    (weather_body(main={"temp": -0.0, "feels_like": -1e-7}), air_body(components={}), (1, 0)),
    (weather_body(main={"temp": 0.1 + 0.2}, coord={"lat": 1e-7, "lon": -180}), air_body(dt=None), (1, 0)),
    (weather_body(rain={"1h": 0.25}, snow={"1h": 1.5}, wind={"speed": 9, "gust": 14.5}), air_body(), (1, 0)),
    (weather_body(rain=None, wind=None, clouds=None, visibility=None, weather=None), air_body(main=None), (1, 0)),
    (weather_body(weather=[{"main": "Nuages", "description": "peu nuageux à São Paulo"}]), air_body(), (1, 0)),
    (weather_body(cod="200"), air_body(cod="404"), (1, 0)),
    # Without air quality.
    (weather_body(), {"cod": "404", "message": "no data"}, (1, 1)),
    (weather_body(), {"list": []}, (1, 1)),
    (weather_body(), {"list": {"main": {}}}, (1, 1)),
    (weather_body(), air_body(main={"aqi": 9}), (1, 1)),
    (weather_body(), air_body(dt="noon"), (1, 1)),
    (weather_body(), b"<html>", (1, 1)),
    # Without weather.
    (b"<html>Bad gateway</html>", air_body(), (0, 1)),
    (b"[]", air_body(), (0, 1)),
    ({"cod": "404", "message": "city not found"}, air_body(), (0, 1)),
    ({"cod": None, "message": "odd"}, air_body(), (0, 1)),
    ({"cod": 200}, air_body(), (0, 1)),
    (weather_body(cod=400), air_body(), (0, 1)),
    (weather_body(dt=None), air_body(), (0, 1)),
    (weather_body(dt="now"), air_body(), (0, 1)),
    (weather_body(dt=True), air_body(), (0, 1)),
    (weather_body(dt=1_767_614_400_000), air_body(), (0, 1)),
    (weather_body(dt=4_000_000_000), air_body(), (0, 1)),
    (weather_body(wind=[]), air_body(), (0, 1)),
    (weather_body(weather=["rain"]), air_body(), (0, 1)),
    (weather_body(weather=[{"main": "a\tb"}]), air_body(), (0, 1)),
    (weather_body(weather=[{"main": "x" * 201}]), air_body(), (0, 1)),
    (weather_body(main={"temp": "20"}), air_body(), (0, 1)),
    (weather_body(main={"temp": True}), air_body(), (0, 1)),
    (weather_body(main={"temp": 293.6}), air_body(), (0, 1)),
    (weather_body(main={"temp": 20, "humidity": 120}), air_body(), (0, 1)),
    (weather_body(coord={"lat": 142, "lon": 0}), air_body(), (0, 1)),
    (weather_body(coord=None), air_body(), (0, 1)),
]


@pytest.mark.parametrize(("weather", "air", "expected"), BODIES)
def test_both_make_the_same_of_an_answer(
    httpserver: HTTPServer, weather: Any, air: Any, expected: tuple[int, int]
) -> None:
    for path, body in ((weather_sources.WEATHER, weather), (weather_sources.AIR, air)):
        httpserver.expect_request(path).respond_with_data(body if isinstance(body, bytes) else json.dumps(body))
    assert assert_same(httpserver.url_for("").rstrip("/")) == expected


def test_both_make_the_same_of_the_stand_in(httpserver: HTTPServer) -> None:
    now = datetime.now(UTC)

    def answer(make: Callable[[float, float], dict[str, Any]]) -> Callable[[Request], Response]:
        return lambda request: Response(json.dumps(make(float(request.args["lat"]), float(request.args["lon"]))))

    httpserver.expect_request(weather_sources.WEATHER).respond_with_handler(
        answer(lambda lat, lon: data.make_weather(lat, lon, "metric", now))
    )
    httpserver.expect_request(weather_sources.AIR).respond_with_handler(
        answer(lambda lat, lon: data.make_air_pollution(lat, lon, now))
    )
    places = ",".join(AIRPORTS)
    assert assert_same(httpserver.url_for("").rstrip("/"), places) == (len(AIRPORTS), 0)


def test_both_name_openweather_as_the_source_with_a_key(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = httpserver.url_for("").rstrip("/")
    monkeypatch.setattr(openweather, "URL", url)
    monkeypatch.setattr(weather_sources, "OPENWEATHER_URL", url)
    for path, body in ((weather_sources.WEATHER, weather_body()), (weather_sources.AIR, air_body())):
        httpserver.expect_request(path).respond_with_data(json.dumps(body))
    assert assert_same("", key="a-key") == (1, 0)
    (weather,), _ = fetch("", key="a-key")
    assert weather.source == "openweather"


def test_both_read_the_same_places_by_default() -> None:
    assert FlightsSettings.model_fields["flights_places"].default == PLACES
    assert {code: (airport.city, airport.country) for code, airport in PRODUCER_AIRPORTS.items()} == {
        code: (airport.city, airport.country) for code, airport in AIRPORTS.items()
    }


# --- The same JSON lines ----------------------------------------------------------------------------------------------


def judge(line: bytes) -> bytes | None:
    """What the producer makes of a line."""
    try:
        return compare_fields(make_weather(parse_line(line), PRODUCER_AIRPORTS, "lines", "line 1"))
    except RejectedError:
        return None


def judge_as_collector(line: bytes) -> bytes | None:
    (one,) = read_json_lines(BytesIO(line + b"\n"), Kind.WEATHER, "lines")
    return None if isinstance(one, Reject) else compare_fields(one)


def test_both_make_the_same_of_generated_lines() -> None:
    options = Options(2000, 0, 1, 0.2, 0, datetime.now(UTC) - timedelta(days=1), timedelta(seconds=40))
    contents = generate_weather.draw_weather(read_places(AIRPORTS_FILE), options)
    lines = list(islice(add_faults(contents, generate_weather.FAULTS, options), options.count))
    verdicts = [judge(line.value) for line in lines]
    assert verdicts == [judge_as_collector(line.value) for line in lines]
    assert [verdict is None for verdict in verdicts] == [line.fault is not None for line in lines]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\r",
        b" {}",
        b"null",
        b'{"observed_at": "2026-01-05T08:00:00Z"}{}',
        b"[" * 100_000,
        b'{"lat": 1e400}',
        b'{"lat": ' + b"9" * 5000 + b"}",
        b'{"condition": "\\ud800"}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"note": "' + b"x" * 2**18 + b'"}',
    ],
)
def test_both_reject_odd_lines(line: bytes) -> None:
    assert judge(line) is judge_as_collector(line) is None


NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(-200, 400),
    st.floats(0, 100),
    st.sampled_from([0, -0.0, 30, 30.0, 100, 100.0, 1e-300, 5e-324, 1e400, 10**400, 10**20, True, "20", None, 90, 180]),
)
TIMES = st.sampled_from(
    [
        *(
            "2026-01-05T08:00:00Z",
            "2026-01-05t08:00:00.5+05:30",
            "2026-01-05T08:00:00.123456-00:00",
            "1970-01-01T00:00:00Z",
        ),
        *(
            "1970-01-01T00:00:00+01:00",
            "2026-02-30T08:00:00Z",
            "2026-01-05 08:00:00Z",
            "2099-01-01T00:00:00Z",
            "",
            None,
        ),
        *("0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "2026-01-05T08:00:00.1234567Z", 7),
    ]
)
TEXTS = st.one_of(st.text(max_size=5), st.sampled_from(["x" * 200, "x" * 201, "é" * 200, None, 7]))


@given(
    content=st.fixed_dictionaries(
        {"observed_at": TIMES, "place_id": st.sampled_from(["BOS", "GRU", "QQQ", "", None])},
        optional={
            **dict.fromkeys(("lat", "lon", "temperature", "feels_like", "pressure_hpa", "humidity_pct"), NUMBERS),
            **dict.fromkeys(("visibility_m", "wind_speed", "wind_deg", "wind_gust", "clouds_pct"), NUMBERS),
            **dict.fromkeys(("rain_1h_mm", "snow_1h_mm", "aqi", "pm2_5", "pm10", "no2", "o3"), NUMBERS),
            **dict.fromkeys(("condition", "description"), TEXTS),
            "air_observed_at": TIMES,
            "units": st.sampled_from(["standard", "metric", "imperial", "celsius", None, 1]),
            "note": NUMBERS,
        },
    )
)
@settings(max_examples=100, deadline=None)
def test_both_judge_any_content_alike(content: dict[str, Any]) -> None:
    assert_alike(content)


@given(
    st.fixed_dictionaries(
        {
            "observed_at": st.sampled_from(["2026-01-05T08:00:00Z", "2026-01-05t08:00:00.5+05:30"]),
            "place_id": st.sampled_from(sorted(AIRPORTS)),
            "lat": st.floats(-90, 90) | st.integers(-90, 90),
            "lon": st.floats(-180, 180) | st.integers(-180, 180),
            "units": st.sampled_from(["metric", "imperial"]),
        },
        optional={
            "temperature": st.floats(-100, 70) | st.integers(-100, 70),
            "humidity_pct": st.floats(0, 100) | st.integers(0, 100),
            "condition": st.text(st.characters(categories=["L", "M", "N", "P", "S"]), max_size=5),
        },
    )
)
@settings(max_examples=50, deadline=None)
def test_both_make_the_same_of_valid_content(content: dict[str, Any]) -> None:
    assert assert_alike(content) is not None


def assert_alike(content: dict[str, Any]) -> bytes | None:
    line = json.dumps(content).replace("Infinity", "1e400").encode()
    verdict = judge(line)
    assert verdict == judge_as_collector(line)
    return verdict


# --- Keys and errors --------------------------------------------------------------------------------------------------

KEY = "SECRET-42"
SPELLINGS = (KEY, "SECRET%2D42", "\\u0053ECRET-42")
ECHO = " ".join(SPELLINGS)


@pytest.fixture
def api(httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    monkeypatch.setattr(weather_sources, "OPENWEATHER_URL", httpserver.url_for("").rstrip("/"))
    yield httpserver
    httpserver.check_assertions()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (401, '{"cod": 401, "message": "' + ECHO + '"}', "FLIGHTS_OPENWEATHER_KEY"),
        (200, '{"cod": "401", "message": "' + ECHO + '"}', "FLIGHTS_OPENWEATHER_KEY"),
        (429, '{"cod": 429, "message": "' + ECHO + '"}', "answers 429 after 4 tries"),
        (200, '{"cod": 503, "message": "' + ECHO + '"}', "answers 503 after 4 tries"),
        (500, ECHO, "answers 500 after 4 tries"),
        (404, '{"cod": "404", "message": "' + ECHO + '"}', None),
        (301, ECHO, None),
        (200, f"<html>{ECHO}</html>", None),
        (200, json.dumps(weather_body(weather=[{"main": KEY, "description": KEY}])), None),
    ],
)
def test_the_key_is_in_no_log_error_or_observation(
    api: HTTPServer, caplog: pytest.LogCaptureFixture, status: int, body: str, error: str | None
) -> None:
    def respond(request: Request) -> Response:
        assert request.args["appid"] == KEY
        return Response(body, status, headers={"Location": f"/?appid={KEY}", "X-Echo": request.url})

    api.expect_request(weather_sources.WEATHER).respond_with_handler(respond)
    api.expect_request(weather_sources.AIR).respond_with_handler(respond)
    caplog.set_level("DEBUG")
    if error:
        with pytest.raises(SourceError, match=error) as caught:
            fetch("", key=KEY)
        seen = [str(caught.value), repr(caught.value.__cause__)]
    else:
        observations, _ = fetch("", key=KEY)
        seen = [repr(one) for one in observations]
    texts = [f"{record.getMessage()} {record.args!r}" for record in caplog.records if record.name != "werkzeug"]
    for text in [*seen, *texts]:
        assert not [spelling for spelling in SPELLINGS if spelling.lower() in text.lower()], text
    assert len(api.log) >= (4 if error and "4 tries" in error else 1)


def test_a_place_that_is_rejected_does_not_stop_the_next(httpserver: HTTPServer) -> None:
    bad = {"lat": str(AIRPORTS["LHR"].lat), "lon": str(AIRPORTS["LHR"].lon), "units": "metric"}
    httpserver.expect_request(weather_sources.WEATHER, query_string=bad | {"appid": "stand-in-key"}).respond_with_data(
        "[]"
    )
    httpserver.expect_request(weather_sources.WEATHER).respond_with_json(weather_body())
    httpserver.expect_request(weather_sources.AIR).respond_with_json(air_body())
    assert assert_same(httpserver.url_for("").rstrip("/"), "LHR,BOS") == (1, 1)


def test_an_api_that_is_away_is_named() -> None:
    with pytest.raises(SourceError, match=r"fake:openweather at http://127\.0\.0\.1:1 does not answer"):
        fetch("http://127.0.0.1:1")


@pytest.mark.parametrize(("places", "text"), [("BOS,XXX", "FLIGHTS_PLACES has XXX"), (" , ", "has no place")])
def test_unknown_places_are_named(places: str, text: str) -> None:
    with pytest.raises(SourceError, match=text):
        fetch("http://127.0.0.1:1", places)
