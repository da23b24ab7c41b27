"""Find which transactions hold messages back, with Kafka's command line tool: the client has no call for that."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from jobs.inherited import make_environment
from jobs.kafka.client import Config
from jobs.kafka.offsets import HeldBack

# Its name in Kafka's archive and in some distributions.
_TOOLS = ("kafka-transactions.sh", "kafka-transactions")
_TIMEOUT_S = 60


def describe_held_back(config: Config, held: Sequence[HeldBack]) -> list[str]:
    """A line for each partition with offsets held back: how many, from which on, and by which transactional id.

    Without kafka-transactions.sh on the PATH, the lines have no id, and the last line has the commands to run.
    """
    if not held:
        return []
    servers = config["bootstrap.servers"]
    tool = next(filter(None, map(shutil.which, _TOOLS)), None)
    if tool is None:
        first = held[0]
        ask = f"{_TOOLS[0]} --bootstrap-server {servers}"
        return [
            *map(str, held),
            f"To find the transaction: `{ask} describe-producers --topic {first.topic} --partition {first.partition}` "
            f"and `{ask} list` (a tool of Kafka that is not on the PATH)",
        ]
    command = [tool, "--bootstrap-server", servers]
    try:
        ids = {row["ProducerId"]: row["TransactionalId"] for row in _read_table([*command, "list"])}
        holders = [_find_holder(command, offsets, ids) or "that has just ended" for offsets in held]
        return [f"{offsets}, by the transactional id {holder}" for offsets, holder in zip(held, holders, strict=True)]
    except (subprocess.SubprocessError, OSError, ValueError, LookupError) as error:
        return [*map(str, held), f"Could not find the transaction with {tool}: {error}"]


def _find_holder(command: list[str], held: HeldBack, ids: dict[str, str]) -> str | None:
    """The transactional id of the oldest open transaction on a partition."""
    describe = [*command, "describe-producers", "--topic", held.topic, "--partition", str(held.partition)]
    began = {
        int(row["CurrentTransactionStartOffset"]): row["ProducerId"]
        for row in _read_table(describe)
        if row["CurrentTransactionStartOffset"].isdigit()
    }
    return ids.get(began[min(began)]) if began else None


def _read_table(command: list[str]) -> Iterator[dict[str, str]]:
    """The rows of the tool's table, which has a header and columns separated by spaces."""
    # The tool is a script that may find Java only by this variable.
    environment = make_environment({name: os.environ[name] for name in ("JAVA_HOME",) if name in os.environ})
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    lines = [line.split() for line in answer.stdout.splitlines() if line.strip()]
    for cells in lines[1:]:
        yield dict(zip(lines[0], cells, strict=True))
