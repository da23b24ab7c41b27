"""The declaration of the shop vertical."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from jobs.settings import LOOPBACK, ROOT, Name, Port, Settings, Topic
from jobs.vertical import DeadLetters, Group, Vertical

LOAD_GROUP = LOAD_DAG = "dag_load_transactions"
TRANSFORM_DAG = "dbt_transform"
FORECAST_DAG = "dag_forecast_revenue"


class ShopSettings(Settings):
    """The settings of the shop."""

    topic_settings: ClassVar[tuple[str, ...]] = ("shop_topic", "shop_dlq_topic")

    shop_topic: Topic = "shop_transactions"
    shop_dlq_topic: Topic = "shop_dlq"

    shop_postgres_host: str = ""
    shop_postgres_port: Port = 5432

    # Development defaults. `make up` generates passwords; without Docker, the server asks for none.
    shop_postgres_password: Name = "changeme"  # noqa: S105
    shop_loader_password: Name = "changeme"  # noqa: S105
    shop_dbt_password: Name = "changeme"  # noqa: S105
    shop_reader_password: Name = "changeme"  # noqa: S105
    shop_data_engineer_password: Name = "changeme"  # noqa: S105
    shop_monitor_password: Name = "changeme"  # noqa: S105
    shop_grafana_password: Name = "changeme"  # noqa: S105
    shop_superset_reader_password: Name = "changeme"  # noqa: S105
    shop_superset_database_password: Name = "changeme"  # noqa: S105
    shop_superset_admin_password: Name = "changeme"  # noqa: S105
    shop_superset_analyst_password: Name = "changeme"  # noqa: S105
    shop_forecast_password: Name = "changeme"  # noqa: S105
    shop_backup_password: Name = "changeme"  # noqa: S105

    shop_superset_port: Port = 8088
    shop_logstash_port: Port = 9600

    # Indices of the application's log and of its alerts; infra/logstash and infra/kibana name them too.
    shop_logs_index: ClassVar[str] = "app-logs-*"
    shop_rejected_logs_index: ClassVar[str] = "rejected-app-logs"
    shop_alerts_index: ClassVar[str] = "alerts-app-logs"

    # When dbt_transform runs: a cron expression or one of Airflow's presets.
    shop_dbt_schedule: Name = "@daily"

    # Hours between two backups, in Docker.
    shop_backup_hours: Annotated[int, Field(ge=1, le=9999)] = 24

    @property
    def shop_host(self) -> str:
        """The host of the warehouse's server."""
        return self.shop_postgres_host or LOOPBACK

    @property
    def shop_page(self) -> Path:
        """The HTML page that the report writes."""
        return self.datastream_state / "shop.html"

    @property
    def shop_logs(self) -> Path:
        """The folder of the application's log files, without Docker."""
        return self.datastream_state / "shop-logs"

    @property
    def shop_log(self) -> Path:
        """The application's log file, without Docker."""
        return self.shop_logs / "app.log"

    @property
    def shop_log_files(self) -> Path:
        """The pattern of that file and of the rotated ones."""
        return self.shop_logs / "app.log*"

    @property
    def shop_logstash_data(self) -> Path:
        """Where the shipper of the log keeps its position, without Docker."""
        return self.datastream_state / "logstash"

    @property
    def shop_sincedb(self) -> Path:
        """The position of the shipper of the log, without Docker."""
        return self.shop_logstash_data / "app-logs.sincedb"

    @property
    def shop_backups(self) -> Path:
        """The folder of the warehouse's backups, without Docker."""
        return self.datastream_state / "backups"


LOGS_TEMPLATE = ROOT / "infra" / "elasticsearch" / "app-logs-template.json"

VERTICAL = Vertical(
    name="shop",
    settings=ShopSettings,
    topics=ROOT / "infra" / "kafka" / "topics" / "shop.yml",
    groups=(Group(LOAD_GROUP, "shop_topic", done="loaded", is_copy=True),),
    dags=(LOAD_DAG, TRANSFORM_DAG, FORECAST_DAG),
    variables=("shop_topic", "shop_dlq_topic"),
    templates={
        "shop_logs_index": LOGS_TEMPLATE,
        "shop_rejected_logs_index": LOGS_TEMPLATE.with_name("rejected-app-logs-template.json"),
        "shop_alerts_index": LOGS_TEMPLATE.with_name("alerts-app-logs-template.json"),
    },
    dashboard="app-logs",
    dead_letters=DeadLetters("shop_dlq_topic", "shop_dlq_replay", {"shop_topic": LOAD_DAG}),
    metrics={
        "datastream.shop.inserted": "transactions inserted",
        "datastream.shop.updated": "transactions updated",
        "datastream.shop.repeated": "transactions that were there already",
        "datastream.shop.stale": "transactions older than those that were there",
        "datastream.shop.refused": "messages refused, by reason",
        "datastream.shop.freshness": "age of a run's oldest message when it is done, by DAG",
        "datastream.dbt.nodes": "dbt's models and tests, by outcome",
        "datastream.dbt.duration": "time of a dbt command",
    },
    ledger="jobs.shop.ledger:take_ledger",
    series="jobs.shop.series:read_series",
    page="shop_page",
    requirement_set="dbt",
    services=("kafka", "elasticsearch", "logstash", "postgres", "airflow"),
)
