"""Kafka: one node that is broker and controller (KRaft)."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.local.java import jars, runtime
from infra.local.runner import environment, ports
from infra.local.runner.errors import ServiceFailedError
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from jobs.settings import LOOPBACK, ROOT, Settings

NAME = "kafka"
# Fixed, so that a formatted disk stays usable when the other generated files are lost.
CLUSTER_ID = "ZGF0YXN0cmVhbS1sb2NhbA"
OFFSETS_RETENTION_MINUTES = 60 * 24 * 60
# Serves the broker's metrics to Prometheus.
AGENT = "kafka-agent"
METRICS = ROOT / "infra" / "kafka" / "jmx.yml"

# The broker's settings, with and without Docker (infra/docker-compose.yml).
BROKER = {
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": 0,
    # A killed broker can register again only after its old session has expired: by default 9 s after its start.
    "broker.session.timeout.ms": 4000,
    "broker.heartbeat.interval.ms": 500,
    # One broker: no partition can have a second replica.
    "default.replication.factor": 1,
    "min.insync.replicas": 1,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    # The default of 50 is for clusters; each partition costs files and start time.
    "offsets.topic.num.partitions": 8,
    "transaction.state.log.num.partitions": 8,
    "share.coordinator.state.topic.num.partitions": 8,
    "offsets.retention.minutes": OFFSETS_RETENTION_MINUTES,
    # For compaction, of the offsets only. The default of 128 MiB is a quarter of the heap.
    "log.cleaner.dedupe.buffer.size": 16 * 2**20,
}

LOG4J = """\
Configuration:
  Appenders:
    Console:
      name: out
      target: SYSTEM_OUT
      PatternLayout:
        pattern: "%d{ISO8601} %-5p %c{1}: %m%n"
  Loggers:
    Root:
      level: WARN
      AppenderRef:
        - ref: out
    Logger:
      - name: kafka
        level: INFO
      - name: org.apache.kafka.common.config
        level: WARN
      - name: kafka.server.KafkaConfig
        level: WARN
"""


def _build(settings: Settings) -> tuple[Process]:
    paths = Paths(settings.datastream_state)
    properties, log4j = _files(paths)
    (agent,) = jars.read_locked(AGENT)
    process = Process(
        name=NAME,
        command=[
            runtime.executable(), "-Xms256m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
            "-XX:+ExplicitGCInvokesConcurrent",
            # Kafka's compression libraries need both; without the options Java prints a page of warnings.
            "--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow",
            *runtime.options(paths.tmp),
            f"-javaagent:{agent.path}={LOOPBACK}:{metrics_port(paths)}:{METRICS}",
            f"-Dlog4j2.configurationFile={log4j}", "kafka.Kafka", str(properties),
        ],
        # In the environment, because the process list would be unreadable with it.
        environment={"CLASSPATH": _class_path()},
        folder=paths.service(NAME),
        files={properties: _properties(settings), log4j: LOG4J},
    )  # fmt: skip
    return (process,)


def metrics_port(paths: Paths) -> int:
    """The port on which the broker serves its metrics."""
    return ports.pick_private(paths, "kafka-metrics")


def _files(paths: Paths) -> tuple[Path, Path]:
    return paths.run / "kafka.properties", paths.run / "kafka-log4j2.yaml"


def _data(paths: Paths) -> Path:
    return paths.service(NAME) / "data"


def _class_path() -> str:
    return ":".join(str(jar.path) for jar in jars.read_locked(NAME))


def _properties(settings: Settings) -> str:
    paths = Paths(settings.datastream_state)
    controller = ports.pick_private(paths, "kafka-controller")
    values = {
        "process.roles": "broker,controller",
        "node.id": 1,
        # Static: a dynamic quorum writes the controller's address to the disk, and this port may have to change.
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{settings.kafka_port},CONTROLLER://{LOOPBACK}:{controller}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{settings.kafka_port}",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": _data(paths),
        **BROKER,
    }
    # Java reads properties as ISO 8859-1; other characters are escaped as in JSON.
    return "".join(f"{key}={json.dumps(str(value))[1:-1]}\n" for key, value in values.items())


def _format(settings: Settings) -> None:
    """Format the data folder unless it is formatted already.

    Raises:
        ServiceFailedError: with the output of Kafka's StorageTool.
    """
    paths = Paths(settings.datastream_state)
    data = _data(paths)
    if (data / "meta.properties").exists():
        return
    properties, log4j = _files(paths)
    command = [
        runtime.executable(), *runtime.options(paths.tmp), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
        f"-Dlog4j2.configurationFile={log4j}", "kafka.tools.StorageTool", "format",
        "--cluster-id", CLUSTER_ID, "--config", str(properties), "--ignore-formatted",
    ]  # fmt: skip
    result = subprocess.run(
        command, env={**environment.make_base(paths), "CLASSPATH": _class_path()}, cwd=paths.service(NAME),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if result.returncode:
        raise ServiceFailedError(f"Kafka: formatting {data} failed:\n{result.stdout}{result.stderr}")


def _find_fault(settings: Settings) -> str | None:
    # Without a logger, librdkafka prints each refused connection while the broker starts.
    quiet = logging.getLogger(f"{__name__}.probe")
    quiet.setLevel(logging.CRITICAL)
    if ports.is_free(settings.kafka_port):
        return f"nothing listens on port {settings.kafka_port}"
    admin = AdminClient({"bootstrap.servers": _url(settings), "socket.timeout.ms": 3000}, logger=quiet)
    try:
        cluster = admin.describe_cluster(request_timeout=3).result(5)
    except (KafkaException, TimeoutError) as error:
        return f"does not answer ({error})"
    if cluster.cluster_id != CLUSTER_ID:
        return f"port {settings.kafka_port} belongs to another cluster ({cluster.cluster_id})"
    return None if cluster.nodes else "no broker is registered"


def _url(settings: Settings) -> str:
    return f"{LOOPBACK}:{settings.kafka_port}"


SERVICE = Service(
    name=NAME,
    title="Kafka",
    setting="KAFKA_PORT",
    memory_mib=700,
    url=_url,
    expected_at=lambda settings: settings.bootstrap_servers,
    build=_build,
    prepare=_format,
    find_fault=_find_fault,
    jars=(NAME, AGENT),
    isolation={"kafka_bootstrap_servers": ""},
)
