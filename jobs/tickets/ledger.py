"""The ledger of tickets: every message of the topic is in one output, counted in Kafka and in the outputs.

It compares positions, not only counts. And it computes the metrics again with DuckDB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from jobs.clients import Systems
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.offsets import Bounds, list_held_back
from jobs.kafka.scan import claim_all, scan
from jobs.ledger import verdict
from jobs.ledger.verdict import Figure
from jobs.tickets.contract import HIGH_PRIORITIES, PRIORITIES, TEAMS, Reason
from jobs.tickets.outputs import Run
from jobs.tickets.reader import Outputs, load_outputs
from jobs.tickets.source import Topic
from jobs.tickets.vertical import TicketsSettings

Position = tuple[int, int]  # partition, offset


class Ledger(verdict.Ledger, kw_only=True):
    """Counts of messages: in Kafka up to the position of the run, in the outputs, and after that position.

    `expired`: those in the outputs that retention has deleted from the topic.
    """

    incoming: int
    expired: int
    tickets: int
    rejects: int
    rejects_by_reason: dict[str, int]
    pending: int
    metrics: dict[str, int]
    run: Run | None

    @property
    def is_in_progress(self) -> bool:
        return self.pending > 0

    @property
    def figures(self) -> list[Figure]:
        return [
            Figure("in", self.incoming, "Kafka"),
            *([Figure("expired from Kafka", self.expired, "outputs")] if self.expired else []),
            Figure("tickets", self.tickets, "outputs"),
            Figure("rejects", self.rejects, "outputs"),
            Figure("  of these duplicates", self.rejects_by_reason.get(Reason.DUPLICATE_TICKET, 0), "outputs"),
            Figure("pending", self.pending, "Kafka"),
        ]

    @property
    def notes(self) -> list[str]:
        if self.run is None:
            return ["The outputs come from different runs: a run is replacing them, or was killed. Try again."]
        total = self.incoming + self.expired
        sign = "=" if total == self.tickets + self.rejects else "≠"
        figures = ", ".join(f"{name} {count:,}" for name, count in self.metrics.items())
        return [
            f"in {total:,} {sign} tickets {self.tickets:,} + rejects {self.rejects:,}",
            f"metrics by DuckDB: {figures}",
        ]


def take_ledger(systems: Systems[TicketsSettings]) -> Ledger:
    """Count the tickets."""
    settings = systems.settings
    topic = Topic(settings.tickets_broker, settings.tickets_topic_name)
    outputs = load_outputs(settings.tickets_output_path)
    tickets = _read_positions(outputs, "SELECT kafka_partition AS p, kafka_offset AS o FROM tickets_with_assignment")
    rejects = _read_positions(outputs, 'SELECT partition AS p, "offset" AS o FROM rejects')
    by_reason = outputs.query("SELECT reason, count(*) AS count FROM rejects GROUP BY reason ORDER BY reason")
    bounds = topic.read_bounds()
    messages = _read_messages(systems, topic, bounds)
    ends = next(iter(outputs.runs.values())).ends
    incoming = {(partition, offset) for partition, offset in messages if offset < ends.get(partition, 0)}
    written = Counter(tickets + rejects)
    expired = {(partition, offset) for partition, offset in written if offset < bounds[partition].low}
    metrics = compute_metrics(outputs)
    lost = incoming - written.keys()
    twice = {position for position, count in written.items() if count > 1}
    faults = [
        *_compare("of the topic in no output", lost),
        *_compare("of the outputs not in the topic", written.keys() - incoming - expired),
        *_compare("twice in the outputs", twice),
        *find_differences(outputs, metrics),
    ]
    return Ledger(
        balanced=None if outputs.run is None else not faults,
        faults=faults,
        lost=len(lost),
        doubled=len(twice),
        held_back=list_held_back(topic.name, bounds),
        incoming=len(incoming),
        expired=len(expired),
        tickets=len(tickets),
        rejects=len(rejects),
        rejects_by_reason={row["reason"]: row["count"] for row in by_reason},
        pending=len(messages) - len(incoming),
        metrics=metrics,
        run=outputs.run,
    )


def _read_positions(outputs: Outputs, sql: str) -> list[Position]:
    return [(row["p"], row["o"]) for row in outputs.query(sql)]


def _read_messages(systems: Systems[TicketsSettings], topic: Topic, bounds: Mapping[int, Bounds]) -> set[Position]:
    """The positions of all messages in the topic."""
    doing = f"counting {topic.name}"
    with translate_broker_errors(topic.config, doing), open_consumer(topic.config, "tickets-ledger") as client:
        lists = scan(client, topic.name, claim_all(bounds), systems.progress)
        return {(message.partition(), message.offset()) for messages in lists for message in messages}


def _compare(what: str, positions: set[Position]) -> list[str]:
    if not positions:
        return []
    partition, offset = min(positions)
    return [f"{len(positions):,} messages {what}, first partition {partition} offset {offset}"]


def compute_metrics(outputs: Outputs) -> dict[str, int]:
    """The metrics, computed from the tickets."""
    by_type = ", ".join(f"count(*) FILTER (request_type = '{kind}') AS {kind}_count" for kind in TEAMS)
    (metrics,) = outputs.query(
        f"SELECT count(*) AS total_tickets, {by_type}, count(*) FILTER (priority = 'critical') "  # noqa: S608
        "AS critical_priority_count, count(DISTINCT client_id) AS unique_clients FROM tickets_with_assignment"
    )
    return metrics


def find_differences(outputs: Outputs, metrics: Mapping[str, int]) -> list[str]:
    """How the outputs that are made from the tickets differ from what DuckDB makes of them."""
    high = ", ".join(f"'{priority}'" for priority in HIGH_PRIORITIES)
    checks: dict[str, tuple[Any, Any]] = {
        "metrics": (outputs.query("FROM metrics"), [dict(metrics)]),
        "tickets_by_type": _count_by(outputs, "request_type", tuple(TEAMS), "tickets_by_type"),
        "tickets_by_priority": _count_by(outputs, "priority", PRIORITIES, "tickets_by_priority"),
        "high_priority_tickets": (
            outputs.query("SELECT ticket_id FROM high_priority_tickets ORDER BY ALL"),
            outputs.query(f"SELECT ticket_id FROM tickets_with_assignment WHERE priority IN ({high}) ORDER BY ALL"),  # noqa: S608
        ),
        "ticket_id": (
            outputs.query("SELECT count(DISTINCT ticket_id) AS count FROM tickets_with_assignment"),
            outputs.query("SELECT count(*) AS count FROM tickets_with_assignment"),
        ),
    }
    return [
        f"{name}: {str(written)[:200]} instead of {str(computed)[:200]}"
        for name, (written, computed) in checks.items()
        if written != computed
    ]


def _count_by(outputs: Outputs, column: str, values: tuple[str, ...], name: str) -> tuple[Any, Any]:
    computed = outputs.query(f"SELECT {column}, count(*) AS count FROM tickets_with_assignment GROUP BY ALL")  # noqa: S608
    counts = dict.fromkeys(values, 0) | {row[column]: row["count"] for row in computed}
    return {row[column]: row["count"] for row in outputs.query(f"FROM {name}")}, counts
