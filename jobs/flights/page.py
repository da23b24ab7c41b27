"""The HTML page about the flights: delays by airport, weather against delay, a map. Charts are SVG, no scripts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from jobs.errors import ConfigurationError
from jobs.flights.airports import Airport
from jobs.flights.contract import STATUSES
from jobs.flights.figures import (
    LATE_MIN,
    MAX_FLIGHTS,
    WEATHER_WITHIN,
    WIND_BINS,
    WIND_STEP,
    Delays,
    Figures,
    Latest,
    read_figures,
)
from jobs.flights.vertical import FlightsSettings
from jobs.pages.charts import WIDTH, Bar, Part, draw_bars, draw_counts, draw_legend, draw_rectangle, make_table, wrap
from jobs.pages.page import Page, render, write

STATUS_COLOURS = dict(zip(STATUSES, ("#b9c6d6", "#5b8fd0", "#3d9a63", "#d0453f", "#8a2d2a", "#f0a33c"), strict=True))
# By the mean delay in minutes, rounded as it is shown: below this, this colour.
LEVELS = ((5, "#8fbbe6"), (15, "#3f78bd"), (30, "#f0a33c"), (math.inf, "#d0453f"))
UNKNOWN = "#9aa5b1"
NO_BREAK = "\N{NO-BREAK SPACE}"
HEIGHT, BOTTOM = 240, 52  # px

# Of the map: px, and degrees.
MAP_WIDTH, MARGIN_DEG, GRID_DEG, MIN_SPAN_DEG = 1000, 12, 30, 20
WIDEST = 2.4  # width of the map by its height, at most
MIN_RADIUS, MAX_RADIUS = 4, 11
CHARACTER, LINE, GAP = 9, 14, 3  # px of a label


def write_page(settings: FlightsSettings) -> Path:
    """Write the page and return its path.

    Raises:
        ConfigurationError: there is no data yet, or a store rejects its password.
        ServiceUnavailableError: MySQL or Cassandra does not answer.
    """
    figures = read_figures(settings)
    if not figures.delays.flights and not figures.latest:
        raise ConfigurationError("MySQL and Cassandra have no flights and no weather yet. Run `make flights-demo`.")
    return write(settings.flights_page, render_page(figures))


def render_page(figures: Figures) -> str:
    """Render the page."""
    delays = figures.delays
    wind_note = (
        "<p>Wind in m/s at the departure airport, at most "
        f"{WEATHER_WITHIN.total_seconds() / 60:.0f} minutes from the scheduled departure; "
        "below, the number of flights</p>"
    )
    air_note = "<p>Wind in m/s; air quality by OpenWeather's index: 1 is good, 5 is very poor</p>"
    return render(
        Page(
            title="flights",
            heading="Flights and weather",
            span=_describe_span(figures),
            warnings=_describe_fakes(figures),
            headlines={
                "Flights": f"{delays.flights:,}",
                "Departure airports": f"{len(figures.by_airport):,}",
                f"More than {LATE_MIN} min late": _format_share(delays),
                "Mean delay": _format_minutes(delays.mean_min),
                "Weather observations": f"{figures.observations:,}",
            },
            cards={
                "Departure airports": draw_map(figures.by_airport),
                "Mean delay by wind": draw_winds(figures.by_wind) + wind_note,
                "Flights by status": draw_counts(figures.statuses, STATUS_COLOURS),
                "Mean delay by departure airport": draw_airports(figures.by_airport),
                "Latest weather": make_table([_make_row(it) for it in figures.latest]) + air_note,
            },
            source=f"The newest flights in MySQL, at most {MAX_FLIGHTS:,}, and the weather of their airports and days "
            "in Cassandra. Times are in UTC.",
        )
    )


def _describe_span(figures: Figures) -> str:
    if figures.first is None or figures.last is None:
        return "No flights yet"
    return f"Scheduled departures from {figures.first:%Y-%m-%d %H:%M} to {figures.last:%Y-%m-%d %H:%M} UTC"


def _describe_fakes(figures: Figures) -> list[str]:
    if not figures.fake_flights and not figures.fake_observations:
        return []
    return [
        f"Fake data: {figures.fake_flights:,} of {figures.delays.flights:,} flights and {figures.fake_observations:,} "
        f"of {figures.observations:,} weather observations come from generators or stand-in APIs (their source is "
        "faker or starts with fake:)."
    ]


def _format_minutes(minutes: float | None) -> str:
    return "–" if minutes is None else f"{minutes:,.0f} min"


def _format_share(delays: Delays) -> str:
    return "–" if delays.late_share is None else f"{delays.late_share:.0%}"


def _find_colour(minutes: float | None) -> str:
    return UNKNOWN if minutes is None else next(colour for below, colour in LEVELS if round(minutes) < below)


def _describe(delays: Delays) -> str:
    noun = "flight" if delays.flights == 1 else "flights"
    return f"{_format_minutes(delays.mean_min)}, {_format_share(delays)} late, {delays.flights:,} {noun}"


def _make_row(latest: Latest) -> dict[str, object]:
    return {
        "place": f"{latest.airport.iata} {latest.airport.city}",
        "UTC": f"{latest.observed_at:%d %b %H:%M}".replace(" ", NO_BREAK),
        "°C": latest.temperature,
        "m/s": latest.wind_speed,
        "condition": latest.condition,
        "air": latest.aqi,
    }


def draw_airports(airports: Mapping[Airport, Delays]) -> str:
    """A bar for each airport: its mean delay."""
    bars = []
    for airport, delays in sorted(airports.items(), key=lambda item: -(item[1].mean_min or 0)):
        title = f"{airport.name}, {airport.city}: {_describe(delays)}"
        part = Part(delays.mean_min or 0, _find_colour(delays.mean_min), title)
        bars.append(Bar(airport.iata, [part], _describe(delays)))
    return draw_bars(bars, label=52, room=300)


def draw_winds(winds: Mapping[int, Delays]) -> str:
    """A column for each bin of the wind speed, up to the last with flights."""
    if not winds:
        return "<p>None</p>"
    width = WIDTH / (max(winds) + 1)
    scale = (HEIGHT - BOTTOM - 28) / max(1, *(delays.mean_min or 0 for delays in winds.values()))
    shapes = [f'<path d="M0 {HEIGHT - BOTTOM}H{WIDTH}" stroke="#c9d2dd"/>']
    for number in range(max(winds) + 1):
        delays, centre = winds.get(number, Delays()), (number + 0.5) * width
        name = (
            f"{number * WIND_STEP}+" if number == WIND_BINS - 1 else f"{number * WIND_STEP}–{(number + 1) * WIND_STEP}"
        )
        height = max(0, delays.mean_min or 0) * scale
        top = HEIGHT - BOTTOM - height
        title = f"{name} m/s: {_describe(delays)}"
        bar = draw_rectangle(
            (number * width + width * 0.1, top), (width * 0.8, height), _find_colour(delays.mean_min), title
        )
        texts = ((top - 8, _format_minutes(delays.mean_min)), (HEIGHT - 30, name), (HEIGHT - 6, f"{delays.flights:,}"))
        shapes.append(bar)
        shapes += [
            f'<text x="{centre:.1f}" y="{y:.1f}" font-size="14" text-anchor="middle">{text}</text>' for y, text in texts
        ]
    return wrap(shapes, HEIGHT)


class Box(NamedTuple):
    """A rectangle on the map, in px."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


