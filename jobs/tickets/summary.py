"""What one batch did: counts and tickets for the log, and metrics for StatsD."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from jobs.tickets.outputs import Run

log = logging.getLogger("ticket_processor")


@dataclass(frozen=True)
class Summary:
    """Counts of messages; `rejects` by reason. `lag`: messages after the batch."""

    run: Run
    tickets: int
    rejects: Mapping[str, int]
    seconds: float

    @property
    def messages(self) -> int:
        return self.tickets + sum(self.rejects.values())

    def write_log(self, lag: int) -> None:
        reasons = "".join(f" {reason}={count}" for reason, count in sorted(self.rejects.items()))
        log.info(
            "run=%s in=%d tickets=%d rejects=%d%s lag=%d seconds=%.1f",
            self.run.id, self.messages, self.tickets, sum(self.rejects.values()), reasons, lag, self.seconds,
        )  # fmt: skip

    def send_metrics(self, address: str, lag: int) -> None:
        """Send the counts to a StatsD server, with labels as Airflow sends them.

        Args:
            address: host:port. Metrics are lost, and nothing else, while it cannot be resolved.
        """
        lines = [
            f"datastream.tickets.processed:{self.tickets}|c",
            *(f"datastream.tickets.rejected,reason={name}:{count}|c" for name, count in self.rejects.items()),
            f"datastream.tickets.lag:{lag}|g",
            f"datastream.tickets.batch_seconds:{self.seconds * 1000:.0f}|ms",
        ]
        host, _, port = address.rpartition(":")
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                for line in lines:
                    client.sendto(line.encode(), (host, int(port)))
        except socket.gaierror as error:
            log.debug("no metrics: %s: %s", address, error)
