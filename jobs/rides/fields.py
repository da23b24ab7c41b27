"""The fields of a ride. Layouts, Arrow schemas, documents, mappings and tables derive from this list."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto
from typing import Any

import msgspec


class Kind(Enum):
    """The kind of a field's values."""

    UUID = auto()
    TIME = auto()
    COMFORT = auto()
    LATITUDE = auto()
    LONGITUDE = auto()
    AMOUNT = auto()
    PARTITION = auto()
    OFFSET = auto()

    @property
    def is_text(self) -> bool:
        """Whether it is a string in JSON."""
        return self in (Kind.UUID, Kind.TIME, Kind.COMFORT)


# The type of each kind in Elasticsearch (degrees in pairs are a point) and in BigQuery.
_TYPES = {
    Kind.UUID: ("keyword", "STRING"),
    Kind.TIME: ("date", "TIMESTAMP"),
    Kind.COMFORT: ("keyword", "STRING"),
    Kind.LATITUDE: ("geo_point", "FLOAT"),
    Kind.LONGITUDE: ("geo_point", "FLOAT"),
    Kind.AMOUNT: ("double", "FLOAT"),
    Kind.PARTITION: ("integer", "INTEGER"),
    Kind.OFFSET: ("long", "INTEGER"),
}


class Field(msgspec.Struct, frozen=True):
    """One field.

    Attributes:
        path: its place in a message, for example `origin.lat`.
        description: shown in the BigQuery table.
        is_repetitive: whether it has few different values, so that Parquet stores it with a dictionary.
        default: the value in a message without it; None if it is mandatory.
    """

    path: str
    kind: Kind
    description: str
    is_repetitive: bool = False
    default: float | None = None

    @property
    def column(self) -> str:
        """Its name in a table."""
        return self.path.replace(".", "_")


# In the order in which they are written.
RAW_FIELDS = (
    Field("ride_id", Kind.UUID, "UUID in lower case; a ride sent twice is here twice"),
    Field("ts", Kind.TIME, "When the ride was ordered"),
    Field("origin.lat", Kind.LATITUDE, "Degrees"),
    Field("origin.lon", Kind.LONGITUDE, "Degrees"),
    Field("destination.lat", Kind.LATITUDE, "Degrees"),
    Field("destination.lon", Kind.LONGITUDE, "Degrees"),
    Field("comfort", Kind.COMFORT, "low, medium or high", is_repetitive=True),
    Field("duration_min", Kind.AMOUNT, "Minutes"),
    Field("price_base", Kind.AMOUNT, "Currency of the city", is_repetitive=True),
    Field("price_per_km", Kind.AMOUNT, "Currency of the city", is_repetitive=True),
    Field("price_per_min", Kind.AMOUNT, "Currency of the city", is_repetitive=True),
)
COMPUTED_FIELDS = (
    Field("distance_km", Kind.AMOUNT, "Kilometres along the sphere or the ellipsoid"),
    Field(
        "price_total",
        Kind.AMOUNT,
        "price_base + distance_km * price_per_km + duration_min * price_per_min, not rounded",
    ),
)
RESULT_FIELDS = (*RAW_FIELDS, *COMPUTED_FIELDS)
# The fields in the sinks, in the order of an Elasticsearch document.
SINK_FIELDS = (
    *RESULT_FIELDS[:2],
    Field("agent_timestamp", Kind.TIME, "When Kafka had the result; the same in Elasticsearch"),
    *RESULT_FIELDS[2:],
    Field("kafka_partition", Kind.PARTITION, "Of rides_result, for tracing", is_repetitive=True),
    Field("kafka_offset", Kind.OFFSET, "Of rides_result, for tracing"),
)


def sort_for_table(fields: Iterable[Field]) -> list[Field]:
    """Texts and times first, otherwise in the given order."""
    return sorted(fields, key=lambda field: not field.kind.is_text)


_TEMPLATE_SETTINGS = {
    "index.number_of_shards": 1,
    "index.number_of_replicas": 0,
    "index.refresh_interval": "1s",
}


def make_json_layout(fields: Iterable[Field], *, time_end: str = '"') -> tuple[list[tuple[str, Field]], str]:
    """The layout of one JSON object without spaces.

    Args:
        time_end: the text after a time, including its closing quote.

    Returns:
        The text before each value, with its field, and the text after the last value.
    """
    layout: list[tuple[str, Field]] = []
    text, separator, parent = "", "{", ""
    for field in fields:
        place, _, name = field.path.rpartition(".")
        if parent and place != parent:
            text += "}"
        text += separator
        if place and place != parent:
            text += f'"{place}":{{'
        layout.append((text + f'"{name}":' + ('"' if field.kind.is_text else ""), field))
        text = time_end if field.kind is Kind.TIME else '"' if field.kind.is_text else ""
        separator, parent = ",", place
    return layout, text + ("}}" if parent else "}")


def make_index_template() -> dict[str, Any]:
    """The Elasticsearch index template. Its mapping is strict: a document with an unknown field is rejected."""
    properties: dict[str, Any] = {}
    for field in SINK_FIELDS:
        mapping = {"type": _TYPES[field.kind][0]}
        if field.kind is Kind.TIME:
            mapping["format"] = "strict_date_optional_time"
        properties[field.path.partition(".")[0]] = mapping
    return {
        "index_patterns": ["rides"],
        "priority": 200,
        "template": {"settings": _TEMPLATE_SETTINGS, "mappings": {"dynamic": "strict", "properties": properties}},
    }


def make_table_schema() -> list[dict[str, str]]:
    """The columns of the BigQuery tables, in the format of Terraform's `google_bigquery_table`."""
    return [
        {"name": field.column, "type": _TYPES[field.kind][1], "mode": "REQUIRED", "description": field.description}
        for field in sort_for_table(SINK_FIELDS)
    ]
