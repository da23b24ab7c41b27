"""Distances between columns of points in degrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import Geod

from jobs.errors import ConfigurationError

Column = NDArray[np.float64]
# (origin latitude, origin longitude, destination latitude, destination longitude), degrees → kilometres
Distance = Callable[[Column, Column, Column, Column], Column]

# Mean radius R1 of the Earth in kilometres: Moritz, Geodetic Reference System 1980, Journal of Geodesy 74 (2000).
MEAN_EARTH_RADIUS_KM = 6371.0088

_WGS84 = Geod(ellps="WGS84")


def haversine(origin_lat: Column, origin_lon: Column, destination_lat: Column, destination_lon: Column) -> Column:
    """Great-circle distance in kilometres on a sphere of mean Earth radius.

    Source: R. W. Sinnott, "Virtues of the Haversine", Sky and Telescope 68 (1984).
    """
    phi_1, phi_2 = np.radians(origin_lat), np.radians(destination_lat)
    half_phi = (phi_2 - phi_1) / 2
    half_lambda = np.radians(destination_lon - origin_lon) / 2
    a = np.sin(half_phi) ** 2 + np.cos(phi_1) * np.cos(phi_2) * np.sin(half_lambda) ** 2
    # For antipodal points, rounding may make a slightly larger than 1.
    kilometres: Column = 2 * MEAN_EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(a, 1.0)))
    return kilometres


def geodesic(origin_lat: Column, origin_lon: Column, destination_lat: Column, destination_lon: Column) -> Column:
    """Shortest distance in kilometres on the WGS-84 ellipsoid.

    Source: C. F. F. Karney, "Algorithms for geodesics", Journal of Geodesy 87 (2013), as implemented by PROJ.
    """
    metres: Any = _WGS84.inv(origin_lon, origin_lat, destination_lon, destination_lat)[2]
    return np.asarray(metres, dtype=np.float64) / 1000


_METHODS: dict[str, Distance] = {"haversine": haversine, "geodesic": geodesic}


def find_distance_function(method: str) -> Distance:
    """The distance function of a DISTANCE_METHOD.

    Raises:
        ConfigurationError: the method does not exist.
    """
    try:
        return _METHODS[method]
    except KeyError:
        raise ConfigurationError(
            f"DISTANCE_METHOD={method!r} is not one of {', '.join(_METHODS)}. Set it in .env."
        ) from None
