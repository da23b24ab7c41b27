"""A Kafka broker that is its own controller (KRaft), with everything on one disk."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.local import environment, jars, java, paths, ports
from infra.local.errors import ServiceFailedError
from infra.local.service import Process, Service
from jobs.settings import LOOPBACK, Settings

NAME = "kafka"
# Fixed, so that a disk that was formatted once is recognised whatever becomes of the other generated files.
CLUSTER_ID = "ZGF0YXN0cmVhbS1sb2NhbA"
OFFSETS_RETENTION_MINUTES = 60 * 24 * 60

# How the broker works, with and without Docker (infra/docker-compose.yml).
BROKER = {
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": 0,
    # A killed broker may only register again when its old session has run out: by default 9 s after its start.
    "broker.session.timeout.ms": 4000,
    "broker.heartbeat.interval.ms": 500,
    # One broker: nothing can have a second copy.
    "default.replication.factor": 1,
    "min.insync.replicas": 1,
    "offsets.topic.replication.factor": 1,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    # The defaults of 50 are for clusters; each costs files and start time.
    "offsets.topic.num.partitions": 8,
    "transaction.state.log.num.partitions": 8,
    "share.coordinator.state.topic.num.partitions": 8,
    "offsets.retention.minutes": OFFSETS_RETENTION_MINUTES,
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


def service(settings: Settings) -> Service:
    return Service(
        name=NAME,
        title="Kafka",
        port=settings.kafka_port,
        setting="KAFKA_PORT",
        url=f"{LOOPBACK}:{settings.kafka_port}",
        memory_mib=700,
        process_names=(NAME,),
        build=lambda: (_process(settings),),
        prepare=lambda: _format(paths.of(settings)),
        jars=("kafka",),
        fault=lambda: _fault(settings),
    )


def _process(settings: Settings) -> Process:
    where = paths.of(settings)
    properties, log4j = _files(where)
    return Process(
        name=NAME,
        command=[
            java.executable(), "-Xms256m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
            "-XX:+ExplicitGCInvokesConcurrent",
            # What Kafka and its compression libraries do anyway; else each start prints a page of warnings.
            "--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow", *java.options(where.tmp),
            f"-Dlog4j2.configurationFile={log4j}", "kafka.Kafka", str(properties),
        ],
        # The class path goes by environment to keep the process list readable.
        environment={"CLASSPATH": _class_path()},
        folder=where.kafka,
        files={properties: _properties(settings), log4j: LOG4J},
    )  # fmt: skip


def _files(where: paths.Paths) -> tuple[Path, Path]:
    return where.run / "kafka.properties", where.run / "kafka-log4j2.yaml"


def _class_path() -> str:
    return ":".join(str(jar.path) for jar in jars.locked(NAME))


def _properties(settings: Settings) -> str:
    where = paths.of(settings)
    controller = ports.chosen(where, "kafka-controller")
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
        "log.dirs": where.kafka / "data",
        **BROKER,
    }
    return "".join(f"{key}={value}\n" for key, value in values.items())


def _format(where: paths.Paths) -> None:
    """Give an empty disk its identity; a formatted one is left alone.

    Raises:
        ServiceFailedError: with what the tool printed.
    """
    if (where.kafka / "data" / "meta.properties").exists():
        return
    properties, log4j = _files(where)
    command = [
        java.executable(), *java.options(where.tmp), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
        f"-Dlog4j2.configurationFile={log4j}", "kafka.tools.StorageTool", "format",
        "--cluster-id", CLUSTER_ID, "--config", str(properties), "--ignore-formatted",
    ]  # fmt: skip
    result = subprocess.run(
        command, env={**environment.base(where), "CLASSPATH": _class_path()}, cwd=where.kafka,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if result.returncode:
        raise ServiceFailedError(f"Kafka: formatting {where.kafka / 'data'} failed:\n{result.stdout}{result.stderr}")


def _fault(settings: Settings) -> str | None:
    # librdkafka prints each refused connection unless it has a logger; a broker that is not up yet is no news.
    quiet = logging.getLogger("infra.local.kafka.probe")
    quiet.setLevel(logging.CRITICAL)
    if ports.is_free(settings.kafka_port):
        return f"nothing listens on port {settings.kafka_port}"
    address = f"{LOOPBACK}:{settings.kafka_port}"
    admin = AdminClient({"bootstrap.servers": address, "socket.timeout.ms": 3000}, logger=quiet)
    try:
        cluster = admin.describe_cluster(request_timeout=3).result(5)
    except (KafkaException, TimeoutError) as error:
        return f"not answering ({error})"
    if cluster.cluster_id != CLUSTER_ID:
        return f"port {settings.kafka_port} is another cluster's ({cluster.cluster_id})"
    return None if cluster.nodes else "no broker is registered"
