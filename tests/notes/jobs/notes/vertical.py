"""The notes vertical."""

from __future__ import annotations

from typing import ClassVar

from jobs.settings import ROOT, Name, Settings
from jobs.vertical import DeadLetters, Group, Vertical

SCORE_DAG = "dag_score_notes"


class NotesSettings(Settings):
    """Settings of the notes vertical."""

    topic_settings: ClassVar[tuple[str, ...]] = ("notes_raw_topic", "notes_result_topic", "notes_dlq_topic")

    notes_raw_topic: Name = "notes_raw"
    notes_result_topic: Name = "notes_result"
    notes_dlq_topic: Name = "notes_dlq"
    notes_index: Name = "notes"


VERTICAL = Vertical(
    name="notes",
    settings=NotesSettings,
    topics=ROOT / "infra" / "kafka" / "topics" / "notes.yml",
    groups=(Group(SCORE_DAG, "notes_raw_topic", done="scored"),),
    dags=(SCORE_DAG,),
    variables=("notes_raw_topic", "notes_result_topic", "notes_dlq_topic"),
    templates={"notes_index": ROOT / "infra" / "elasticsearch" / "notes-template.json"},
    dead_letters=DeadLetters("notes_dlq_topic", "notes_dlq_replay", {"notes_raw_topic": SCORE_DAG}),
    metrics={
        "datastream.notes.scored": "notes scored",
        "datastream.notes.rejected": "messages rejected, by reason",
        "datastream.notes.freshness": "age of a run's oldest message when it is done, by DAG",
    },
    ledger="jobs.notes.ledger:take_ledger",
    requirement_set="notes",
    services=("kafka", "elasticsearch", "airflow"),
)
