"""The declaration of the rides vertical."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from jobs.settings import ROOT, Index, Name, Settings, Topic
from jobs.vertical import DeadLetters, Engine, Group, Trigger, Vertical

COMPUTE_GROUP = COMPUTE_DAG = "dag_compute_cost"
INDEX_GROUP = INDEX_DAG = "dag_index_and_export"
EXPORT_GROUP = "dag_index_and_export.PutGCP"
REPROCESS_GROUP = "reprocess"

REPLAY_GROUP = "dlq_replay"
DEAD_LETTERS = DeadLetters("dlq_topic", REPLAY_GROUP, {"raw_topic": COMPUTE_DAG, "result_topic": INDEX_DAG})
EXPORT_FLUSH = Trigger(INDEX_DAG, {"export_now": True})
TEMPLATE = ROOT / "infra" / "elasticsearch" / "rides-template.json"

DistanceMethod = Literal["haversine", "geodesic"]


class RidesSettings(Settings):
    """The settings of rides. (They predate the rule that the name of a setting starts with its vertical.)"""

    topic_settings: ClassVar[tuple[str, ...]] = ("raw_topic", "result_topic", "dlq_topic")

    raw_topic: Topic = "rides_raw"
    result_topic: Topic = "rides_result"
    dlq_topic: Topic = "rides_dlq"
    rides_index: Index = "rides"
    gcs_prefix: Name = "rides/processed/"

    # What prices a claim: ComputeCostTravel's own process, or Spark (jobs/rides/spark).
    compute_engine: Engine = "python"
    distance_method: DistanceMethod = "haversine"
    export_target_records: Annotated[int, Field(ge=1)] = 500_000
    export_max_age_s: Annotated[float, Field(ge=0)] = 300
    # Days; 0 keeps everything.
    rides_index_retention_days: Annotated[int, Field(ge=0)] = 0


VERTICAL = Vertical(
    name="rides",
    settings=RidesSettings,
    topics=ROOT / "infra" / "kafka" / "topics" / "rides.yml",
    groups=(
        Group(COMPUTE_GROUP, "raw_topic", done="priced"),
        Group(INDEX_GROUP, "result_topic", done="indexed"),
        Group(EXPORT_GROUP, "result_topic", done="exported", flush=EXPORT_FLUSH),
    ),
    command_groups={REPROCESS_GROUP: "raw_topic"},
    dags=(COMPUTE_DAG, INDEX_DAG),
    variables=("raw_topic", "result_topic", "dlq_topic", "gcs_prefix"),
    templates={"rides_index": TEMPLATE},
    dashboard="rides",
    dead_letters=DEAD_LETTERS,
    metrics={
        "datastream.lag": "offsets behind when a run claims, by topic",
        "datastream.rides.priced": "rides priced",
        "datastream.rides.rejected": "messages rejected, by reason",
        "datastream.rides.indexed": "rides put into Elasticsearch",
        "datastream.rides.exported": "rides put into Cloud Storage",
        "datastream.rides.refused": "results that a sink refused, by reason",
        "datastream.rides.freshness": "age of a run's oldest message when it is done, by DAG",
    },
    ledger="jobs.rides.ops.ledger:take_ledger",
    services=("kafka", "elasticsearch", "gcs", "airflow"),
)
