"""The dashboard Business: what the rides and the shop bring in. Prices have no currency."""

from __future__ import annotations

from typing import Any

from infra.grafana.builder import Dashboard, Panel, Prom, Rides, Row, Sql

_NO_RIDES = "No ride has a time in this range. Rides are found by the time of the ride, `ts`."
_NO_SCORING = "dag_zones_score has not run. Train once with dag_zones_train, then turn on dag_zones_score."

# Gauges of zones that a new training has renamed keep their last value; only those of the last scoring count.
_SCORED = "airflow_datastream_zones_scored_timestamp_seconds"
_ZONES = f"airflow_datastream_zones_revenue and on (zone, comfort) ({_SCORED} == scalar(max({_SCORED})))"
_NO_SHOP = "No marts: the profile shop is off, or dbt_transform has not run."


def _shop(title: str, about: str, statement: str, **options: Any) -> Panel:
    """A value from the marts."""
    return Panel(
        kind="stat",
        title=title,
        about=about,
        queries=[Sql(statement)],
        **{"empty": _NO_SHOP, "decimals": 2, "width": 6, "height": 4, **options},
    )


DASHBOARD = Dashboard(
    name="business",
    about="Revenue; rides by comfort and zone; the shop's sales, customers and forecast.",
    rows=(
        Row(
            "Rides with a time in the range of the dashboard",
            (
                Panel(
                    kind="stat",
                    title="Rides",
                    about="Each ride counts once, however often it was sent.",
                    queries=[Rides((("count", ""),), by_time=True)],
                    empty=_NO_RIDES,
                    reduce="sum",
                    decimals=0,
                    width=8,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Revenue",
                    about="The sum of price_total.",
                    queries=[Rides((("sum", "price_total"),), by_time=True)],
                    empty=_NO_RIDES,
                    reduce="sum",
                    decimals=2,
                    width=8,
                    height=4,
                ),
                Panel(
                    kind="stat",
                    title="Distance",
                    about="The sum of distance_km: straight lines from origin to destination.",
                    queries=[Rides((("sum", "distance_km"),), by_time=True)],
                    empty=_NO_RIDES,
                    reduce="sum",
                    unit="suffix: km",
                    decimals=0,
                    width=8,
                    height=4,
                ),
                Panel(
                    kind="bars",
                    title="Revenue by comfort",
                    about="The first and the last bar are incomplete.",
                    queries=[
                        Rides((("sum", "price_total"),), by_comfort=True, by_time=True, legend="{{term comfort}}")
                    ],
                    empty=_NO_RIDES,
                ),
                Panel(
                    kind="bars",
                    title="Rides by comfort",
                    about="A gap: the stream stopped. The first and the last bar are incomplete.",
                    queries=[Rides((("count", ""),), by_comfort=True, by_time=True, legend="{{term comfort}}")],
                    empty=_NO_RIDES,
                ),
                Panel(
                    title="Average price by comfort",
                    about="A step: a new tariff. A peak: few rides.",
                    queries=[
                        Rides((("avg", "price_total"),), by_comfort=True, by_time=True, legend="{{term comfort}}")
                    ],
                    empty=_NO_RIDES,
                    decimals=2,
                ),
                Panel(
                    kind="table",
                    title="By comfort",
                    about="Rides, revenue, average price and average distance.",
                    queries=[
                        Rides(
                            (
                                ("count", ""),
                                ("sum", "price_total"),
                                ("avg", "price_total"),
                                ("avg", "distance_km"),
                            ),
                            by_comfort=True,
                        )
                    ],
                    empty=_NO_RIDES,
                ),
            ),
        ),
        Row(
            "All exported rides, at the last scoring",
            (
                Panel(
                    kind="stat",
                    title="Age of the scoring",
                    about="Time since dag_zones_score summed the revenue by zone. Once on, it runs every 15 minutes.",
                    queries=[Prom(f"time() - max({_SCORED})")],
                    empty=_NO_SCORING,
                    unit="s",
                    warn=1_800,
                    alarm=7_200,
                    width=4,
                ),
                Panel(
                    kind="gauges",
                    title="Revenue by zone",
                    about="All exported rides by the zone in which they start.",
                    queries=[Prom(f"sort_desc(sum by (zone) ({_ZONES}))", "{{zone}}")],
                    empty=_NO_SCORING,
                    width=10,
                ),
                Panel(
                    kind="table",
                    title="Revenue by zone and comfort",
                    about="All exported rides by the zone in which they start.",
                    queries=[Prom(f"sort_desc(sum by (zone, comfort) ({_ZONES}))", "revenue")],
                    empty=_NO_SCORING,
                    decimals=2,
                    width=10,
                ),
            ),
        ),
        Row(
            "Shop, as of the last run of dbt; days are in UTC",
            (
                _shop(
                    "Shop: revenue today",
                    "Successful orders of this UTC day, up to the last run of dbt.",
                    "select sum(revenue) as revenue from marts.fct_daily_sales where day = current_date",
                    empty="No order today in the marts. dbt_transform builds them on SHOP_DBT_SCHEDULE.",
                ),
                _shop(
                    "Shop: revenue of 7 days",
                    "Successful orders of today and the six days before.",
                    "select sum(revenue) as revenue from marts.fct_daily_sales where day > current_date - 7",
                ),
                _shop(
                    "Shop: success rate of 7 days",
                    "Successful orders among all. Pending orders count as not successful.",
                    """
                    select sum(successful_orders) / nullif(sum(orders), 0) as success_rate
                    from marts.fct_daily_sales where day > current_date - 7
                    """,
                    unit="percentunit",
                ),
                _shop(
                    "Shop: customers of 7 days",
                    "Customers with an order today or in the six days before.",
                    """
                    select count(*) as customers from marts.dim_customers
                    where last_order_at >= current_date - 6
                    """,
                    decimals=0,
                ),
                Panel(
                    kind="bars",
                    title="Shop: revenue by day",
                    about="Successful orders. The last day is incomplete.",
                    queries=[
                        Sql(
                            """
                            select day as time, sum(revenue) as revenue from marts.fct_daily_sales
                            where $__timeFilter(day) group by day order by day
                            """
                        )
                    ],
                    empty=_NO_SHOP,
                    last="90d",
                ),
                Panel(
                    kind="bars",
                    title="Shop: orders by status",
                    about="By the day of the order. Many failed or pending orders: look at the payments.",
                    queries=[
                        Sql(
                            """
                            select
                                day as time,
                                sum(successful_orders) as success,
                                sum(failed_orders) as failed,
                                sum(pending_orders) as pending
                            from marts.fct_daily_sales where $__timeFilter(day) group by day order by day
                            """
                        )
                    ],
                    empty=_NO_SHOP,
                    decimals=0,
                    last="90d",
                ),
                Panel(
                    kind="gauges",
                    title="Shop: customers by segment",
                    about="prospect: no order; new: first order in 30 days; lapsed: no order for 60 days; else active.",
                    queries=[
                        Sql(
                            """
                            select segment, count(*) as customers from marts.dim_customers
                            group by segment order by customers desc
                            """
                        )
                    ],
                    empty=_NO_SHOP,
                    decimals=0,
                    width=6,
                ),
                Panel(
                    kind="table",
                    title="Shop: top products",
                    about="By revenue of all time.",
                    queries=[
                        Sql(
                            """
                            select name as product, category, revenue, orders,
                                round(100 * success_rate, 1) as "success %"
                            from marts.dim_products where orders > 0 order by revenue desc, product_id limit 10
                            """
                        )
                    ],
                    empty=_NO_SHOP,
                    width=9,
                ),
                Panel(
                    kind="table",
                    title="Shop: forecast of the next 7 days",
                    about="80 % of the days should be between lower and upper. Week before: that weekday's revenue.",
                    queries=[
                        Sql(
                            """
                            select to_char(day, 'Dy YYYY-MM-DD') as day, predicted, lower, upper,
                                baseline as "week before", trained_until::text as "known until"
                            from marts.revenue_forecast order by revenue_forecast.day
                            """
                        )
                    ],
                    empty="No forecast: dag_forecast_revenue has not run.",
                    width=9,
                ),
            ),
        ),
    ),
)
