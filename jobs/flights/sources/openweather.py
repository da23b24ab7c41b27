"""The weather and the air quality at airports, from OpenWeather.

Formats: https://openweathermap.org/current and https://openweathermap.org/api/air-pollution. Both come with every key.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx

from jobs.errors import ConfigurationError
from jobs.flights.airports import AIRPORTS, Airport
from jobs.flights.contract import (
    MAX_TEXT,
    Collected,
    Kind,
    Origin,
    Reason,
    Weather,
    format_time,
    make_reject,
    make_weather,
)
from jobs.flights.quota import Plan, list_openweather_plans
from jobs.flights.sources.http import (
    STAND_IN_KEY,
    STATUSES_TO_RETRY,
    TOO_MANY_REQUESTS,
    Api,
    ApiClient,
    parse_body,
    read_path,
)
from jobs.flights.vertical import FlightsSettings
from jobs.strict_json import RejectedError

URL = "https://api.openweathermap.org"
WEATHER = "/data/2.5/weather"
AIR = "/data/2.5/air_pollution"


def collect(settings: FlightsSettings) -> Iterator[Collected]:
    """The weather at each place of FLIGHTS_PLACES, in metric units. Without a key, from the stand-in.

    A place makes two requests. A body that cannot be used is one reject, and collection goes on with the next place.

    Raises:
        ConfigurationError: an unknown place, or OpenWeather rejects the key.
        QuotaUsedUpError: the month has no request left.
        ServiceUnavailableError: OpenWeather does not answer, or answers with 5xx after all tries.
    """
    airports = _read_places(settings)
    api = _describe(settings)
    with ApiClient(settings, api) as client:
        for airport in airports:
            yield from _collect_place(client, api.source, airport)


def _read_places(settings: FlightsSettings) -> list[Airport]:
    codes = [code.strip() for code in settings.flights_places.split(",") if code.strip()]
    if unknown := [code for code in codes if code not in AIRPORTS]:
        raise ConfigurationError(
            f"FLIGHTS_PLACES has {', '.join(unknown)}, which jobs/flights/airports.csv does not have. Use the IATA "
            f"codes {', '.join(sorted(AIRPORTS))}."
        )
    return [AIRPORTS[code] for code in dict.fromkeys(codes)]


def _describe(settings: FlightsSettings) -> Api:
    key = settings.flights_openweather_key
    plans = list_openweather_plans(settings)
    minute = next(plan for plan in plans if plan.period == "minute")

    def find_used_up(response: httpx.Response) -> Plan | None:
        return minute if _read_code(response) == TOO_MANY_REQUESTS else None

    return Api(
        source=minute.source,
        url=URL if key else settings.flights_apis,
        key_name="appid",
        key=key or STAND_IN_KEY,
        plans=plans,
        find_used_up=find_used_up,
        is_temporary=lambda response: _read_code(response) in STATUSES_TO_RETRY,
    )


def _read_code(response: httpx.Response) -> int:
    """The status of an answer: its body's `cod`, a number or a string, says it also when the HTTP status is 200."""
    if response.status_code != httpx.codes.OK:
        return response.status_code
    try:
        return int(parse_body(response).get("cod", httpx.codes.OK))
    except (RejectedError, TypeError, ValueError):
        return httpx.codes.OK  # not for us to judge: `_judge` rejects it


def _collect_place(client: ApiClient, source: str, airport: Airport) -> Iterator[Collected]:
    weather_origin, weather_answer = _ask(client, source, WEATHER, airport, units="metric")
    try:
        content = _read_weather(_judge(weather_answer, "main"), airport)
        weather = make_weather(content, weather_origin)
    except RejectedError as error:
        yield make_reject(Kind.WEATHER, weather_origin, error, weather_answer.content)
        return
    air_origin, air_answer = _ask(client, source, AIR, airport)
    try:
        yield _merge(content, _judge(air_answer, "list"), weather_origin)
    except RejectedError as error:
        yield weather
        yield make_reject(Kind.WEATHER, air_origin, error, air_answer.content)


