"""Who holds messages back: Kafka's own tool shows the transactional ids; the client has no call for them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence

from jobs.kafka.client import Config
from jobs.kafka.offsets import HeldBack

# Kafka's archive, and what some distributions call it.
_TOOLS = ("kafka-transactions.sh", "kafka-transactions")
_TIMEOUT_S = 60


def explained(config: Config, held: Sequence[HeldBack]) -> list[str]:
    """A line for each partition with held offsets: how many, from which on, and by which transactional id.

    The id is left out where the PATH has no kafka-transactions.sh; the last line then says how to ask it. It is empty
    where nothing is held back.
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
            f"Who holds them: `{ask} describe-producers --topic {first.topic} --partition {first.partition}` and "
            f"`{ask} list` (Kafka's own tool, which is not on the PATH)",
        ]
    command = [tool, "--bootstrap-server", servers]
    try:
        ids = {row["ProducerId"]: row["TransactionalId"] for row in _rows([*command, "list"])}
        return [f"{it}, by the transactional id {_holder(command, it, ids) or 'that has just ended'}" for it in held]
    except (subprocess.SubprocessError, OSError, ValueError, LookupError) as error:
        return [*map(str, held), f"{tool} could not tell who holds them: {error}"]


def _holder(command: list[str], held: HeldBack, ids: dict[str, str]) -> str | None:
    """The transactional id of the producer whose transaction on a partition began first."""
    asked = [*command, "describe-producers", "--topic", held.topic, "--partition", str(held.partition)]
    began = {
        int(row["CurrentTransactionStartOffset"]): row["ProducerId"]
        for row in _rows(asked)
        if row["CurrentTransactionStartOffset"].isdigit()
    }
    return ids.get(began[min(began)]) if began else None


def _rows(command: list[str]) -> Iterator[dict[str, str]]:
    """The tool's table: columns that are set apart by blanks, with a line of names."""
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    lines = [line.split() for line in answer.stdout.splitlines() if line.strip()]
    for cells in lines[1:]:
        yield dict(zip(lines[0], cells, strict=True))
