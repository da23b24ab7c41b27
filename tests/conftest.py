"""One stack of real services for the whole session, on free ports, beside whatever else runs on this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

from infra.local.environment import export_settings
from infra.local.isolation import isolated_settings
from infra.local.services.catalog import local_stack
from jobs.rides.vertical import TEMPLATE
from jobs.settings import ROOT, Settings, load
from jobs.sinks.elasticsearch import apply_template
from jobs.verticals import load_declared_topics, merge_settings
from tests.testkit.wait import until

SERVICES = ("kafka", "elasticsearch", "gcs")

# Waits until this process ends, however it ends (pytest-timeout ends it at once), then stops what it has left behind.
GUARDIAN = """
import shutil, sys
from infra.local.services.catalog import local_stack
from jobs.settings import Settings

sys.stdin.read()
local_stack(Settings(datastream_state=sys.argv[1])).down()
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


@dataclass(frozen=True)
class Stack:
    """Running services, and clients of them."""

    settings: Settings
    kafka: dict[str, Any]
    elasticsearch: Any
    gcs: Any

    @property
    def bootstrap_servers(self) -> str:
        return self.settings.bootstrap_servers

    @property
    def bucket(self) -> str:
        return self.settings.bucket


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Kafka, Elasticsearch and the GCS emulator; the environment says so to `jobs.settings.load()`."""
    from elasticsearch import Elasticsearch
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    wanted = isolated_settings(gcs_bucket="datastream-tests", poll_wait_s=1, chunk_records=100)
    state = wanted.datastream_state
    variables = export_settings(wanted) | {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        guardian = subprocess.Popen(
            [sys.executable, "-c", GUARDIAN, str(state)], stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True
        )
        try:
            local_stack(wanted).up(SERVICES)
            settings = load(merge_settings())
            assert settings.bootstrap_servers == wanted.bootstrap_servers
            yield Stack(
                settings=settings,
                kafka={"bootstrap.servers": settings.bootstrap_servers},
                elasticsearch=Elasticsearch(settings.es_url),
                gcs=storage.Client(
                    project="local",
                    credentials=AnonymousCredentials(),
                    client_options={"api_endpoint": settings.gcs_endpoint},
                ),
            )
        finally:
            local_stack(wanted).down()
            guardian.communicate(timeout=60)


@pytest.fixture(scope="session")
def topic_factory(stack: Stack) -> Callable[..., str]:
    return topic_maker(stack.kafka)


def topic_maker(config: dict[str, Any]) -> Callable[..., str]:
    """Makes a topic with a name of its own, otherwise as the rides' file declares the one that its prefix means.

    The prefix says raw, result or dlq; any other one is taken for raw.
    """
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient(config)
    settings = {topic.setting: topic for topic in load_declared_topics(load(merge_settings()))}

    def make(prefix: str, partitions: int = 6) -> str:
        name = f"{prefix}-{uuid4().hex[:8]}"
        setting = next((it for it in settings if it.split("_")[0].lower() in prefix), "RAW_TOPIC")
        config = {key: str(value) for key, value in settings[setting].config.items()}
        admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(30)
        # The controller has it; the broker hears of it a moment later.
        until(lambda: len(admin.list_topics(name, timeout=30).topics[name].partitions) == partitions, f"topic {name}")
        return name

    return make


@pytest.fixture
def fresh_name() -> Callable[[str], str]:
    """Makes names that nobody has: of groups, indices (`rides-…` for the template), prefixes."""
    return lambda prefix: f"{prefix}-{uuid4().hex[:8]}"


@pytest.fixture
def index(stack: Stack, fresh_name: Callable[[str], str]) -> str:
    """A new index with the template applied; it is made by the first write."""
    name = fresh_name("rides")
    apply_template(stack.elasticsearch, name, TEMPLATE)
    return name


@pytest.fixture
def prefix(fresh_name: Callable[[str], str]) -> str:
    """A new prefix in the bucket, as users write it: with a slash at its end."""
    return f"{fresh_name('tests')}/processed/"
