"""A model of the revenue by day, on arrays: forecasts of the next 7 days, and their error in the past.

An array has the revenue of consecutive days; its last day is the last one that is known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import HuberRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import ThreadpoolController

Array = npt.NDArray[np.float64]

HORIZON = 7  # days that are forecast
WEEKS = 4  # of which the model knows the same weekday
ORIGINS = 28  # days from which the evaluation forecasts, one after the other
# The first of these still has two weeks of forecasts to learn from.
NEEDED_DAYS = 7 * WEEKS + 2 * 7 + ORIGINS + 2 * HORIZON
COVERAGE = 0.8
# Strong, because the features explain little: on generated data, 1 and 10 were worse, and ridge regression (which an
# outlier spoils), quantile regression, gradient boosting and an indicator of the weekday were not better.
_ALPHA = 100

_THREADS = ThreadpoolController()


class Evaluation(NamedTuple):
    """What would have been forecast from earlier days: a row for each origin, a column for each day after it.

    Attributes:
        origins: positions of the last day that each row knows.
    """

    origins: npt.NDArray[np.int64]
    actual: Array
    predicted: Array
    baseline: Array

    def measure_margins(self) -> Array:
        """For each number of days ahead, the error that 80 % of the forecasts did not exceed."""
        margins: Array = np.quantile(np.abs(self.actual - self.predicted), COVERAGE, axis=0, method="higher")
        return margins


def predict(revenue: Array) -> Array:
    """Train on all days, and forecast the next ones.

    The forecast is the mean of the same weekday in the last 4 weeks and a correction, which the model has learned
    from earlier forecasts that were made in the same way.
    """
    mean, features = _describe(revenue)
    targets = np.lib.stride_tricks.sliding_window_view(revenue[7 * WEEKS :], HORIZON)
    count = len(targets)  # the last days have no known week after them
    model = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), HuberRegressor(alpha=_ALPHA, max_iter=1000)),
        transformer=StandardScaler(),
        check_inverse=False,  # it warns of rounding
    )
    # On a busy machine, several threads spend more time waiting for each other than computing.
    with _THREADS.limit(limits=1):
        model.fit(features[:count].reshape(-1, features.shape[-1]), (targets - mean[:count]).ravel())
    predicted: Array = np.maximum(0, mean[-1] + model.predict(features[-1]))
    return predicted


def _describe(revenue: Array) -> tuple[Array, Array]:
    """What is known on each day from the 28th on about the 7 days after it.

    Returns:
        The mean of the same weekday in the last 4 weeks (days × 7); features (days × 7 × 2): how far this weekday
        was above its mean in the last week, and how far the last week was above the mean of the 4 weeks.
    """
    weeks = np.lib.stride_tricks.sliding_window_view(revenue, 7 * WEEKS).reshape(-1, WEEKS, 7)
    mean, last = weeks.mean(axis=1), weeks[:, -1]
    level = np.broadcast_to((last.mean(axis=1) - mean.mean(axis=1))[:, np.newaxis], mean.shape)
    return mean, np.stack([last - mean, level], axis=-1)


def repeat_last_week(revenue: Array) -> Array:
    """The baseline: the revenue of the same weekday in the last week."""
    return revenue[-HORIZON:]


def evaluate(revenue: Array) -> Evaluation:
    """Forecast from each of the last 28 days that have a known week after them. Each forecast knows only its past."""
    last = len(revenue) - 1 - HORIZON
    origins = np.arange(last - ORIGINS + 1, last + 1)
    pasts = [revenue[: origin + 1] for origin in origins]
    return Evaluation(
        origins,
        actual=np.stack([revenue[origin + 1 : origin + 1 + HORIZON] for origin in origins]),
        predicted=np.stack([predict(past) for past in pasts]),
        baseline=np.stack([repeat_last_week(past) for past in pasts]),
    )
