"""OpenWeather's answers, good and bad."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytest_httpserver import HTTPServer

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.flights.contract import Reject, Weather
from jobs.flights.sources import openweather
from jobs.flights.sources.http import TRIES
from jobs.flights.sources.openweather import AIR, WEATHER, collect
from jobs.flights.vertical import FlightsSettings
from tests.testkit.apis import air_body, weather_body
from tests.unit.flights.apis.conftest import FakeQuota


def serve(httpserver: HTTPServer, weather: Any = None, air: Any = None, status: int = 200) -> None:
    """Answer with these bodies: objects, or bytes as they are."""
    for path, body in ((WEATHER, weather or weather_body()), (AIR, air or air_body())):
        data = body if isinstance(body, bytes) else json.dumps(body)
        httpserver.expect_request(path).respond_with_data(data, status=status)


def test_weather_and_air_quality_are_one_observation(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    wet = weather_body(rain={"1h": 0.25}, snow={"1h": 1.5}, wind={"speed": 9, "deg": 10, "gust": 14.5})
    serve(httpserver, wet)
    (weather,) = collect(settings)
    assert isinstance(weather, Weather)
    assert weather.source == "fake:openweather"
    assert weather.position == httpserver.url_for(f"{WEATHER}?lat=42.3643&lon=-71.0052&units=metric")
    assert (weather.place_id, weather.lat, weather.lon, weather.units) == ("BOS", 42.3656, -71.0096, "metric")
    assert weather.observed_at == "2026-01-05T12:00:00.000000Z"
    assert weather.air_observed_at == "2026-01-05T11:00:00.000000Z"
    assert (weather.temperature, weather.feels_like, weather.pressure_hpa, weather.humidity_pct) == (20.5, 20, 1015, 60)
    assert (weather.wind_speed, weather.wind_deg, weather.wind_gust) == (9, 10, 14.5)
    assert (weather.clouds_pct, weather.visibility_m, weather.rain_1h_mm, weather.snow_1h_mm) == (5, 10000, 0.25, 1.5)
    assert (weather.condition, weather.description) == ("Clear", "clear sky")
    assert (weather.aqi, weather.pm2_5, weather.pm10, weather.no2, weather.o3) == (2, 7.25, 9, 5.5, 40)


def test_what_is_absent_is_none_and_not_zero(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    serve(httpserver)
    (weather,) = collect(settings)
    assert isinstance(weather, Weather)
    assert (weather.rain_1h_mm, weather.snow_1h_mm, weather.wind_gust) == (None, None, None)


def test_the_same_observation_has_the_same_id(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    serve(httpserver)
    (first,), (second,) = collect(settings), collect(settings)
    assert isinstance(first, Weather)
    assert isinstance(second, Weather)
    assert first.event_id == second.event_id
    assert first.fetched_at < second.fetched_at


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>Bad gateway</html>", "invalid_json"),
        (b'{"coord": {"lon": 1', "invalid_json"),
        (b"[]", "not_an_object"),
        ({"cod": "404", "message": "city not found"}, "error_in_body"),
        ({"cod": 400, "message": "wrong latitude"}, "error_in_body"),
        ({"cod": None, "message": "odd"}, "error_in_body"),
        ({"cod": 200}, "missing_data"),
        (weather_body(main=None), "missing_data"),
        (weather_body(dt=None), "missing_field"),
        (weather_body(coord=None), "missing_field"),
        (weather_body(dt="now"), "wrong_type"),
        (weather_body(dt=1_767_614_400_000), "invalid_timestamp"),
        (weather_body(wind=[]), "wrong_type"),
        (weather_body(weather=["rain"]), "wrong_type"),
        (weather_body(main={"temp": "20"}), "wrong_type"),
        (weather_body(main={"temp": 293.6}), "wrong_units"),
        (weather_body(coord={"lat": 142, "lon": 0}), "impossible_coordinates"),
        (weather_body(main={"temp": 20, "humidity": 120}), "out_of_range"),
    ],
)
def test_a_bad_body_is_one_reject(httpserver: HTTPServer, settings: FlightsSettings, body: Any, reason: str) -> None:
    serve(httpserver, body)
    (reject,) = collect(settings)
    assert isinstance(reject, Reject)
    assert reject.reason == reason
    assert reject.value == (body if isinstance(body, bytes) else json.dumps(body).encode())
    assert reject.origin.position.startswith(httpserver.url_for(WEATHER))
    assert len(httpserver.log) == 1  # the air quality is not asked for


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "invalid_json"),
        ({"cod": "404", "message": "no data"}, "error_in_body"),
        ({"coord": {}}, "missing_data"),
        ({"list": []}, "missing_data"),
        ({"list": {"main": {}}}, "wrong_type"),
        (air_body(main={"aqi": 9}), "out_of_range"),
        (air_body(dt="noon"), "wrong_type"),
    ],
)
def test_bad_air_quality_does_not_cost_the_weather(
    httpserver: HTTPServer, settings: FlightsSettings, body: Any, reason: str
) -> None:
    serve(httpserver, air=body)
    weather, reject = collect(settings)
    assert isinstance(weather, Weather)
    assert isinstance(reject, Reject)
    assert weather.temperature == 20.5
    assert (weather.aqi, weather.pm2_5, weather.air_observed_at) == (None, None, None)
    assert reject.reason == reason
    assert reject.origin.position.startswith(httpserver.url_for(AIR))


def test_a_place_that_is_not_found_does_not_stop_the_next(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    settings = settings.model_copy(update={"flights_places": "LHR, BOS"})
    gone = {"cod": "404", "message": "city not found"}
    httpserver.expect_ordered_request(WEATHER).respond_with_json(gone, status=404)
    httpserver.expect_ordered_request(WEATHER).respond_with_json(weather_body())
    httpserver.expect_ordered_request(AIR).respond_with_json(air_body())
    reject, weather = collect(settings)
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.detail) == ("error_in_body", "404: city not found")
    assert isinstance(weather, Weather)
    assert weather.place_id == "BOS"


@pytest.mark.parametrize("status", [200, 401])
def test_a_rejected_key_names_the_causes(httpserver: HTTPServer, settings: FlightsSettings, status: int) -> None:
    serve(httpserver, {"cod": 401, "message": "Invalid API key."}, status=status)
    with pytest.raises(ConfigurationError, match=r"Invalid API key.*up to two hours.*One Call.*OPENWEATHER_KEY"):
        list(collect(settings))
    assert len(httpserver.log) == 1


@pytest.mark.parametrize("status", [200, 429])
def test_a_blocked_account_uses_up_the_minute(
    httpserver: HTTPServer, settings: FlightsSettings, fake_quota: FakeQuota, status: int
) -> None:
    httpserver.expect_ordered_request(WEATHER).respond_with_json({"cod": 429, "message": "blocked"}, status=status)
    httpserver.expect_ordered_request(WEATHER).respond_with_json(weather_body())
    httpserver.expect_ordered_request(AIR).respond_with_json(air_body())
    (weather,) = collect(settings)
    assert isinstance(weather, Weather)
    assert fake_quota.marked == ["minute"]
    assert fake_quota.charges == 3


@pytest.mark.parametrize("cod", [500, "503"])
def test_a_server_error_with_status_200_is_tried_again(
    httpserver: HTTPServer, settings: FlightsSettings, cod: Any
) -> None:
    serve(httpserver, {"cod": cod, "message": "internal error"})
    with pytest.raises(ServiceUnavailableError, match=rf"after {TRIES} tries.*internal error"):
        list(collect(settings))
    assert len(httpserver.log) == TRIES


def test_a_key_selects_the_real_source(
    httpserver: HTTPServer, settings: FlightsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert openweather._describe(settings.model_copy(update={"flights_openweather_key": "k"})).url == (
        "https://api.openweathermap.org"
    )
    monkeypatch.setattr(openweather, "URL", httpserver.url_for("").rstrip("/"))
    serve(httpserver)
    (weather,) = collect(settings.model_copy(update={"flights_openweather_key": "k", "flights_apis_url": ""}))
    assert isinstance(weather, Weather)
    assert weather.source == "openweather"
    assert httpserver.log[0][0].args["appid"] == "k"


def test_an_unknown_place_stops_the_run_before_a_request(httpserver: HTTPServer, settings: FlightsSettings) -> None:
    with pytest.raises(ConfigurationError, match=r"FLIGHTS_PLACES has XXX, .*ABJ, ADD"):
        list(collect(settings.model_copy(update={"flights_places": "BOS,XXX"})))
    assert httpserver.log == []
