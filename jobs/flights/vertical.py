"""The declaration of the flights vertical."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from jobs.settings import LOOPBACK, ROOT, Name, Port, Settings, Topic, Url
from jobs.vertical import DeadLetters, Group, Vertical

CLEAN_DAG = "dag_clean_flights"
CLEAN_FLIGHTS_GROUP = CLEAN_DAG
CLEAN_WEATHER_GROUP = f"{CLEAN_DAG}.weather"
COLLECT_DAGS = ("dag_collect_weather", "dag_collect_flights", "dag_scrape_departures", "dag_import_csv")

# What to do when a store does not answer.
START = (
    "Start the profile: docker compose --profile flights up -d --wait (Docker), or make local-up VERTICAL=flights "
    "(without Docker)."
)


class FlightsSettings(Settings):
    """The settings of the flights."""

    topic_settings: ClassVar[tuple[str, ...]] = (
        "flights_topic", "flights_weather_topic", "flights_dlq_topic", "flights_positions_topic",
    )  # fmt: skip

    flights_topic: Topic = "flights"
    flights_weather_topic: Topic = "weather"
    flights_dlq_topic: Topic = "flights_dlq"
    flights_positions_topic: Topic = "flights_positions"

    flights_redis_host: str = ""
    flights_redis_port: Port = 6379
    flights_mysql_host: str = ""
    flights_mysql_port: Port = 3306
    flights_cassandra_host: str = ""
    flights_cassandra_port: Port = 9042

    # Development defaults. `make up` generates passwords.
    flights_redis_password: Name = "changeme"  # noqa: S105
    flights_mysql_root_password: Name = "changeme"  # noqa: S105
    flights_mysql_password: Name = "changeme"  # noqa: S105
    flights_mysql_reader_password: Name = "changeme"  # noqa: S105
    flights_cassandra_admin_password: Name = "changeme"  # noqa: S105
    flights_cassandra_password: Name = "changeme"  # noqa: S105

    # Without a key, the collector asks the stand-in.
    flights_openweather_key: Annotated[str, Field(repr=False)] = ""
    flights_aviationstack_key: Annotated[str, Field(repr=False)] = ""
    flights_openweather_per_minute: Annotated[int, Field(ge=1)] = 60
    flights_aviationstack_per_month: Annotated[int, Field(ge=1)] = 100
    # Pages of 100 flights in one run. Each is a request.
    flights_aviationstack_pages: Annotated[int, Field(ge=1)] = 1
    flights_apis_url: Url = ""
    flights_apis_port: Port = 8091

    # The relay's metrics.
    flights_relay_port: Port = 9310

    # IATA codes of the airports whose weather is collected, separated by commas.
    flights_places: Name = "DSS,ABJ,CMN,CDG,LHR,JFK,BOS,SIN"
    flights_weather_schedule: Name = "*/10 * * * *"
    # Three requests a day, of 100 a month.
    flights_schedule: Name = "0 */8 * * *"
    flights_scrape_schedule: Name = "*/15 * * * *"
    flights_csv_schedule: Name = "*/5 * * * *"

    flights_departures_url: Url = ""
    flights_departures_port: Port = 8090
    # Hosts that may be scraped besides that of the departures page, separated by commas.
    flights_scrape_hosts: str = ""
    # A Selenium server. Without one, the scraper starts the Chromium of this machine.
    flights_selenium_url: Url = ""
    flights_selenium_port: Port = 4444

    flights_csv_folder: Path = ROOT / "data" / "input" / "flights"
    flights_csv_encoding: Name = "utf-8"
    flights_prefix: Name = "flights/clean/"

    @field_validator("flights_csv_folder")
    @classmethod
    def _locate_folder(cls, path: Path) -> Path:
        return ROOT / path

    @property
    def flights_redis(self) -> str:
        """The host of Redis."""
        return self.flights_redis_host or LOOPBACK

    @property
    def flights_mysql(self) -> str:
        """The host of MySQL."""
        return self.flights_mysql_host or LOOPBACK

    @property
    def flights_cassandra(self) -> str:
        """The host of Cassandra."""
        return self.flights_cassandra_host or LOOPBACK

    @property
    def flights_apis(self) -> str:
        """The URL of the stand-in APIs."""
        return self.flights_apis_url or f"http://{LOOPBACK}:{self.flights_apis_port}"

    @property
    def flights_departures(self) -> str:
        """The URL of the departures page."""
        return self.flights_departures_url or f"http://{LOOPBACK}:{self.flights_departures_port}"

    @property
    def flights_page(self) -> Path:
        """The HTML page that the report writes."""
        return self.datastream_state / "flights.html"


VERTICAL = Vertical(
    name="flights",
    settings=FlightsSettings,
    topics=ROOT / "infra" / "kafka" / "topics" / "flights.yml",
    groups=(
        Group(CLEAN_FLIGHTS_GROUP, "flights_topic", done="flights cleaned"),
        Group(CLEAN_WEATHER_GROUP, "flights_weather_topic", done="weather cleaned"),
    ),
    dags=(*COLLECT_DAGS, CLEAN_DAG),
    variables=("flights_topic", "flights_weather_topic", "flights_dlq_topic", "flights_prefix"),
    dead_letters=DeadLetters(
        "flights_dlq_topic", "flights_dlq_replay", {"flights_topic": CLEAN_DAG, "flights_weather_topic": CLEAN_DAG}
    ),
    metrics={
        "datastream.flights.collected": "new observations in the buffer, by source",
        "datastream.flights.repeated": "inputs that were in the buffer already, by source",
        "datastream.flights.rejected": "inputs that became dead letters, by source and reason",
        "datastream.flights.quota_left": "requests that an API's plan has left, by API and period",
        "datastream.flights.cleaned": "clean rows written to Parquet, by table",
        "datastream.flights.refused": "messages that cannot be cleaned, by table and reason",
        "datastream.flights.loaded": "rows loaded into the warehouse, by table",
    },
    ledger="jobs.flights.ledger:take_ledger",
    page="flights_page",
    requirement_set="flights",
    services=("kafka", "redis", "mysql", "cassandra", "gcs", "airflow", "departures", "apis", "relay"),
)
