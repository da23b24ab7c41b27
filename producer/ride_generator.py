"""Generates plausible rides from a city's hot spots, hours, traffic and fares.

The same city and seed give the same rides at any time. Only `ts` comes from a clock; it is reproducible if the clock is
(`spread` with a fixed start).

The figures are plausible assumptions, not the data of a year or a company:

- Demand by hour follows the shape of New York's taxi trip records: lowest before 5 in the morning, highest around 18.
- A ride links two hot spots, drawn by a gravity model: the pull of both places, reduced by the distance.
- Speeds are along the straight line, because distances are computed from coordinates. Streets are longer by 25 to 33 %
  (4/pi on average on a right-angled grid), so 12 km/h here is about 15-16 km/h on the street.
- Fares are in the range of ride-hailing tariffs: a booking fee plus rates per km and per minute, and a surge factor on
  all three that is more frequent when demand is high.
"""

from __future__ import annotations

import math
import random
import uuid
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate, pairwise
from typing import Any, Literal

from geopy.distance import great_circle

# A ride by the contract of `rides_raw`, before it is encoded as JSON.
Ride = dict[str, Any]
Clock = Callable[[], datetime]

Kind = Literal["home", "work", "leisure", "travel"]

KM_PER_DEGREE = 111.195  # of latitude, on a sphere of mean Earth radius

# Relative number of rides in each hour of the local day.
DEMAND = (52, 37, 27, 19, 15, 18, 36, 58, 72, 72, 69, 72, 76, 77, 82, 85, 83, 92, 100, 98, 90, 88, 84, 70)
# Speed in each hour of the local day, relative to the city's.
TRAFFIC = (
    *(1.35, 1.40, 1.45, 1.45, 1.45, 1.35, 1.15, 0.95, 0.82, 0.83, 0.88, 0.88),
    *(0.87, 0.88, 0.86, 0.82, 0.80, 0.78, 0.80, 0.90, 1.00, 1.08, 1.15, 1.25),
)
# How strongly a kind of place sends (first) and draws (second) riders at night, in the morning (from 6), around
# noon (from 11), in the evening (from 16) and late (from 21).
PULL: dict[Kind, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "home": ((0.5, 1.6, 0.8, 0.7, 0.6), (1.5, 0.5, 0.8, 1.3, 1.5)),
    "work": ((0.4, 0.5, 1.1, 1.6, 0.7), (0.3, 1.7, 1.1, 0.6, 0.4)),
    "leisure": ((1.6, 0.4, 0.8, 1.0, 1.5), (1.0, 0.4, 0.9, 1.5, 1.4)),
    "travel": ((0.6, 0.9, 1.1, 1.1, 1.0), (0.7, 1.3, 1.1, 1.0, 0.5)),
}
REACH_KM = 3.0  # distance at which the pull between two places has halved
SHORTEST_KM = 0.4
SCATTER_OF_LENGTH = 0.2  # standard deviation of a ride's length from the distance between its places, in ln(km)
SCATTER_OF_BEARING = 10.0  # standard deviation of its direction, in degrees
SCATTER_OF_SPEED = 0.18  # standard deviation of its speed from the typical one for hour and length, in ln(km/h)

COMFORTS = ("low", "medium", "high")
COMFORT_SHARES = (0.62, 0.27, 0.11)
ALIASES = {"low": "eco", "medium": "comfort", "high": "business"}
ALIAS_SHARE = 0.03
SURGES = (1.0, 1.2, 1.5, 2.0)


@dataclass(frozen=True)
class Place:
    """A hot spot. Degrees; `scatter_km` is the standard deviation of origins around it; `weight` is relative."""

    name: str
    lat: float
    lon: float
    scatter_km: float
    weight: float
    kind: Kind


@dataclass(frozen=True)
class Fare:
    """A tariff before surge, in the city's currency."""

    base: float
    per_km: float
    per_min: float


@dataclass(frozen=True)
class City:
    """A city.

    Attributes:
        utc_offset_h: UTC offset of standard time (the demand curve ignores daylight saving time).
        slow_kmh: straight-line speed of the shortest rides.
        fast_kmh: straight-line speed that long rides approach.
    """

    name: str
    utc_offset_h: int
    slow_kmh: float
    fast_kmh: float
    places: tuple[Place, ...]
    fares: dict[str, Fare]


