"""The units of clean data: °C, m/s and minutes."""

from __future__ import annotations

from datetime import datetime

_MPH = 0.44704  # m/s; https://www.nist.gov/pml/special-publication-811


def to_celsius(value: float, units: str) -> float:
    """
    Args:
        units: of `jobs.flights.contract.Units`.
    """
    if units == "standard":
        return value - 273.15
    return (value - 32) * 5 / 9 if units == "imperial" else value


def to_metres_per_second(speed: float, units: str) -> float:
    return speed * _MPH if units == "imperial" else speed


def measure_delay_min(given: float | None, scheduled: datetime, happened: datetime | None) -> float | None:
    """The delay that the source gives, or the difference to the schedule, in minutes.

    Args:
        happened: the actual or the estimated time.
    """
    if given is not None or happened is None:
        return given
    return (happened - scheduled).total_seconds() / 60
