"""Collects from a source of the flights into the buffer."""

from __future__ import annotations

from typing import Any, Literal

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.observability.stats import Stats

from jobs.flights.vertical import FlightsSettings
from jobs.settings import load
from operators.base import DatastreamOperator

Source = Literal["weather", "flights", "departures", "csv"]


def read_schedule(name: str) -> str:
    """The schedule in one of the flights' settings."""
    return str(getattr(load(FlightsSettings), name))


class CollectOperator(DatastreamOperator):
    """Reads a source. It can be retried at any time: what is in the buffer already is only counted.

    A quota that is used up skips the task; the log has the date when it starts again.

    Args:
        source: what to read.
    """

    def __init__(self, *, source: Source, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source

    def work(self, context: Context, settings: FlightsSettings) -> None:
        from jobs.flights.quota import QuotaUsedUpError, list_quotas

        try:
            added = self._collect(context, settings)
        except QuotaUsedUpError as error:
            raise AirflowSkipException(str(error)) from error
        finally:
            for row in list_quotas(settings):
                # StatsD ends a name at its first colon. Without a prefix, a key that is set later continues the series.
                tags = {"api": row.source.removeprefix("fake:"), "period": row.period}
                Stats.gauge("datastream.flights.quota_left", row.left, tags=tags)
        self.log.info(
            "Collected from %s: %d observations, %d repeats, %d rejects (%s)",
            self.source,
            added.observed,
            added.repeated,
            added.rejected,
            ", ".join(f"{count} {reason}" for reason, count in added.reasons.most_common()) or "none",
        )
        Stats.incr("datastream.flights.collected", added.observed, tags={"source": self.source})
        Stats.incr("datastream.flights.repeated", added.repeated, tags={"source": self.source})
        for reason, count in added.reasons.items():
            Stats.incr("datastream.flights.rejected", count, tags={"source": self.source, "reason": reason})

    def _collect(self, context: Context, settings: FlightsSettings) -> Any:
        from jobs.flights import collect

        if self.source == "weather":
            return collect.collect_weather(settings)
        if self.source == "flights":
            # The same for each try of this run, so that a retry repeats the same observations.
            return collect.collect_flights(settings, context["dag_run"].run_after)
        if self.source == "departures":
            return collect.scrape(settings, self.log.info)
        return collect.import_csv(settings)
