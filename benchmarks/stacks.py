"""Separate services for a benchmark, on free ports and with a temporary state folder."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from rich.console import Console

from infra.local.isolation import isolated_settings
from infra.local.runner.service import Service
from infra.local.runner.stack import Stack
from infra.local.services.catalog import SERVICES
from jobs.clients import make_elasticsearch_admin, make_kafka_config
from jobs.kafka import topics
from jobs.rides.vertical import TEMPLATE, RidesSettings
from jobs.settings import ROOT
from jobs.sinks.elasticsearch import apply_template
from jobs.verticals import load_declared_topics

TOPICS = ROOT / "infra" / "kafka" / "topics" / "rides.yml"


@contextmanager
def start_stack(
    names: Collection[str], console: Console, *, services: Sequence[Service] = SERVICES, **changes: Any
) -> Iterator[RidesSettings]:
    """Start services, create topics and, with Elasticsearch, apply the index template. Stop the services at the end.

    Settings other than addresses come from the environment, so a measurement can be repeated with other values.

    Args:
        names: the services to start.
        services: all that there are.
        changes: settings.
    """
    # SIGTERM stops the services as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    settings = cast(RidesSettings, isolated_settings(**changes))  # it has every vertical's settings
    stack = Stack(settings, services, console)
    try:
        stack.up(names)
        topics.apply(make_kafka_config(settings), load_declared_topics(settings))
        if "elasticsearch" in names:
            apply_template(make_elasticsearch_admin(settings), settings.rides_index, TEMPLATE)
        yield settings
    finally:
        stack.down()
        shutil.rmtree(settings.datastream_state)


def make_console() -> Console:
    """A console for tables: as wide as the terminal, or 120 characters without a terminal."""
    return Console() if sys.stdout.isatty() else Console(width=120)
