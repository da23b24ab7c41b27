"""The list of services without Docker. To add a service, write its module and add its line here."""

from __future__ import annotations

from rich.console import Console

from infra.local.runner.stack import QUIET, Stack
from infra.local.services import (
    airflow,
    apis,
    aws,
    cassandra,
    departures,
    elasticsearch,
    exporter,
    gcs,
    kafka,
    logstash,
    mysql,
    postgres,
    prometheus,
    redis,
    relay,
    spark_driver,
    superset,
)
from jobs.settings import Settings

SERVICES = (
    kafka.SERVICE,
    elasticsearch.SERVICE,
    logstash.SERVICE,
    gcs.SERVICE,
    postgres.SERVICE,
    redis.SERVICE,
    mysql.SERVICE,
    cassandra.SERVICE,
    apis.SERVICE,
    aws.SERVICE,
    departures.SERVICE,
    relay.SERVICE,
    spark_driver.SERVICE,
    airflow.SERVICE,
    exporter.SERVICE,
    prometheus.ALERTMANAGER,
    prometheus.PROMETHEUS,
    superset.SERVICE,
)


def local_stack(settings: Settings, console: Console = QUIET) -> Stack:
    """The stack of these services with these settings."""
    return Stack(settings, SERVICES, console)
