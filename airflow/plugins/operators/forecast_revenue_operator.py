"""ForecastRevenue: forecasts the shop's revenue from the marts."""

from __future__ import annotations

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from jobs.shop.vertical import ShopSettings
from operators.base import DatastreamOperator


class ForecastRevenueOperator(DatastreamOperator):
    """Replaces the forecast and its evaluation. Skipped while the history is too short."""

    def work(self, context: Context, settings: ShopSettings) -> None:
        # At parse time, Airflow must not wait for numpy and scikit-learn.
        from jobs.shop.forecast import TooFewDaysError, forecast_revenue

        try:
            forecast = forecast_revenue(settings)
        except TooFewDaysError as error:
            raise AirflowSkipException(str(error)) from error
        first, last = forecast.days[0], forecast.days[-1]
        self.log.info("Forecast the revenue from %s to %s", first.day, last.day)
        self.log.info("%s %s", forecast.score.errors, forecast.score.verdict)
