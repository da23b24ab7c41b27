"""Run steps of the playbook on an engine, and collect their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from google.cloud import storage

from jobs.errors import ConfigurationError
from jobs.rides.zones import FILE, Revenue, Zone, Zones, encode
from jobs.sinks.parquet import check_bucket, translate_errors
from jobs.zones.bigquery import BigQueryEngine, create_bigquery_client
from jobs.zones.engine import Answer, Engine
from jobs.zones.local import LocalEngine
from jobs.zones.playbook import MODELS_FOLDER, Parameters, Step, build_parameters, read_steps
from jobs.zones.reference import Report, ensure
from jobs.zones.vertical import ZonesSettings

# Called after each statement with its step, its text and its answer.
OnAnswer = Callable[[Step, str, Answer], None]
# Answers by step name, one for each statement.
Answers = dict[str, list[Answer]]

# The tables that scoring on the local engine needs from a training, in addition to the model.
_SAVED_TABLES = ["zones"]
# The steps whose answers are the result.
_ZONES, REVENUE_STEP, _SAMPLE = RESULT_STEPS = ("26_cluster_sizes", "36_revenue", "41_sample_for_the_map")


@contextmanager
def open_engine(settings: ZonesSettings, client: storage.Client) -> Iterator[Engine]:
    """Open BigQuery if BIGQUERY_PROJECT is set, else the local engine.

    Raises:
        ConfigurationError: BigQuery cannot read the bucket, or there are no credentials.
    """
    if not settings.bigquery_project:
        with LocalEngine(client) as engine:
            yield engine
        return
    if settings.gcs_endpoint is not None:
        raise ConfigurationError(
            f"BIGQUERY_PROJECT={settings.bigquery_project} is set, but BigQuery cannot read the emulator at "
            f"{settings.gcs_endpoint}. Set GCS_BUCKET and GOOGLE_APPLICATION_CREDENTIALS, or leave BIGQUERY_PROJECT "
            "empty for the local engine."
        )
    yield BigQueryEngine(create_bigquery_client(settings), settings.bigquery_max_bytes_billed)


def prepare(settings: ZonesSettings, client: storage.Client, values: Parameters) -> Report:
    """Check the bucket and the reference file. Only the emulator's bucket gets a generated file if it has none.

    Raises:
        ConfigurationError, ServiceUnavailableError
    """
    check_bucket(client, values.bucket)
    return ensure(client, values, may_generate=settings.gcs_endpoint is not None)


def run(engine: Engine, selected: Iterable[Step], values: Parameters, on_answer: OnAnswer) -> Answers:
    """Run steps in the given order; call `on_answer` after each statement.

    Raises:
        StatementError, RefusedError, ConfigurationError, ServiceUnavailableError: later steps did not run.
    """
    answers: Answers = {}
    for step in selected:
        for statement in step.build_statements(values):
            answer = engine.run(statement, step.name)
            answers.setdefault(step.name, []).append(answer)
            on_answer(step, statement, answer)
    return answers


def collect(answers: Answers, engine: str, reference: str) -> Zones:
    """Build the result from the answers of a run that included RESULT_STEPS."""
    (zones,), (revenue,), (sample,) = (answers[name] for name in RESULT_STEPS)
    return Zones(
        generated_at=datetime.now(UTC).isoformat(timespec="seconds"),
        engine=engine,
        reference=reference,
        zones=[
            Zone(
                centroid_id=row["centroid_id"],
                label=row["label"],
                longitude=row["longitude"],
                latitude=row["latitude"],
                reference_points=row["reference_points"],
                radius=row["radius"],
            )
            for row in zones.to_records()
        ],
        revenue=to_revenue(revenue),
        sample=[(lon, lat, zone) for lon, lat, zone in sample.values],
    )


def to_revenue(answer: Answer) -> list[Revenue]:
    """Convert the answer of REVENUE_STEP."""
    return [
        Revenue(
            centroid_id=row["cluster_id"],
            label=row["label"],
            comfort=row["comfort"],
            revenue=row["revenue"],
            rides=row["n"],
            outside=row["n_outside"],
        )
        for row in answer.to_records()
    ]


def read_revenue(engine: Engine, values: Parameters) -> list[Revenue]:
    """Read the revenue that the last scoring has summed.

    Raises:
        ConfigurationError: there was no scoring yet.
        ServiceUnavailableError
    """
    steps = [step for step in read_steps("look") if step.name == REVENUE_STEP]
    (answer,) = run(engine, steps, values, lambda *_: None)[REVENUE_STEP]
    return to_revenue(answer)


def train_locally(settings: ZonesSettings, client: storage.Client, on_answer: OnAnswer) -> str:
    """Train on the local engine and save the model to the bucket; return its URI.

    Raises:
        StatementError, ConfigurationError, ServiceUnavailableError
    """
    values = build_parameters(settings)
    prepare(settings, client, values)
    with LocalEngine(client) as engine:
        run(engine, read_steps("dataset", "setup", "train"), values, on_answer)
        return engine.save(values.bucket, values.dataset, _SAVED_TABLES)


def score_locally(settings: ZonesSettings, client: storage.Client, on_answer: OnAnswer) -> str:
    """Score all rides with the saved model and write the result, a `Zones` as JSON; return its URI.

    Raises:
        RefusedError: the rides are from another city.
        StatementError, ConfigurationError, ServiceUnavailableError
    """
    values = build_parameters(settings)
    check_bucket(client, values.bucket)
    candidates = read_steps("dataset", "setup", "score", "look")
    selected = [step for step in candidates if step.role != "look" or step.name in RESULT_STEPS]
    with LocalEngine(client) as engine:
        engine.restore(values.bucket, values.dataset)
        zones = collect(run(engine, selected, values, on_answer), engine.title, "as trained")
    name = f"{MODELS_FOLDER}{values.dataset}/{FILE}"
    with translate_errors(client, f"writing gs://{values.bucket}/{name}"):
        client.bucket(values.bucket).blob(name).upload_from_string(encode(zones), "application/json")
    return f"gs://{values.bucket}/{name}"