NEW_YORK = City(
    name="new-york",
    utc_offset_h=-5,
    slow_kmh=12.0,
    fast_kmh=32.0,
    places=(
        Place("Midtown", 40.7549, -73.9840, 0.80, 16, "work"),
        Place("Financial District", 40.7075, -74.0100, 0.45, 9, "work"),
        Place("Downtown Brooklyn", 40.6930, -73.9870, 0.55, 6, "work"),
        Place("Theater District", 40.7590, -73.9855, 0.40, 8, "leisure"),
        Place("Chelsea", 40.7465, -73.9990, 0.50, 8, "leisure"),
        Place("East Village", 40.7265, -73.9830, 0.50, 8, "leisure"),
        Place("Williamsburg", 40.7130, -73.9560, 0.60, 6, "leisure"),
        Place("Upper East Side", 40.7736, -73.9600, 0.70, 9, "home"),
        Place("Upper West Side", 40.7870, -73.9740, 0.70, 7, "home"),
        Place("Harlem", 40.8116, -73.9465, 0.70, 5, "home"),
        Place("Park Slope", 40.6710, -73.9790, 0.70, 4, "home"),
        Place("Long Island City", 40.7447, -73.9440, 0.50, 4, "home"),
        Place("Astoria", 40.7644, -73.9200, 0.70, 4, "home"),
        Place("Concourse", 40.8290, -73.9210, 0.80, 3, "home"),
        Place("Pennsylvania Station", 40.7506, -73.9935, 0.20, 6, "travel"),
        Place("LaGuardia Airport", 40.7745, -73.8720, 0.35, 7, "travel"),
        Place("John F. Kennedy Airport", 40.6446, -73.7850, 0.45, 8, "travel"),
    ),
    fares={"low": Fare(2.55, 1.09, 0.35), "medium": Fare(3.85, 1.77, 0.50), "high": Fare(7.00, 2.33, 0.65)},
)
PARIS = City(
    name="paris",
    utc_offset_h=1,
    slow_kmh=12.5,
    fast_kmh=34.0,
    places=(
        Place("La Défense", 48.8918, 2.2400, 0.45, 9, "work"),
        Place("Opéra", 48.8706, 2.3322, 0.55, 10, "work"),
        Place("Bercy", 48.8385, 2.3800, 0.45, 5, "work"),
        Place("Châtelet", 48.8595, 2.3470, 0.40, 9, "leisure"),
        Place("Champs-Élysées", 48.8698, 2.3078, 0.50, 9, "leisure"),
        Place("Bastille", 48.8533, 2.3700, 0.45, 8, "leisure"),
        Place("Montmartre", 48.8850, 2.3410, 0.50, 6, "leisure"),
        Place("Quartier latin", 48.8490, 2.3450, 0.45, 6, "leisure"),
        Place("Belleville", 48.8720, 2.3800, 0.55, 5, "home"),
        Place("Batignolles", 48.8870, 2.3180, 0.50, 5, "home"),
        Place("Passy", 48.8570, 2.2780, 0.50, 5, "home"),
        Place("Boulogne-Billancourt", 48.8380, 2.2410, 0.70, 5, "home"),
        Place("Vincennes", 48.8474, 2.4370, 0.60, 3, "home"),
        Place("Montparnasse", 48.8420, 2.3219, 0.30, 6, "travel"),
        Place("Gare du Nord", 48.8809, 2.3553, 0.25, 7, "travel"),
        Place("Gare de Lyon", 48.8443, 2.3743, 0.25, 6, "travel"),
        Place("Aéroport d'Orly", 48.7290, 2.3650, 0.45, 6, "travel"),
        Place("Aéroport Charles-de-Gaulle", 49.0045, 2.5600, 0.70, 8, "travel"),
    ),
    fares={"low": Fare(1.80, 1.15, 0.30), "medium": Fare(2.60, 1.45, 0.38), "high": Fare(7.00, 2.10, 0.60)},
)
CITIES = {city.name: city for city in (NEW_YORK, PARIS)}


def now() -> datetime:
    """The clock for rides that take place while they are sent."""
    return datetime.now(UTC)


def spread(start: datetime, length: timedelta, rides: int, city: City, seed: int) -> Clock:
    """A clock that spreads `rides` rides over [start, start + length) in ascending order, by demand."""
    ticks = _spread_times(start, length, rides, city, random.Random(f"{seed}:clock"))
    return lambda: next(ticks)


