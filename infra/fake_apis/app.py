"""The endpoints of the stand-in APIs, with the documented errors."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import JSONResponse

from infra.fake_apis import NAME
from infra.fake_apis.data import make_air_pollution, make_flights, make_weather

INVALID_KEY = "invalid"
PAGE_ROWS = 100

app = FastAPI(title=NAME, docs_url=None, redoc_url=None, openapi_url=None)

Text = Annotated[str, Query()]


@app.get("/health")
def report_health() -> dict[str, str]:
    """Say whose port this is."""
    return {"name": NAME, "status": "ok"}


@app.get("/data/2.5/weather")
def answer_weather(lat: Text = "", lon: Text = "", appid: Text = "", units: Text = "standard") -> JSONResponse:
    """OpenWeather's current weather. `units` is standard (kelvin and m/s), metric (°C) or imperial (°F, mph)."""
    fault, place = _check_place(lat, lon, appid)
    return fault or JSONResponse(make_weather(*place, units, datetime.now(UTC)))


@app.get("/data/2.5/air_pollution")
def answer_air_pollution(lat: Text = "", lon: Text = "", appid: Text = "") -> JSONResponse:
    """OpenWeather's air pollution."""
    fault, place = _check_place(lat, lon, appid)
    return fault or JSONResponse(make_air_pollution(*place, datetime.now(UTC)))


@app.get("/v1/flights")
def answer_flights(access_key: Text = "", limit: Text = "100", offset: Text = "0") -> JSONResponse:
    """AviationStack's flights."""
    if not access_key:
        return _fail_flights(401, "missing_access_key", "You have not supplied an API Access Key.")
    if access_key == INVALID_KEY:
        return _fail_flights(401, "invalid_access_key", "You have not supplied a valid API Access Key.")
    if not (limit.isdecimal() and offset.isdecimal() and 1 <= int(limit) <= PAGE_ROWS):
        return _fail_flights(422, "validation_error", f"limit must be 1 to {PAGE_ROWS}, offset at least 0.")
    rows = make_flights(datetime.now(UTC))
    start = int(offset)
    page = rows[start : start + int(limit)]
    pagination = {"limit": int(limit), "offset": start, "count": len(page), "total": len(rows)}
    return JSONResponse({"pagination": pagination, "data": page})


def _fail_flights(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status)


def _check_place(lat: str, lon: str, key: str) -> tuple[JSONResponse | None, tuple[float, float]]:
    if key in ("", INVALID_KEY):
        message = "Invalid API key. Please see https://openweathermap.org/faq#error401 for more info."
        return JSONResponse({"cod": 401, "message": message}, 401), (0, 0)
    numbers = []
    for name, text, highest in (("latitude", lat, 90), ("longitude", lon, 180)):
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not abs(number) <= highest:
            return JSONResponse({"cod": "400", "message": f"wrong {name}" if text else "Nothing to geocode"}, 400), (
                0,
                0,
            )
        numbers.append(number)
    return None, (numbers[0], numbers[1])
