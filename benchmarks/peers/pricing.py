"""Prices one ride at a time, as straightforward code does. No dependencies."""

from __future__ import annotations

from collections.abc import Callable
from math import asin, cos, radians, sin, sqrt
from typing import Any

MEAN_EARTH_RADIUS_KM = 6371.0088
COMFORTS = {"eco": "low", "comfort": "medium", "business": "high"}

Point = dict[str, float]


def haversine(origin: Point, destination: Point) -> float:
    """Kilometres on a sphere; jobs/rides/distance.py has the same formula for columns, and its source."""
    phi_1, phi_2 = radians(origin["lat"]), radians(destination["lat"])
    half_lambda = radians(destination["lon"] - origin["lon"]) / 2
    a = sin((phi_2 - phi_1) / 2) ** 2 + cos(phi_1) * cos(phi_2) * sin(half_lambda) ** 2
    return 2 * MEAN_EARTH_RADIUS_KM * asin(sqrt(min(a, 1.0)))


def price(ride: dict[str, Any], distance: Callable[[Point, Point], float] = haversine) -> dict[str, Any]:
    """The ride with distance_km and price_total.

    Raises:
        KeyError, TypeError, ValueError: the ride is invalid.
    """
    kilometres = distance(ride["origin"], ride["destination"])
    total = ride["price_base"] + kilometres * ride["price_per_km"] + ride["duration_min"] * ride["price_per_min"]
    comfort = COMFORTS.get(ride["comfort"], ride["comfort"])
    return {**ride, "comfort": comfort, "distance_km": kilometres, "price_total": total}
