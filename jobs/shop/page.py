"""The HTML page about the shop's sales, made from the marts. One file, without scripts; charts are SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from psycopg.rows import dict_row

from jobs.errors import ConfigurationError
from jobs.pages.charts import WIDTH, Row, draw_counts, draw_legend, draw_rectangle, make_table, wrap
from jobs.pages.page import Page, render, write
from jobs.shop.database import READER, connect
from jobs.shop.predictions import Forecast, read_forecast
from jobs.shop.vertical import ShopSettings

STATUSES = {"success": "#3d9a63", "pending": "#f0a33c", "failed": "#d0453f"}
SEGMENTS = ("new", "active", "lapsed", "prospect")
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ACTUAL, PREDICTED, BASELINE = "#5b8fd0", "#f3bf73", "#1c2736"
LEGEND = {"actual": ACTUAL, "predicted, with 80 % interval": PREDICTED, "same weekday of the week before": BASELINE}
HEIGHT, CELL = 170, 21  # px
SHOWN_DAYS = 28  # before the forecast
MARTS = ("fct_transactions", "rejected_transactions", "fct_daily_sales", "dim_customers", "dim_products",
         "mart_data_quality")  # fmt: skip


class Marts:
    """The marts, read by the role of reports."""

    def __init__(self, connection: Any) -> None:
        self._cursor = connection.cursor(row_factory=dict_row)

    def query(self, sql: str) -> list[Row]:
        rows: list[Row] = self._cursor.execute(sql).fetchall()
        return rows


def write_page(settings: ShopSettings) -> Path:
    """Write the page and return its path. A reader sees the page before or this one.

    Raises:
        ConfigurationError: there are no marts yet.
        ServiceUnavailableError: PostgreSQL does not answer.
    """
    with connect(settings, READER) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        marts = Marts(connection)
        found = {row["name"] for row in marts.query(
            "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'marts'"
        )}  # fmt: skip
        if missing := set(MARTS) - found:
            raise ConfigurationError(f"The marts {', '.join(sorted(missing))} do not exist. Run `make shop-transform`.")
        text = render_page(marts, read_forecast(connection))
    return write(settings.shop_page, text)


def render_page(marts: Marts, forecast: Forecast | None) -> str:
    """Render the page."""
    (total,) = marts.query(
        "SELECT count(*) AS orders, coalesce(sum(revenue), 0) AS revenue, count(*) FILTER (WHERE is_success) AS "
        "successful, min(occurred_on) AS first, max(occurred_on) AS last, max(ingested_at) AS ingested_at, "
        "count(DISTINCT customer_id) AS customers FROM marts.fct_transactions"
    )
    (rejected,) = marts.query("SELECT count(*) AS count FROM marts.rejected_transactions")
    headlines = {
        "Revenue": f"{total['revenue']:,.0f}",
        "Transactions": f"{total['orders']:,}",
        "Average sale": f"{total['revenue'] / max(1, total['successful']):,.2f}",
        "Successful": f"{total['successful'] / max(1, total['orders']):.1%}",
        "Customers": f"{total['customers']:,}",
        "Rejected": f"{rejected['count']:,}",
    }
    days = marts.query("SELECT day, sum(revenue) AS revenue FROM marts.fct_daily_sales GROUP BY day ORDER BY day")
    cards = {
        "Revenue by day": draw_days(days),
        "Revenue of the next 7 days": draw_forecast(days, forecast),
        "Transactions by status": draw_statuses(
            marts.query("SELECT status AS name, count(*) AS count FROM marts.fct_transactions GROUP BY status")
        ),
        "Transactions by weekday and hour (UTC)": draw_hours(
            marts.query(
                "SELECT extract(isodow FROM occurred_at)::int - 1 AS weekday, extract(hour FROM occurred_at)::int AS "
                "hour, count(*) AS count FROM marts.fct_transactions GROUP BY 1, 2"
            )
        ),
        "Customers by segment": draw_segments(
            marts.query("SELECT segment AS name, count(*) AS count FROM marts.dim_customers GROUP BY segment")
        ),
        "Products with the highest revenue": make_table(
            marts.query(
                "SELECT name AS product, category, orders AS transactions, revenue, success_rate AS successful "
                "FROM marts.dim_products ORDER BY revenue DESC, product_id LIMIT 10"
            )
        ),
        "Data quality, last 14 days": make_table(
            marts.query(
                "SELECT outcome, reason, sum(transactions)::bigint AS transactions FROM marts.mart_data_quality "
                "WHERE day > (SELECT max(day) FROM marts.mart_data_quality) - 14 GROUP BY outcome, reason "
                "ORDER BY outcome, transactions DESC, reason"
            )
        ),
    }
    return render(
        Page(
            title="shop",
            heading="Sales",
            span=_describe_span(total["first"], total["last"]),
            headlines=headlines,
            cards=cards,
            source=f"From the marts in PostgreSQL; newest row: {total['ingested_at'] or 'none'}",
        )
    )


def _describe_span(first: date | None, last: date | None) -> str:
    return "No transactions yet" if first is None else f"Transactions from {first} to {last} (UTC)"


def draw_days(rows: Sequence[Row]) -> str:
    """A column for each day, without gaps for days without sales."""
    highest = max((row["revenue"] for row in rows), default=Decimal(0)) or Decimal(1)
    width = WIDTH / max(1, len(rows))
    shapes = []
    for number, row in enumerate(rows):
        height = float(row["revenue"] / highest) * (HEIGHT - 30)
        title = f"{row['day']}: {row['revenue']:,.2f}"
        shapes.append(draw_rectangle((number * width, HEIGHT - 20 - height), (width * 0.85, height), "#5b8fd0", title))
    if rows:
        shapes += _label_axes(rows[0]["day"], rows[-1]["day"], highest)
    return wrap(shapes, HEIGHT)


def draw_forecast(rows: Sequence[Row], forecast: Forecast | None) -> str:
    """A column for each day before the forecast and in it, and how good earlier forecasts would have been."""
    if forecast is None:
        return "<p>There is no forecast yet: run <code>make shop-forecast</code>.</p>"
    known: dict[date, Decimal] = {row["day"]: row["revenue"] for row in rows}
    until = forecast.days[0].trained_until
    past = [until - timedelta(days=back) for back in range(SHOWN_DAYS - 1, -1, -1)]
    amounts = [known.get(day, Decimal(0)) for day in past]
    highest = max(*amounts, *(max(day.upper, day.baseline) for day in forecast.days)) or Decimal(1)
    width = WIDTH / (len(past) + len(forecast.days))

    def draw(number: int, amounts: tuple[Decimal, Decimal], colour: str, title: str, part: float = 0.85) -> str:
        """A rectangle between two amounts, at least as high as a line."""
        bottom, top = (HEIGHT - 20 - float(amount / highest) * (HEIGHT - 36) for amount in amounts)
        x = (number + (0.85 - part) / 2) * width
        return draw_rectangle((x, top - 1), (width * part, bottom - top + 2), colour, title)

    shapes = []
    for number, amount in enumerate(amounts):
        shapes.append(draw(number, (Decimal(0), amount), ACTUAL, f"{past[number]}: {amount:,.2f}"))
    for number, day in enumerate(forecast.days, start=len(past)):
        interval = f"from {day.lower:,.2f} to {day.upper:,.2f}"
        title = f"{day.day}: {day.predicted:,.2f}, {interval}; week before {day.baseline:,.2f}"
        shapes += [
            draw(number, (Decimal(0), day.predicted), PREDICTED, title),
            draw(number, (day.lower, day.upper), "#a8660f", title, part=0.12),
            draw(number, (day.baseline, day.baseline), BASELINE, title),
        ]
    shapes += _label_axes(past[0], forecast.days[-1].day, highest)
    score = f"<p>{forecast.score.verdict}</p><p>{forecast.score.errors} Last known day: {until}.</p>"
    return draw_legend(LEGEND) + wrap(shapes, HEIGHT) + score


def _label_axes(first: date, last: date, highest: Decimal) -> list[str]:
    return [
        f'<text x="0" y="{HEIGHT - 4}" font-size="13">{first}</text>',
        f'<text x="{WIDTH}" y="{HEIGHT - 4}" font-size="13" text-anchor="end">{last}</text>',
        f'<text x="0" y="11" font-size="13">{highest:,.2f}</text>',
    ]


def draw_statuses(rows: Iterable[Row]) -> str:
    return draw_counts({row["name"]: row["count"] for row in rows}, STATUSES)


def draw_segments(rows: Iterable[Row]) -> str:
    return draw_counts({row["name"]: row["count"] for row in rows}, dict.fromkeys(SEGMENTS, "#5b8fd0"))


def draw_hours(rows: Iterable[Row]) -> str:
    """A cell for each hour of the week; the darker, the more transactions."""
    counts = {(row["weekday"], row["hour"]): row["count"] for row in rows}
    highest = max(counts.values(), default=1)
    shapes = []
    for weekday, name in enumerate(WEEKDAYS):
        y = weekday * CELL
        shapes.append(f'<text x="0" y="{y + 15}" font-size="13">{name}</text>')
        for hour in range(24):
            count = counts.get((weekday, hour), 0)
            opacity = 0.05 + 0.95 * count / highest
            shapes.append(
                f'<rect x="{40 + hour * 23}" y="{y}" width="21" height="{CELL - 2}" fill="#24598f" '
                f'fill-opacity="{opacity:.3f}"><title>{name} {hour:02}:00: {count:,}</title></rect>'
            )
    y = len(WEEKDAYS) * CELL + 13
    shapes += [f'<text x="{40 + hour * 23}" y="{y}" font-size="13">{hour:02}</text>' for hour in range(0, 24, 3)]
    return wrap(shapes, y + 5)
