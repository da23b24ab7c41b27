"""The plans of the APIs, and the requests made in each period, in the table quota_ledger of MySQL.

Each request is charged before it is sent, so a crash between the two counts one request too many, never one too few.
A period is a calendar minute, day or month in UTC. An API whose month starts on another day says so with its own
error, which `mark_used_up` records.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from jobs.errors import DatastreamError
from jobs.flights.database import READER, WRITER, connect
from jobs.flights.vertical import FlightsSettings

logger = logging.getLogger(__name__)

# https://openweathermap.org/price, the free plan.
OPENWEATHER_PER_MONTH = 1_000_000

# The longest first. Requests lock the rows of a source in this order, so they cannot deadlock.
Period = Literal["month", "day", "minute"]
PERIODS: tuple[Period, ...] = get_args(Period)


class QuotaUsedUpError(DatastreamError):
    """A plan has no request left. Nothing was sent.

    Attributes:
        resets_at: when the next period starts, in UTC.
    """

    def __init__(self, text: str, resets_at: datetime) -> None:
        super().__init__(text)
        self.resets_at = resets_at


@dataclass(frozen=True)
class Plan:
    """At most `limit` requests to a source in each period. The setting that holds the limit is named in errors."""

    source: str
    period: Period
    limit: int
    setting: str = ""


@dataclass(frozen=True)
class Charge:
    """A request in the ledger: its plans, each with the start of its period in UTC."""

    periods: tuple[tuple[Plan, datetime], ...]


@dataclass(frozen=True)
class QuotaRow:
    """A plan in its current period. `resets_at` is in UTC."""

    source: str
    period: Period
    used: int
    limit: int
    left: int
    resets_at: datetime


def name_source(name: str, key: str) -> str:
    """The name of a source in the ledger and in observations: without a key, it is the stand-in."""
    return name if key else f"fake:{name}"


def list_openweather_plans(settings: FlightsSettings) -> tuple[Plan, ...]:
    """The plans of OpenWeather, or of its stand-in."""
    source = name_source("openweather", settings.flights_openweather_key)
    return (
        Plan(source, "month", OPENWEATHER_PER_MONTH),
        Plan(source, "minute", settings.flights_openweather_per_minute, "FLIGHTS_OPENWEATHER_PER_MINUTE"),
    )


def list_aviationstack_plans(settings: FlightsSettings) -> tuple[Plan, ...]:
    """The plan of AviationStack, or of its stand-in."""
    source = name_source("aviationstack", settings.flights_aviationstack_key)
    return (Plan(source, "month", settings.flights_aviationstack_per_month, "FLIGHTS_AVIATIONSTACK_PER_MONTH"),)


def find_period(period: Period, moment: datetime) -> tuple[datetime, datetime]:
    """The start of the period that a moment is in, and the start of the next one. All are in UTC."""
    minute = moment.astimezone(UTC).replace(second=0, microsecond=0)
    if period == "minute":
        return minute, minute + timedelta(minutes=1)
    day = minute.replace(hour=0, minute=0)
    if period == "day":
        return day, day + timedelta(days=1)
    month = day.replace(day=1)
    return month, (month + timedelta(days=31)).replace(day=1)


def charge(settings: FlightsSettings, plans: Sequence[Plan]) -> Charge:
    """Count one request in all plans of a source, or in none. Waits for the next minute if this one is used up.

    Raises:
        QuotaUsedUpError: a month or a day is used up.
        ServiceUnavailableError: the database does not answer.
    """
    while True:
        charged, used_up, now = _try_to_charge(settings, plans)
        if used_up is None:
            return charged
        _, resets_at = find_period(used_up.period, now)
        if used_up.period != "minute":
            raise make_error(used_up, resets_at)
        wait_s = (resets_at - now).total_seconds()
        logger.info("%s: %d requests a minute are used up. Waiting %.0f s.", used_up.source, used_up.limit, wait_s)
        time.sleep(wait_s)


def _try_to_charge(settings: FlightsSettings, plans: Sequence[Plan]) -> tuple[Charge, Plan | None, datetime]:
    """Count one request if all plans have one left. Returns it, the plan that is used up, and the time of both."""
    with connect(settings, WRITER) as connection, connection.cursor() as cursor:
        now = datetime.now(UTC)
        periods = tuple((plan, find_period(plan.period, now)[0]) for plan in sorted(plans, key=_rank))
        for plan, starts_at in periods:
            # 1 affected row is new, 2 are changed, 0 are unchanged.
            affected = cursor.execute(
                "INSERT INTO quota_ledger (source, period, starts_at, used) VALUES (%s, %s, %s, 1) "
                "ON DUPLICATE KEY UPDATE used = used + (used < %s)",
                (plan.source, plan.period, starts_at.replace(tzinfo=None), plan.limit),
            )
            if not affected:
                connection.rollback()
                return Charge(()), plan, now
        connection.commit()
        return Charge(periods), None, now


def _rank(plan: Plan) -> int:
    return PERIODS.index(plan.period)


def refund(settings: FlightsSettings, charged: Charge) -> None:
    """Take back the charge of a request that was not sent, because no connection was made."""
    with connect(settings, WRITER) as connection, connection.cursor() as cursor:
        for plan, starts_at in charged.periods:
            cursor.execute(
                "UPDATE quota_ledger SET used = used - 1 "
                "WHERE source = %s AND period = %s AND starts_at = %s AND used > 0",
                (plan.source, plan.period, starts_at.replace(tzinfo=None)),
            )
        connection.commit()


def mark_used_up(settings: FlightsSettings, plan: Plan) -> datetime:
    """Record that an API says the plan is used up: others use the same account. Returns when the period ends."""
    starts_at, resets_at = find_period(plan.period, datetime.now(UTC))
    with connect(settings, WRITER) as connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO quota_ledger (source, period, starts_at, used) VALUES (%s, %s, %s, %s) "
            "ON DUPLICATE KEY UPDATE used = GREATEST(used, VALUES(used))",
            (plan.source, plan.period, starts_at.replace(tzinfo=None), plan.limit),
        )
        connection.commit()
    return resets_at


def make_error(plan: Plan, resets_at: datetime) -> QuotaUsedUpError:
    """The error for a plan that is used up."""
    remedy = f" If your plan has more, set {plan.setting} in .env." if plan.setting else ""
    return QuotaUsedUpError(
        f"{plan.source}: {plan.limit:,} requests a {plan.period} are used up until {resets_at:%Y-%m-%d %H:%M} UTC. "
        f"The next run after that collects again.{remedy}",
        resets_at,
    )


def list_quotas(settings: FlightsSettings) -> list[QuotaRow]:
    """What is left of each plan in its current period.

    Raises:
        ServiceUnavailableError: the database does not answer.
    """
    rows = []
    with connect(settings, READER) as connection, connection.cursor() as cursor:
        now = datetime.now(UTC)
        for plan in (*list_openweather_plans(settings), *list_aviationstack_plans(settings)):
            starts_at, resets_at = find_period(plan.period, now)
            cursor.execute(
                "SELECT used FROM quota_ledger WHERE source = %s AND period = %s AND starts_at = %s",
                (plan.source, plan.period, starts_at.replace(tzinfo=None)),
            )
            row = cursor.fetchone()
            used = row["used"] if row else 0
            rows.append(QuotaRow(plan.source, plan.period, used, plan.limit, max(0, plan.limit - used), resets_at))
    return rows