def make_rides(city: City, seed: int, clock: Clock, *, fixed_start: bool = False) -> Iterator[Ride]:
    """Generate endless rides. Each ride reads the clock once.

    Args:
        fixed_start: whether the clock is reproducible. Then demand, traffic and surge follow the local hour of `ts`.
            Otherwise each ride draws a random hour, so that a seed gives the same rides at any time.
    """
    # The city is part of the seed, so that two cities with the same seed have different ride_ids.
    rng = random.Random(f"{seed}:{city.name}")
    uniform, gauss = rng.random, rng.gauss
    sphere = great_circle()
    places = city.places
    km_per_degree_lon = [KM_PER_DEGREE * math.cos(math.radians(place.lat)) for place in places]
    legs = [[_measure_leg(one, other) for other in places] for one in places]
    origins = [_cumulate([_weigh(place, hour, origin=True) for place in places]) for hour in range(24)]
    destinations = [
        [_weigh_destinations(legs[start], places, hour) for start in range(len(places))] for hour in range(24)
    ]
    hours = _cumulate(DEMAND)
    surges = [_cumulate(_weigh_surges(demand)) for demand in DEMAND]
    comforts = _cumulate(COMFORT_SHARES)
    fares = {
        comfort: [
            Fare(round(fare.base * surge, 2), round(fare.per_km * surge, 2), round(fare.per_min * surge, 2))
            for surge in SURGES
        ]
        for comfort, fare in city.fares.items()
    }

    while True:
        ride_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        drawn_hour = bisect(hours, uniform())
        ts = clock()
        hour = (ts.hour + city.utc_offset_h) % 24 if fixed_start else drawn_hour

        start = bisect(origins[hour], uniform())
        place = places[start]
        lat = round(place.lat + gauss(0.0, place.scatter_km) / KM_PER_DEGREE, 6)
        lon = round(place.lon + gauss(0.0, place.scatter_km) / km_per_degree_lon[start], 6)

        end = bisect(destinations[hour][start], uniform())
        leg_km, bearing = legs[start][end]
        if leg_km < 1.0:  # a short ride: any direction, about a kilometre
            leg_km, bearing = math.exp(gauss(0.2, 0.4)), 360.0 * uniform()
        km = max(SHORTEST_KM, leg_km * math.exp(gauss(0.0, SCATTER_OF_LENGTH)))
        point = sphere.destination((lat, lon), bearing + gauss(0.0, SCATTER_OF_BEARING), km)

        speed_kmh = _estimate_speed(city, km) * TRAFFIC[hour] * math.exp(gauss(0.0, SCATTER_OF_SPEED))
        comfort = COMFORTS[bisect(comforts, uniform())]
        fare = fares[comfort][bisect(surges[hour], uniform())]
        if uniform() < ALIAS_SHARE:
            comfort = ALIASES[comfort]
        yield {
            "ride_id": ride_id,
            "ts": format_rfc3339(ts),
            "origin": {"lat": lat, "lon": lon},
            "destination": {"lat": round(point.latitude, 6), "lon": round(point.longitude, 6)},
            "comfort": comfort,
            "duration_min": round(60.0 * km / speed_kmh, 2),
            "price_base": fare.base,
            "price_per_km": fare.per_km,
            "price_per_min": fare.per_min,
        }


def format_rfc3339(moment: datetime) -> str:
    """Format a UTC time by RFC 3339, with microseconds and `Z`."""
    return f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _spread_times(start: datetime, length: timedelta, rides: int, city: City, rng: random.Random) -> Iterator[datetime]:
    """Ascending times: at the k-th of n, the demand so far is (k + random) / n of the demand of the whole period."""
    edges = [start]
    while edges[-1] < start + length:
        next_hour = edges[-1].replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        edges.append(min(next_hour, start + length))
    rates = [DEMAND[(edge.hour + city.utc_offset_h) % 24] for edge in edges[:-1]]
    hours = [(end - begin).total_seconds() / 3600.0 for begin, end in pairwise(edges)]
    demand = [0.0, *accumulate(rate * hour for rate, hour in zip(rates, hours, strict=True))]
    index = 0
    for k in range(rides):
        wanted = demand[-1] * (k + rng.random()) / rides
        while index < len(rates) - 1 and demand[index + 1] <= wanted:
            index += 1
        yield edges[index] + timedelta(hours=(wanted - demand[index]) / rates[index])


def _estimate_speed(city: City, km: float) -> float:
    """The straight-line speed in km/h; long rides are faster."""
    return city.slow_kmh + (city.fast_kmh - city.slow_kmh) * (1.0 - math.exp(-km / 10.0))


def _measure_leg(one: Place, other: Place) -> tuple[float, float]:
    """Great-circle distance in km and initial bearing in degrees from one place to another."""
    lat1, lat2 = math.radians(one.lat), math.radians(other.lat)
    east = math.radians(other.lon - one.lon)
    bearing = math.atan2(
        math.sin(east) * math.cos(lat2),
        math.cos(lat1) * math.sin(lat2) - math.sin(lat1) * math.cos(lat2) * math.cos(east),
    )
    return float(great_circle((one.lat, one.lon), (other.lat, other.lon)).kilometers), math.degrees(bearing)


def _weigh(place: Place, hour: int, *, origin: bool) -> float:
    sends, draws = PULL[place.kind]
    return place.weight * (sends if origin else draws)[bisect((6, 11, 16, 21), hour)]


def _weigh_destinations(legs: list[tuple[float, float]], places: tuple[Place, ...], hour: int) -> list[float]:
    return _cumulate(
        [
            _weigh(place, hour, origin=False) / (1.0 + (km / REACH_KM) ** 1.5) * (1.0 if km else 0.5)
            for place, (km, _) in zip(places, legs, strict=True)
        ]
    )


def _weigh_surges(demand: float) -> tuple[float, ...]:
    """Shares of SURGES at a demand between 0 and 100: a third of the rides at the peak have a surge."""
    share = 0.35 * (demand / 100.0) ** 3
    return 1.0 - share, 0.6 * share, 0.3 * share, 0.1 * share


def _cumulate(weights: tuple[float, ...] | list[float]) -> list[float]:
    """Cumulative shares of the weights without the last one, so that `bisect` with a uniform draw picks an index."""
    total = sum(weights)
    return [end / total for end in accumulate(weights)][:-1]
