"""What the broker knows of a transactional id, asked with Kafka's own tool."""

from __future__ import annotations

import os
import subprocess

from infra.local import jars, java, kafka
from tests.faults.ground import Ground


def transaction_state(ground: Ground, transactional_id: str) -> str:
    """Empty: initialised, nothing sent since. Ongoing: in a transaction. Complete…: the last one is over.

    Source: `kafka-transactions.sh describe`, KIP-664.
    """
    command = [
        java.executable(), "-Xmx128m", "-XX:TieredStopAtLevel=1", "org.apache.kafka.tools.TransactionsCommand",
        "--bootstrap-server", ground.direct.bootstrap_servers, "describe", "--transactional-id", transactional_id,
    ]  # fmt: skip
    class_path = ":".join(str(jar.path) for jar in jars.locked(kafka.NAME))
    done = subprocess.run(
        command, env={**os.environ, "CLASSPATH": class_path}, capture_output=True, text=True, check=False, timeout=60
    )
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or len(lines) < 2:
        return f"not known: {done.stdout[-200:]}{done.stderr[-200:]}"
    return dict(zip(lines[0], lines[1], strict=False)).get("TransactionState", " ".join(lines[1]))