class Projection(NamedTuple):
    """Equirectangular: a degree has the same length everywhere. The part of the world from west to east."""

    west: float
    north: float
    scale: float  # px per degree
    height: float  # px

    def project(self, lat: float, lon: float) -> tuple[float, float]:
        return (lon - self.west) * self.scale, (self.north - lat) * self.scale


def fit_projection(points: Sequence[tuple[float, float]]) -> Projection:
    """The part of the world with all points (latitude and longitude in degrees), and a margin."""
    lats, lons = zip(*points, strict=True)
    south, north = _widen(min(lats), max(lats), MIN_SPAN_DEG, 90)
    west, east = _widen(min(lons), max(lons), (north - south) * 1.6, 180)
    south, north = _widen(min(lats), max(lats), (east - west) / WIDEST, 90)
    scale = MAP_WIDTH / (east - west)
    return Projection(west, north, scale, (north - south) * scale)


def _widen(low: float, high: float, span: float, limit: float) -> tuple[float, float]:
    """A range with a margin and at least a span, within -limit to limit."""
    span = min(2 * limit, max(span, high - low + 2 * MARGIN_DEG))
    start = max(-limit, min((low + high - span) / 2, limit - span))
    return start, start + span


def draw_map(airports: Mapping[Airport, Delays]) -> str:
    """A circle for each airport; the larger, the more flights. Its colour is the mean delay."""
    if not airports:
        return "<p>None</p>"
    projection = fit_projection([(airport.lat, airport.lon) for airport in airports])
    most = max(delays.flights for delays in airports.values())
    circles = {}
    for airport, delays in sorted(airports.items(), key=lambda item: -item[1].flights):
        x, y = projection.project(airport.lat, airport.lon)
        circles[airport] = (x, y, max(MIN_RADIUS, MAX_RADIUS * math.sqrt(delays.flights / most)))
    shapes = [f'<rect width="{MAP_WIDTH}" height="{projection.height:.0f}" fill="#eaf1f8"/>', *_draw_grid(projection)]
    labels = place_labels({airport.iata: circle for airport, circle in circles.items()}, (MAP_WIDTH, projection.height))
    for airport, (x, y, _) in circles.items():
        if box := labels.get(airport.iata):
            end_x, end_y = max(box.left, min(x, box.right)), max(box.top, min(y, box.bottom))
            shapes.append(f'<path d="M{x:.1f} {y:.1f}L{end_x:.1f} {end_y:.1f}" stroke="#7d8a9a" stroke-width="0.8"/>')
    for airport, (x, y, radius) in circles.items():
        delays = airports[airport]
        title = f"{airport.iata} {airport.name}, {airport.city}: {_describe(delays)}"
        shapes.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{_find_colour(delays.mean_min)}" '
            f'fill-opacity="0.9" stroke="#fff"><title>{escape(title)}</title></circle>'
        )
    for iata, box in labels.items():
        x, y = (box.left + box.right) / 2, box.bottom - 3
        shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="13" font-weight="600" text-anchor="middle">{escape(iata)}</text>'
        )
    return _draw_levels() + wrap(shapes, projection.height, width=MAP_WIDTH, kind="map")


