"""Connections to the warehouse, one role for each tool. infra/postgres makes the roles and their rights."""

from __future__ import annotations

from typing import Any

import psycopg

from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.shop.vertical import ShopSettings

DATABASE = "data_warehouse"
CONNECT_TIMEOUT_S = 10

ADMIN = "postgres"
LOADER = "shop_loader"
DBT = "dbt"
READER = "shop_reader"
ENGINEER = "data_engineer"
MONITOR = "shop_monitor"
GRAFANA = "grafana_ro"
SUPERSET_READER = "superset_ro"
SUPERSET = "superset"  # owns Superset's own database
FORECAST = "shop_forecast"
BACKUP = "shop_backup"

# Each role that can log in, with the setting that has its password.
PASSWORDS = {
    ADMIN: "shop_postgres_password",
    LOADER: "shop_loader_password",
    DBT: "shop_dbt_password",
    READER: "shop_reader_password",
    ENGINEER: "shop_data_engineer_password",
    MONITOR: "shop_monitor_password",
    GRAFANA: "shop_grafana_password",
    SUPERSET_READER: "shop_superset_reader_password",
    SUPERSET: "shop_superset_database_password",
    FORECAST: "shop_forecast_password",
    BACKUP: "shop_backup_password",
}


def connect(settings: ShopSettings, role: str, **options: Any) -> psycopg.Connection:
    """A connection to the warehouse, or to Superset's own database. Times are in UTC.

    Args:
        role: one of `PASSWORDS`; it selects the database.
        options: more options of `psycopg.connect`.

    Raises:
        ConfigurationError: the server rejects the role or its password, or has no warehouse.
        ServiceUnavailableError: the server does not answer.
    """
    setting = PASSWORDS[role]
    address = f"{settings.shop_host}:{settings.shop_postgres_port}"
    try:
        return psycopg.connect(
            **{
                "host": settings.shop_host,
                "port": settings.shop_postgres_port,
                "dbname": SUPERSET if role == SUPERSET else DATABASE,
                "user": role,
                "password": getattr(settings, setting),
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": "datastream",
                "options": "-c timezone=UTC",
                **options,
            }
        )
    except psycopg.OperationalError as error:
        reason = str(error).splitlines()[0]
        # psycopg gives no error code for a connection that failed.
        if any(text in reason for text in ("authentication failed", "does not exist", "permission denied")):
            raise ConfigurationError(
                f"PostgreSQL at {address} rejects {role}: {reason}. Set {setting.upper()} in .env, then set up the "
                "database again: docker compose --profile shop up -d --wait (Docker), or make local-up VERTICAL=shop "
                "(without Docker)."
            ) from error
        raise ServiceUnavailableError(
            f"PostgreSQL at {address} does not answer: {reason}. Start the profile: docker compose --profile shop up "
            "-d --wait (Docker), or make local-up VERTICAL=shop (without Docker)."
        ) from error