def _ask(client: ApiClient, source: str, path: str, airport: Airport, **more: str) -> tuple[Origin, httpx.Response]:
    answer = client.get(path, {"lat": airport.lat, "lon": airport.lon, **more})
    return Origin(source, str(answer.request.url), format_time(datetime.now(UTC))), answer


def _judge(answer: httpx.Response, data: str) -> dict[str, Any]:
    """The body of an answer that has data.

    Args:
        data: the member that holds it.

    Raises:
        ConfigurationError: the key is rejected.
        RejectedError: the body has an error or no data.
    """
    code = _read_code(answer)
    if code == httpx.codes.UNAUTHORIZED:
        raise ConfigurationError(
            f"OpenWeather rejects the key: {answer.text[:MAX_TEXT]}. A new key works after up to two hours. A key for "
            "One Call only is of another plan: this collector needs /data/2.5. Set FLIGHTS_OPENWEATHER_KEY in .env, or "
            "leave it empty to use the stand-in."
        )
    body = parse_body(answer)
    if code != httpx.codes.OK:
        raise RejectedError(Reason.ERROR_IN_BODY, f"{code}: {str(body.get('message'))[:MAX_TEXT]}")
    if "cod" in body and str(body["cod"]) != "200":
        raise RejectedError(Reason.ERROR_IN_BODY, f"cod is {str(body['cod'])[:MAX_TEXT]!r}")
    if not body.get(data):
        raise RejectedError(Reason.MISSING_DATA, f"the body has no {data}")
    return body


def _read_weather(body: dict[str, Any], airport: Airport) -> dict[str, Any]:
    """The content of an observation. Members that are absent, such as rain, are None, not 0."""
    conditions = body.get("weather") or [{}]
    if not isinstance(conditions, list) or not isinstance(conditions[0], dict):
        raise RejectedError(Reason.WRONG_TYPE, "weather is not an array of objects")
    return {
        "observed_at": _read_time(body, "dt"),
        "place_id": airport.iata,
        "lat": read_path(body, "coord", "lat"),
        "lon": read_path(body, "coord", "lon"),
        "units": "metric",
        "temperature": read_path(body, "main", "temp"),
        "feels_like": read_path(body, "main", "feels_like"),
        "pressure_hpa": read_path(body, "main", "pressure"),
        "humidity_pct": read_path(body, "main", "humidity"),
        "visibility_m": body.get("visibility"),
        "wind_speed": read_path(body, "wind", "speed"),
        "wind_deg": read_path(body, "wind", "deg"),
        "wind_gust": read_path(body, "wind", "gust"),
        "clouds_pct": read_path(body, "clouds", "all"),
        "rain_1h_mm": read_path(body, "rain", "1h"),
        "snow_1h_mm": read_path(body, "snow", "1h"),
        "condition": conditions[0].get("main"),
        "description": conditions[0].get("description"),
    }


def _merge(content: dict[str, Any], body: dict[str, Any], origin: Origin) -> Weather:
    """The observation with the air quality."""
    entries = body["list"]
    if not isinstance(entries, list) or not isinstance(entries[0], dict):
        raise RejectedError(Reason.WRONG_TYPE, "list is not an array of objects")
    air = {name: read_path(entries[0], "components", name) for name in ("pm2_5", "pm10", "no2", "o3")}
    observed_at = _read_time(entries[0], "dt")
    aqi = read_path(entries[0], "main", "aqi")
    return make_weather({**content, **air, "air_observed_at": observed_at, "aqi": aqi}, origin)


def _read_time(members: dict[str, Any], name: str) -> str | None:
    seconds = members.get(name)
    if seconds is None:
        return None
    if type(seconds) is not int:
        raise RejectedError(Reason.WRONG_TYPE, f"{name} is a {type(seconds).__name__}, not a whole number of seconds")
    try:
        return format_time(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError) as error:
        raise RejectedError(Reason.INVALID_TIMESTAMP, f"{name} {seconds}: {error}") from error
