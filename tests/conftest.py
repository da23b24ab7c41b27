"""One stack of real services for each process that runs tests, on free ports."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from infra.local.environment import export_settings
from infra.local.isolation import isolated_settings
from infra.local.java import runtime
from infra.local.runner import ports
from infra.local.services.catalog import local_stack
from jobs.rides.vertical import TEMPLATE
from jobs.settings import load
from jobs.sinks.elasticsearch import apply_template
from jobs.verticals import merge_settings
from tests.testkit.stack import QUICK_JAVA, Stack, delete_created_topics, guarded, make_topic_factory

SERVICES = ("kafka", "elasticsearch", "gcs")


def pytest_configure() -> None:
    """Give each xdist worker its own ports: two stacks that start at the same time must not choose the same one."""
    runtime.COMMON_OPTIONS.append(QUICK_JAVA)
    worker, count = (os.environ.get(f"PYTEST_XDIST_WORKER{suffix}", "") for suffix in ("", "_COUNT"))
    if worker:
        ports._PRIVATE = ports._PRIVATE[int(worker.removeprefix("gw")) :: int(count)]


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Kafka, Elasticsearch and the GCS emulator; environment variables tell `jobs.settings.load()` their addresses."""
    from elasticsearch import Elasticsearch
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    wanted = isolated_settings(gcs_bucket="datastream-tests", poll_wait_s=1, chunk_records=100)
    variables = export_settings(wanted) | {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
    with pytest.MonkeyPatch.context() as patch, guarded(wanted.datastream_state):
        for name, value in variables.items():
            patch.setenv(name, value)
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


@pytest.fixture(scope="session")
def httpserver_listen_address() -> tuple[str, int]:
    """pytest-httpserver: 127.0.0.1 instead of localhost, which may be ::1."""
    return "127.0.0.1", 0


@pytest.fixture(scope="session")
def topic_factory(stack: Stack) -> Callable[..., str]:
    return make_topic_factory(stack.kafka)


@pytest.fixture(scope="module", autouse=True)
def _delete_topics() -> Iterator[None]:
    yield
    delete_created_topics()


@pytest.fixture
def fresh_name() -> Callable[[str], str]:
    """Make unique names of groups, indices (`rides-…` matches the template) and prefixes."""
    return lambda prefix: f"{prefix}-{uuid4().hex[:8]}"


@pytest.fixture
def index(stack: Stack, fresh_name: Callable[[str], str]) -> str:
    """The name of a new index with an applied template. The first write creates it."""
    name = fresh_name("rides")
    apply_template(stack.elasticsearch, name, TEMPLATE)
    return name


@pytest.fixture
def prefix(fresh_name: Callable[[str], str]) -> str:
    """A new prefix in the bucket, with a slash at the end as users write it."""
    return f"{fresh_name('tests')}/processed/"
