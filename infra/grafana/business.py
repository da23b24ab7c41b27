"""The dashboard Business: what the rides bring in. Prices have no currency."""

from __future__ import annotations

from infra.grafana.builder import Dashboard, Panel, Prom, Rides, Row

_NO_RIDES = "No ride has a time in this range. Rides are found by the time of the ride, `ts`."
_NO_SCORING = "dag_zones_score has not run. Train once with dag_zones_train, then turn on dag_zones_score."

# Gauges of zones that a new training has renamed keep their last value; only those of the last scoring count.
_SCORED = "airflow_datastream_zones_scored_timestamp_seconds"
_ZONES = f"airflow_datastream_zones_revenue and on (zone, comfort) ({_SCORED} == scalar(max({_SCORED})))"

DASHBOARD = Dashboard(
    name="business",
    about="Revenue, and rides by comfort and zone.",
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
    ),
)
