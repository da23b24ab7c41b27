"""Distances agree with geopy."""

from __future__ import annotations

import math
import random
from typing import Any

import geopy.distance
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import ConfigurationError
from jobs.rides.distance import MEAN_EARTH_RADIUS_KM, Distance, find_distance_function, geodesic, haversine

Place = tuple[float, float]
HALF_WAY_ROUND = math.pi * MEAN_EARTH_RADIUS_KM
# geopy's sphere is 6371.009 km, ours 6371.0088 km.
RADII = MEAN_EARTH_RADIUS_KM / geopy.distance.EARTH_RADIUS

PAIRS: dict[str, tuple[Place, Place]] = {
    "a ride": ((40.7549, -73.984), (40.6413, -73.7781)),
    "next door": ((48.8566, 2.3522), (48.85660001, 2.3522)),
    "same place": ((48.8566, 2.3522), (48.8566, 2.3522)),
    "pole to pole": ((90, 0), (-90, 0)),
    "the same pole": ((90, 10), (90, -170)),
    "over the pole": ((89.9, 0), (89.9, 180)),
    "over the date line": ((10, 179.9), (10, -179.9)),
    "the date line twice": ((10, 180), (10, -180)),
    "antipodes on the equator": ((0, 0), (0, 180)),
    "antipodes": ((40.7, -74), (-40.7, 106)),
    "nearly antipodes": ((0.5, 0), (-0.5, 179.7)),
    "a quarter": ((0, 0), (0, 90)),
    "around the world": ((51.5, 0.1), (-37.8, 144.9)),
}
places = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


def kilometres(distance: Distance, pairs: list[tuple[Place, Place]]) -> list[float]:
    flat = np.array([[*origin, *destination] for origin, destination in pairs], dtype=np.float64)
    distances: list[float] = distance(*(np.ascontiguousarray(column) for column in flat.T)).tolist()
    return distances


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_haversine_matches_the_great_circle_of_geopy(pair: tuple[Place, Place]) -> None:
    (km,) = kilometres(haversine, [pair])
    # Near antipodes the formula's derivative goes to infinity; the error stays within metres.
    assert km == pytest.approx(geopy.distance.great_circle(*pair).km * RADII, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_geodesic_matches_geopy(pair: tuple[Place, Place]) -> None:
    (km,) = kilometres(geodesic, [pair])
    assert km == pytest.approx(geopy.distance.geodesic(*pair).km, rel=1e-9, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(places, places), min_size=1, max_size=5))
def test_both_distances_match_geopy_for_any_places(pairs: list[tuple[Place, Place]]) -> None:
    for pair, circle, ellipsoid in zip(pairs, kilometres(haversine, pairs), kilometres(geodesic, pairs), strict=True):
        assert circle == pytest.approx(geopy.distance.great_circle(*pair).km * RADII, rel=1e-6, abs=1e-6)
        assert ellipsoid == pytest.approx(geopy.distance.geodesic(*pair).km, rel=1e-9, abs=1e-9)
        assert 0 <= circle <= HALF_WAY_ROUND * (1 + 1e-12)
        assert ellipsoid >= 0
        assert ellipsoid == pytest.approx(circle, rel=0.006, abs=1e-6)


@pytest.mark.parametrize("distance", [haversine, geodesic])
def test_distances_in_a_city_match_geopy_to_the_millimetre(distance: Distance) -> None:
    rng = random.Random(7)
    pairs = [
        ((rng.uniform(40.5, 41), rng.uniform(-74.3, -73.6)), (rng.uniform(40.5, 41), rng.uniform(-74.3, -73.6)))
        for _ in range(500)
    ]
    theirs: Any = geopy.distance.great_circle if distance is haversine else geopy.distance.geodesic
    scale = RADII if distance is haversine else 1
    for pair, km in zip(pairs, kilometres(distance, pairs), strict=True):
        assert km == pytest.approx(theirs(*pair).km * scale, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("distance", [haversine, geodesic])
def test_distances_are_symmetric_and_zero_at_the_same_place(distance: Distance) -> None:
    pairs = list(PAIRS.values())
    back = [(destination, origin) for origin, destination in pairs]
    assert kilometres(distance, pairs) == pytest.approx(kilometres(distance, back), rel=1e-12, abs=1e-9)
    assert kilometres(distance, [PAIRS["same place"]]) == [0.0]
    assert kilometres(distance, [PAIRS["the same pole"]]) == pytest.approx([0], abs=1e-9)


@pytest.mark.parametrize("distance", [haversine, geodesic])
def test_no_rows_give_no_distances(distance: Distance) -> None:
    empty = np.array([], dtype=np.float64)
    assert distance(empty, empty, empty, empty).shape == (0,)


def test_the_setting_selects_the_distance_method() -> None:
    assert find_distance_function("haversine") is haversine
    assert find_distance_function("geodesic") is geodesic
    with pytest.raises(ConfigurationError, match=r"DISTANCE_METHOD='crow' is not one of haversine, geodesic.*\.env"):
        find_distance_function("crow")