def _draw_levels() -> str:
    limits = [level for level, _ in LEVELS]
    names = [
        f"below {limits[0]} min",
        *(f"{low}–{high} min" for low, high in pairwise(limits[:-1])),
        f"{limits[-2]} min and more",
        "not known",
    ]
    colours = [*(colour for _, colour in LEVELS), UNKNOWN]
    return draw_legend(dict(zip(names, colours, strict=True)))


def _draw_grid(projection: Projection) -> Iterator[str]:
    """Lines of latitude and longitude, with their degrees."""
    line = 'stroke="#cbd8e6" stroke-width="1"'
    text = 'font-size="11" fill="#7d8a9a"'
    for lon in range(-180, 181, GRID_DEG):
        x, _ = projection.project(0, lon)
        if 0 < x < MAP_WIDTH:
            yield f'<path d="M{x:.1f} 0V{projection.height:.1f}" {line}/>'
            yield f'<text x="{x + 3:.1f}" y="{projection.height - 4:.1f}" {text}>{_format_degrees(lon, "EW")}</text>'
    for lat in range(-90, 91, GRID_DEG):
        _, y = projection.project(lat, 0)
        if 0 < y < projection.height:
            yield f'<path d="M0 {y:.1f}H{MAP_WIDTH}" {line}/>'
            yield f'<text x="3" y="{y - 3:.1f}" {text}>{_format_degrees(lat, "NS")}</text>'


def _format_degrees(degrees: int, letters: str) -> str:
    letter = "" if degrees in (0, 180, -180) else letters[degrees < 0]
    return f"{abs(degrees)}°{letter}"


def place_labels(circles: Mapping[str, tuple[float, float, float]], size: tuple[float, float]) -> dict[str, Box]:
    """Where each label is: as near to its circle as it fits between the circles and the labels before it.

    A label that fits nowhere is left out.

    Args:
        circles: centre and radius by label.
        size: of the map.
    """
    width, height = size
    taken = [Box(x - r, y - r, x + r, y + r) for x, y, r in circles.values()]
    placed: dict[str, Box] = {}
    for label, (x, y, radius) in circles.items():
        half = len(label) * CHARACTER / 2
        for distance in range(GAP, 90, 6):
            boxes = []
            for turn in range(0, 360, 30):
                dx, dy = math.cos(math.radians(turn)), math.sin(math.radians(turn))
                centre_x = x + dx * (radius + distance + half)
                centre_y = y + dy * (radius + distance + LINE / 2)
                boxes.append(Box(centre_x - half, centre_y - LINE / 2, centre_x + half, centre_y + LINE / 2))
            fits = [
                box
                for box in boxes
                if box.left >= 0 and box.top >= 0 and box.right <= width and box.bottom <= height
                if not any(box.overlaps(other) for other in (*taken, *placed.values()))
            ]
            if fits:
                placed[label] = fits[0]
                break
    return placed
