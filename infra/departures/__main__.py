"""Serves the departures page: `python -m infra.departures --host 127.0.0.1`. The port is FLIGHTS_DEPARTURES_PORT.

`?fault=empty` makes a page whose table never fills, `?fault=html` one that gets HTML in place of JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

from infra.departures.board import (
    FLIGHT_COLUMNS,
    PAGE_ROWS,
    WEATHER_COLUMNS,
    Row,
    list_departures,
    list_weather,
    start_of_hour,
)
from jobs.flights.vertical import FlightsSettings
from jobs.settings import LOOPBACK, load

PAGES = Path(__file__).with_name("pages")

PageNumber = Annotated[int, Query(ge=1, le=1000)]
Fault = Literal["empty", "html"] | None


def make_app(clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> FastAPI:
    app = FastAPI(title="Departures", openapi_url=None)

    def answer(
        columns: Row, list_rows: Callable[[datetime], Sequence[Row]], page: int, fault: Fault
    ) -> dict[str, Any] | Response:
        if fault == "html":
            return HTMLResponse("<!doctype html><title>502 Bad Gateway</title>")
        hour = start_of_hour(clock())
        rows = list_rows(hour)
        shown = rows[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
        return {
            "updated": f"{hour:%Y-%m-%dT%H:%M:%SZ}",
            "page": page,
            "pages": -(-len(rows) // PAGE_ROWS),
            "columns": columns,
            "rows": [] if fault == "empty" else shown,
        }

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"service": "departures"}

    @app.get("/departures.json", response_model=None)
    def departures(page: PageNumber = 1, fault: Fault = None) -> dict[str, Any] | Response:
        return answer(FLIGHT_COLUMNS, list_departures, page, fault)

    @app.get("/weather.json", response_model=None)
    def weather(page: PageNumber = 1, fault: Fault = None) -> dict[str, Any] | Response:
        return answer(WEATHER_COLUMNS, list_weather, page, fault)

    app.mount("/", StaticFiles(directory=PAGES))
    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.departures", description="Serve the departures page.")
    parser.add_argument("--host", default=LOOPBACK, help="Address to listen on. Default: %(default)s.")
    host = parser.parse_args().host
    port = load(FlightsSettings).flights_departures_port
    uvicorn.run(make_app(), host=host, port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
