"""The forecast on the page."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from jobs.pages.charts import WIDTH
from jobs.shop.page import HEIGHT, SHOWN_DAYS, draw_forecast
from jobs.shop.predictions import Day, Forecast, Score

UNTIL = date(2026, 6, 30)
TRAINED_AT = datetime(2026, 7, 1, tzinfo=UTC)


def day(ahead: int, *amounts: int) -> Day:
    predicted, lower, upper, baseline = (Decimal(amount).quantize(Decimal("0.01")) for amount in amounts)
    return Day(UNTIL + timedelta(days=ahead), predicted, lower, upper, baseline, UNTIL, TRAINED_AT)


def revenue(amount: int, days: int = 60) -> list[dict[str, Any]]:
    """The days until UNTIL, and the partial day after it."""
    return [{"day": UNTIL - timedelta(days=back), "revenue": Decimal(amount)} for back in range(days - 1, -2, -1)]


@pytest.mark.parametrize(
    ("amounts", "past"),
    [((500, 300, 900, 1200), 1000), ((500, 300, 5000, 100), 10), ((0, 0, 0, 0), 0)],
    ids=["below the past", "above the past", "no revenue"],
)
def test_the_chart_has_all_days_inside_its_frame(amounts: tuple[int, ...], past: int) -> None:
    forecast = Forecast(tuple(day(ahead, *amounts) for ahead in range(1, 8)), Score(196, 34, 900.0, 80.0, 100.0))
    chart = draw_forecast(revenue(past), forecast)
    shapes = re.findall(r'<rect x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', chart)
    assert len(shapes) == SHOWN_DAYS + 7 * 3
    for x, y, width, height in (map(float, shape) for shape in shapes):
        assert 0 <= x <= x + width <= WIDTH
        assert 12 <= y < y + height <= HEIGHT - 18
    predicted, lower, upper, baseline = (f"{amount:,.2f}" for amount in amounts)
    assert f"<title>2026-07-07: {predicted}, from {lower} to {upper}; week before {baseline}</title>" in chart
    assert "The model beats the same weekday of the week before by 20.0%." in chart
    assert "2026-06-30" in chart


def test_the_page_says_that_the_baseline_is_better() -> None:
    forecast = Forecast(tuple(day(ahead, 5, 3, 9, 12) for ahead in range(1, 8)), Score(196, 34, 900.0, 120.0, 100.0))
    assert "The model does not beat the same weekday of the week before: use that baseline" in draw_forecast(
        [], forecast
    )


def test_without_a_forecast_the_page_says_what_to_run() -> None:
    assert "make shop-forecast" in draw_forecast(revenue(1), None)
