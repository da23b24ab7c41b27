"""Clean observations and export them as Parquet: one unit for each quantity, delays filled in, rejects with reasons.

Exactly once, as every export of this project: the claim is planned in the offsets' metadata, the name of an object says
which messages it holds, and rejects and offsets are in one transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
import pyarrow as pa
from google.cloud import storage

from jobs.files import Folder, read_chunk
from jobs.flights.contract import Flight, Reason, Weather
from jobs.flights.units import measure_delay_min, to_celsius, to_metres_per_second
from jobs.flights.vertical import CLEAN_DAG, FlightsSettings
from jobs.kafka.claim import Limits, claim
from jobs.kafka.client import Config
from jobs.kafka.commit import Rejects, commit_offsets
from jobs.kafka.offsets import SETTLE_S, open_group_reader
from jobs.kafka.stage import stage
from jobs.kafka.staged import REJECT_SCHEMA, Chunk, make_reject_batch
from jobs.kafka.topic_ids import TopicIds
from jobs.sinks.parquet import check_bucket, export, holds_objects, join, name_object
from jobs.strict_json import RejectedError

_STAGE = "VALUE_CONVERTER"
_TIME = pa.timestamp("us", "UTC")

Row = dict[str, Any]


class Table(msgspec.Struct, frozen=True):
    """A table of clean rows.

    Attributes:
        name: the folder of its objects below FLIGHTS_PREFIX.
        schema: `ts` is the time of the observation.
        kind: the type of the messages.
        clean: makes a row of a message, or raises RejectedError.
        repetitive: columns with few different values (see `jobs.sinks.parquet.export`).
    """

    name: str
    schema: pa.Schema
    kind: Any
    clean: Callable[[Any], Row]
    repetitive: tuple[str, ...]


class Target(msgspec.Struct, frozen=True):
    """What to clean, for which consumer group, and where to."""

    topic: str
    group: str
    task_id: str
    dlq_topic: str
    bucket: str
    prefix: str
    table: Table


class Cleaned(msgspec.Struct, frozen=True):
    """The number of clean rows and of their objects, and the rejects by reason."""

    rows: int = 0
    objects: int = 0
    rejects: Counter[str] = msgspec.field(default_factory=Counter)


def clean_flight(flight: Flight) -> Row:
    """A row of FLIGHTS. A delay that the source does not give is the difference to the schedule, in minutes.

    Raises:
        RejectedError: the flight arrives before it departs, or has landed without a time.
    """
    row = _make_row(flight, FLIGHTS)
    if row["scheduled_arrival"] <= row["scheduled_departure"]:
        raise RejectedError(Reason.IMPLAUSIBLE, "scheduled_arrival is not after scheduled_departure")
    if flight.status == "landed" and flight.actual_arrival is None and flight.estimated_arrival is None:
        raise RejectedError(Reason.MISSING_VALUE, "the flight has landed, but there is no time of arrival")
    for end in ("departure", "arrival"):
        moment = row[f"actual_{end}"] or row[f"estimated_{end}"]
        row[f"{end}_delay_min"] = measure_delay_min(row[f"{end}_delay_min"], row[f"scheduled_{end}"], moment)
    if row["actual_departure"] and row["actual_arrival"] and row["actual_arrival"] <= row["actual_departure"]:
        raise RejectedError(Reason.IMPLAUSIBLE, "actual_arrival is not after actual_departure")
    return row


def clean_weather(weather: Weather) -> Row:
    """A row of WEATHER, in °C and m/s.

    Raises:
        RejectedError: there is no temperature.
    """
    if weather.temperature is None:
        raise RejectedError(Reason.MISSING_VALUE, "temperature is missing")
    row = _make_row(weather, WEATHER)
    row["temperature_c"] = to_celsius(weather.temperature, weather.units)
    row["feels_like_c"] = None if weather.feels_like is None else to_celsius(weather.feels_like, weather.units)
    for name in ("wind_speed", "wind_gust"):
        speed = getattr(weather, name)
        row[f"{name}_ms"] = None if speed is None else to_metres_per_second(speed, weather.units)
    return row


def _make_row(message: Flight | Weather, table: Table) -> Row:
    """The columns of a table that a message has; times are datetimes."""
    row: Row = {"ts": message.observed_at} | {
        field.name: getattr(message, field.name, None) for field in table.schema if field.name != "ts"
    }
    times = [field.name for field in table.schema if field.type == _TIME and row[field.name] is not None]
    return row | {name: datetime.fromisoformat(row[name]).astimezone(UTC) for name in times}


def _schema(columns: Mapping[str, pa.DataType], required: set[str]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=name not in required) for name, kind in columns.items()])


_PROVENANCE = {"source": pa.string(), "kafka_partition": pa.int32(), "kafka_offset": pa.int64()}
FLIGHTS = Table(
    "flights",
    _schema(
        {
            "event_id": pa.string(), "ts": _TIME, "flight_id": pa.string(), "airline": pa.string(),
            "number": pa.string(), "marketing_number": pa.string(), "flight_date": pa.string(),
            "departure_airport": pa.string(), "arrival_airport": pa.string(), "status": pa.string(),
            "scheduled_departure": _TIME, "estimated_departure": _TIME, "actual_departure": _TIME,
            "scheduled_arrival": _TIME, "estimated_arrival": _TIME, "actual_arrival": _TIME,
            "departure_delay_min": pa.float64(), "arrival_delay_min": pa.float64(), **_PROVENANCE,
        },
        {"event_id", "ts", "flight_id", "airline", "number", "flight_date", "departure_airport", "arrival_airport",
         "status", "scheduled_departure", "scheduled_arrival", *_PROVENANCE},
    ),
    Flight,
    clean_flight,
    ("airline", "departure_airport", "arrival_airport", "status", "source", "flight_date"),
)  # fmt: skip
WEATHER = Table(
    "weather",
    _schema(
        {
            "event_id": pa.string(), "ts": _TIME, "place_id": pa.string(), "lat": pa.float64(), "lon": pa.float64(),
            "temperature_c": pa.float64(), "feels_like_c": pa.float64(), "pressure_hpa": pa.float64(),
            "humidity_pct": pa.float64(), "visibility_m": pa.float64(), "wind_speed_ms": pa.float64(),
            "wind_deg": pa.float64(), "wind_gust_ms": pa.float64(), "clouds_pct": pa.float64(),
            "rain_1h_mm": pa.float64(), "snow_1h_mm": pa.float64(), "condition": pa.string(),
            "description": pa.string(), "air_observed_at": _TIME, "aqi": pa.int32(), "pm2_5": pa.float64(),
            "pm10": pa.float64(), "no2": pa.float64(), "o3": pa.float64(), **_PROVENANCE,
        },
        {"event_id", "ts", "place_id", "lat", "lon", "temperature_c", *_PROVENANCE},
    ),
    Weather,
    clean_weather,
    ("place_id", "condition", "description", "source"),
)  # fmt: skip
TABLES = {table.name: table for table in (FLIGHTS, WEATHER)}


def clean_topic(
    config: Config,
    client: storage.Client,
    target: Target,
    settings: FlightsSettings,
    *,
    folder: Folder,
    topic_ids: TopicIds,
) -> Cleaned | None:
    """Clean the new messages of a topic and write them as objects below <prefix>/<table>/YYYY/MM/DD/HH/.

    Returns:
        None without new messages.

    Raises:
        OffsetsError: the bucket has objects but the group no committed offsets, so everything would be exported twice.
        ConfigurationError, OffsetsError, ServiceUnavailableError: nothing was committed; it is safe to try again.
    """
    table = target.table
    check_bucket(client, target.bucket)
    prefix = join(target.prefix, table.name)
    with open_group_reader(config, target.topic, target.group) as reader:
        claimed = claim(
            config,
            reader,
            Limits.from_settings(settings),
            topic_ids=topic_ids,
            is_planned=True,
            settle_s=SETTLE_S,
            has_output=lambda _: holds_objects(client, target.bucket, prefix),
        )
        if claimed.is_empty:
            return None
        _, manifest = stage(config, reader, claimed, folder)
    rows, names = 0, []

    def clean_chunks() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for chunk in manifest.chunks:
            clean, rejects = clean_chunk(chunk, table)
            name = partial(name_object, prefix, target.topic, chunk)
            names.extend(export(client, target.bucket, clean, name, table.repetitive))
            rows += len(clean)
            yield from rejects

    rejects_url = folder.write_table("rejects", clean_chunks(), REJECT_SCHEMA)
    rejects = manifest.records - rows
    done = msgspec.structs.replace(manifest, rejects_url=rejects_url, rejects=rejects)
    reasons = commit_offsets(config, done, [Rejects(done, target.task_id, _STAGE)], target.dlq_topic, CLEAN_DAG)
    folder.delete()
    return Cleaned(rows, len(names), reasons)


def clean_chunk(chunk: Chunk, table: Table) -> tuple[pa.RecordBatch, list[pa.RecordBatch]]:
    """The clean rows of a chunk (the table's schema), and its rejects, each a batch of REJECT_SCHEMA."""
    messages = read_chunk(chunk.url)
    rows: list[Row] = []
    faults: dict[int, RejectedError] = {}
    decoder = msgspec.json.Decoder(table.kind)
    for number, (value, offset) in enumerate(
        zip(messages["value"].to_pylist(), messages["offset"].to_pylist(), strict=True)
    ):
        try:
            row = table.clean(decoder.decode(value or b""))
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            faults[number] = RejectedError(Reason.INVALID_MESSAGE, str(error))
        except RejectedError as error:
            faults[number] = error
        else:
            rows.append(row | {"kafka_partition": chunk.partition, "kafka_offset": offset})
    rejects = [
        make_reject_batch(chunk.partition, messages.slice(number, 1), fault.reason, [str(fault)])
        for number, fault in faults.items()
    ]
    return pa.RecordBatch.from_pylist(rows, table.schema), rejects
