"""The notes' ledger: raw = result + dlq + pending, counted at Kafka."""

from __future__ import annotations

from jobs.clients import Systems
from jobs.kafka.client import broker_errors, consumer
from jobs.kafka.dead_letter import headers_of, is_dead_letter_of, times_replayed
from jobs.kafka.offsets import SETTLE_S, bounds, group_offsets, held_back, partitions
from jobs.kafka.scan import scan, whole
from jobs.ledger import verdict
from jobs.ledger.verdict import Figure
from jobs.notes.vertical import SCORE_DAG, NotesSettings


class Ledger(verdict.Ledger, kw_only=True):
    """Messages on the topics."""

    raw: int
    result: int
    dlq: int
    replayed: int
    pending: int

    @property
    def is_in_progress(self) -> bool:
        return self.pending > 0

    @property
    def figures(self) -> list[Figure]:
        names = ("raw", "result", "dlq", "replayed", "pending")
        return [Figure(name, getattr(self, name), "Kafka") for name in names]


def take_ledger(systems: Systems[NotesSettings]) -> Ledger:
    """Count the notes. (The rides' ledger shows how to count while messages move.)"""
    settings, config = systems.settings, systems.config
    raw_topic, result_topic, dlq_topic = (getattr(settings, name) for name in settings.topic_settings)
    with broker_errors(config, "counting the notes"), consumer(config, "notes-ledger") as client:
        offset_bounds = {
            topic: bounds(config, client, topic, partitions(client, topic), settle_s=SETTLE_S)
            for topic in (raw_topic, result_topic, dlq_topic)
        }
        messages = {
            topic: [message for batch in scan(client, topic, whole(limits), systems.progress) for message in batch]
            for topic, limits in offset_bounds.items()
        }
    done = group_offsets(config, raw_topic, SCORE_DAG)
    pending = sum(message.offset() >= (done[message.partition()] or 0) for message in messages[raw_topic])
    result = len(messages[result_topic])
    dlq = sum(is_dead_letter_of(headers_of(message), raw_topic, SCORE_DAG) for message in messages[dlq_topic])
    raw = len(messages[raw_topic])
    known = result + dlq + pending
    faults = [] if raw == known else [f"{raw} notes came in, {known} are accounted for"]
    return Ledger(
        balanced=not faults,
        faults=faults,
        held_back=[part for topic, limits in offset_bounds.items() for part in held_back(topic, limits)],
        raw=raw,
        result=result,
        dlq=dlq,
        replayed=sum(times_replayed(headers_of(message)) > 0 for message in messages[raw_topic]),
        pending=pending,
    )
