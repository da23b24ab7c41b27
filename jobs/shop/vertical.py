"""The declaration of the shop vertical."""

from __future__ import annotations

from jobs.settings import LOOPBACK, Name, Port, Settings
from jobs.vertical import Vertical


class ShopSettings(Settings):
    """The settings of the shop."""

    shop_postgres_host: str = ""
    shop_postgres_port: Port = 5432

    # Development defaults. `make up` generates passwords; without Docker, the server asks for none.
    shop_postgres_password: Name = "changeme"  # noqa: S105
    shop_loader_password: Name = "changeme"  # noqa: S105
    shop_dbt_password: Name = "changeme"  # noqa: S105
    shop_reader_password: Name = "changeme"  # noqa: S105
    shop_data_engineer_password: Name = "changeme"  # noqa: S105

    # When dbt_transform runs: a cron expression or one of Airflow's presets.
    shop_dbt_schedule: Name = "@daily"

    @property
    def shop_host(self) -> str:
        """The host of the warehouse's server."""
        return self.shop_postgres_host or LOOPBACK


VERTICAL = Vertical(
    name="shop",
    settings=ShopSettings,
    dags=("dbt_transform",),
    requirement_set="dbt",
    services=("kafka", "postgres", "airflow"),
)
