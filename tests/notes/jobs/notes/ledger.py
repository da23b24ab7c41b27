"""The notes' ledger: raw = result + dlq + pending, counted at Kafka."""

from __future__ import annotations

from jobs.clients import Systems
from jobs.kafka.client import open_consumer, translate_broker_errors
from jobs.kafka.dead_letter import count_replays, is_dead_letter_of, read_headers
from jobs.kafka.offsets import SETTLE_S, list_held_back, list_partitions, read_bounds, read_group_offsets
from jobs.kafka.scan import claim_all, scan
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
    with translate_broker_errors(config, "counting the notes"), open_consumer(config, "notes-ledger") as client:
        offset_bounds = {
            topic: read_bounds(config, client, topic, list_partitions(client, topic), settle_s=SETTLE_S)
            for topic in (raw_topic, result_topic, dlq_topic)
        }
        messages = {
            topic: [message for batch in scan(client, topic, claim_all(limits), systems.progress) for message in batch]
            for topic, limits in offset_bounds.items()
        }
    done = read_group_offsets(config, raw_topic, SCORE_DAG)
    pending = sum(message.offset() >= (done[message.partition()] or 0) for message in messages[raw_topic])
    result = len(messages[result_topic])
    dlq = sum(is_dead_letter_of(read_headers(message), raw_topic, SCORE_DAG) for message in messages[dlq_topic])
    raw = len(messages[raw_topic])
    known = result + dlq + pending
    faults = [] if raw == known else [f"{raw} notes came in, {known} are accounted for"]
    return Ledger(
        balanced=not faults,
        faults=faults,
        held_back=[part for topic, limits in offset_bounds.items() for part in list_held_back(topic, limits)],
        raw=raw,
        result=result,
        dlq=dlq,
        replayed=sum(count_replays(read_headers(message)) > 0 for message in messages[raw_topic]),
        pending=pending,
    )
