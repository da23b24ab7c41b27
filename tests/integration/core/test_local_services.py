"""The services without Docker: a real stack on free ports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from elasticsearch import Elasticsearch
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from infra.local.environment import export_settings
from infra.local.isolation import isolated_settings
from infra.local.java import runtime
from infra.local.runner import ports, processes, supervisor
from infra.local.runner.paths import Paths
from infra.local.runner.stack import READY_S
from infra.local.services.catalog import local_stack
from jobs.settings import ROOT, Settings
from tests.testkit.stack import QUICK_JAVA, guarded
from tests.testkit.wait import until

SERVICES = ("kafka", "elasticsearch", "gcs")
MESSAGES = 100
BACK_S = READY_S


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    # A path with a space and accents, in a locale that has none: a JVM would write to another folder.
    chosen = isolated_settings(tmp_path_factory.mktemp("données été"))
    with guarded(chosen.datastream_state), pytest.MonkeyPatch.context() as patch:
        patch.setenv("LC_ALL", "POSIX")
        # As the command line has them, which finds these services.
        patch.setattr(runtime, "COMMON_OPTIONS", [one for one in runtime.COMMON_OPTIONS if one != QUICK_JAVA])
        local_stack(chosen).up(SERVICES)
        yield chosen


def _command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line on this stack, without a JDK, Maven or Docker on the PATH."""
    variables = {
        **export_settings(settings),
        "HOME": str(Path.home()),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/bin"]),
        "LANG": "C.UTF-8",
        **{name: value for name, value in os.environ.items() if name == "XDG_CACHE_HOME"},  # the jars are there
    }
    return subprocess.run(
        [sys.executable, "-m", "infra.local", *arguments],
        cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def _paths(settings: Settings) -> Paths:
    return Paths(settings.datastream_state)


def _pid(settings: Settings, name: str) -> int:
    return supervisor.read_states(_paths(settings))[name].pid


def _only() -> list[str]:
    return [argument for name in SERVICES for argument in ("--only", name)]


def test_official_clients_get_responses(settings: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    assert len(admin.describe_cluster().result(10).nodes) == 1

    client = Elasticsearch(settings.es_url)
    assert client.ping()
    assert client.info()["version"]["number"] == "9.5.3"
    client.index(index="probe", id="1", document={"place": "here"}, refresh=True)
    assert client.count(index="probe")["count"] == 1

    cloud = storage.Client(
        project="local", credentials=AnonymousCredentials(), client_options={"api_endpoint": settings.gcs_endpoint}
    )
    bucket = cloud.bucket(settings.bucket)
    assert bucket.exists()
    bucket.blob("probe/one").upload_from_string(b"kept")


def test_all_data_is_in_the_state_folder(settings: Settings) -> None:
    state = settings.datastream_state
    for service in SERVICES:
        assert [path for path in (state / service).rglob("*") if path.is_file()], service
    assert [folder for folder in state.parent.glob("donn*") if not folder.is_symlink()] == [state]


def test_a_second_up_changes_nothing(settings: Settings) -> None:
    before = {name: _pid(settings, name) for name in SERVICES}
    result = _command(settings, "up", *_only())
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("already running") == len(SERVICES)
    assert {name: _pid(settings, name) for name in SERVICES} == before
    assert _command(settings, "status").returncode == 0


def test_services_restart_after_sigkill_with_their_data(settings: Settings) -> None:
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(20)
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers, "acks": "all", "transactional.id": "probe"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for number in range(MESSAGES):
        producer.produce("kept", b"%d" % number)
    producer.commit_transaction(30)
    client = Elasticsearch(settings.es_url)
    client.index(index="kept", id="1", document={"place": "here"})
    cloud = storage.Client(
        project="local", credentials=AnonymousCredentials(), client_options={"api_endpoint": settings.gcs_endpoint}
    )
    blob = cloud.bucket(settings.bucket).blob("probe/kept")
    blob.upload_from_string(b"kept")

    killed = {name: _pid(settings, name) for name in SERVICES}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        entries = local_stack(settings).status()
        return all(entry.healthy and entry.state.pid != killed[entry.state.name] for entry in entries)

    until(back, "all services are healthy again", BACK_S)
    consumer = Consumer(
        {"bootstrap.servers": settings.bootstrap_servers, "group.id": "probe", "auto.offset.reset": "earliest",
         "isolation.level": "read_committed"}
    )  # fmt: skip
    consumer.assign([TopicPartition("kept", 0, 0)])
    values = [message.value() for message in consumer.consume(MESSAGES, timeout=20)]
    consumer.close()
    assert values == [b"%d" % number for number in range(MESSAGES)]
    until(lambda: bool(client.options(ignore_status=503).exists(index="kept", id="1").body), "the document is back")
    assert blob.download_as_bytes() == b"kept"


def test_a_taken_port_is_reported_before_anything_starts(settings: Settings, tmp_path: Path) -> None:
    state = tmp_path / "s"  # short: it holds a socket
    taken = settings.model_copy(update={"datastream_state": state, "gcs_port": ports.find_free(1)[0]})
    result = _command(taken, "up", "--only", "kafka", "--only", "gcs")
    assert result.returncode == 1
    assert "KAFKA_PORT" in result.stderr
    assert str(settings.kafka_port) in result.stderr
    assert f"pid {_pid(settings, 'kafka')}" in result.stderr
    assert "GCS_PORT" not in result.stderr
    assert not (state / "run").exists()


def test_a_path_too_long_for_a_socket_is_rejected(settings: Settings, tmp_path: Path) -> None:
    deep = settings.model_copy(update={"datastream_state": tmp_path / ("deep" * 30)})
    result = _command(deep, "up", "--only", "gcs")
    assert result.returncode == 1
    assert "DATASTREAM_STATE" in result.stderr
    assert not deep.datastream_state.exists()


@pytest.mark.parametrize("place", ["/etc/hostname", "/etc/hostname/below"])
def test_a_state_folder_that_cannot_be_made_is_rejected(settings: Settings, place: str) -> None:
    result = _command(settings.model_copy(update={"datastream_state": Path(place)}), "up", "--only", "gcs")
    assert result.returncode == 1
    assert f"The state folder {place} cannot be made" in result.stderr


def test_down_leaves_no_process_and_can_be_repeated(settings: Settings) -> None:
    mine = [process.pid for process in processes.find_all(_paths(settings))]
    assert len(mine) >= len(SERVICES) + 1
    result = _command(settings, "down")
    assert result.returncode == 0, result.stderr
    assert not [pid for pid in mine if psutil.pid_exists(pid)]
    assert not processes.find_all(_paths(settings))
    assert _command(settings, "down").returncode == 0
    assert _command(settings, "status").returncode == 3


def test_data_survives_down_and_up(settings: Settings) -> None:
    local_stack(settings).up(SERVICES)
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    assert "kept" in admin.list_topics(timeout=10).topics
    assert Elasticsearch(settings.es_url).count(index="kept")["count"] == 1
