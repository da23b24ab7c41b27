"""TransformJSON: rows of the sinks from rides_result, and documents from rows."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.files import Folder, read_batches, read_chunk
from jobs.kafka.scan import Claim
from jobs.kafka.staged import MESSAGE_SCHEMA, REJECT_SCHEMA, Chunk, Manifest
from jobs.rides.contract import Reason
from jobs.rides.distance import haversine
from jobs.rides.pricing import price
from jobs.rides.transform import SINK_SCHEMA, flatten, make_documents, transform
from jobs.settings import ROOT
from tests.testkit.rides import encode, messages, result, ride

SENT_AT = 1_770_091_506_007
STAMP = "2026-02-03T04:05:06.007000Z"
MOMENT = datetime(2026, 2, 3, 4, 5, 6, 7_000, tzinfo=UTC)
TEMPLATE = json.loads((ROOT / "infra" / "elasticsearch" / "rides-template.json").read_text())


def flat(values: list[bytes | None], first: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows, rejects = flatten(messages(values, first, SENT_AT), 4)
    assert rows.schema == SINK_SCHEMA
    assert rejects.schema == REJECT_SCHEMA
    rows.validate(full=True)
    return rows.to_pylist(), rejects.to_pylist()


def test_the_sink_schema_has_the_documented_columns() -> None:
    assert SINK_SCHEMA.names == [
        *("ride_id", "ts", "agent_timestamp", "comfort", "origin_lat", "origin_lon"),
        *("destination_lat", "destination_lon", "duration_min", "price_base", "price_per_km", "price_per_min"),
        *("distance_km", "price_total", "kafka_partition", "kafka_offset"),
    ]
    assert not any(field.nullable for field in SINK_SCHEMA)
    assert {str(SINK_SCHEMA.field(name).type) for name in ("ts", "agent_timestamp")} == {"timestamp[us, tz=UTC]"}


def test_a_result_becomes_a_row() -> None:
    content = result(ts="2026-01-05T08:15:30.123456Z")
    ((row,), rejects) = flat([encode(content)], first=77)
    assert rejects == []
    assert row == {
        "ride_id": content["ride_id"],
        "ts": datetime(2026, 1, 5, 8, 15, 30, 123456, tzinfo=UTC),
        "agent_timestamp": MOMENT,
        "comfort": "medium",
        "origin_lat": 40.7549,
        "origin_lon": -73.984,
        "destination_lat": 40.6413,
        "destination_lon": -73.7781,
        "duration_min": 31.5,
        "price_base": 2.55,
        "price_per_km": 1.75,
        "price_per_min": 0.35,
        "distance_km": 21.5,
        "price_total": 51.2,
        "kafka_partition": 4,
        "kafka_offset": 77,
    }


def test_a_later_version_may_add_fields() -> None:
    content = result(tip=3)
    content["origin"] = {**content["origin"], "name": "Bryant Park"}
    rows, rejects = flat([encode(content)])
    assert (len(rows), rejects) == (1, [])


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"no json",
        b"\xff",
        b"[]",
        encode(ride()),
        encode(result(distance_km=-1)),
        encode(result(price_total=-0.5)),
        encode(result(price_total=None)),
        encode(result(price_total="1")),
        encode(result()).replace(b"51.2", b"1e999"),
        encode(result()).replace(b"51.2", b"NaN"),
        encode(result(comfort="eco")),
        encode(result(origin={"lat": 91, "lon": 0})),
        encode(result(destination={"lat": 0, "lon": -181})),
        encode(result(ride_id="ride-42")),
        encode(result(ride_id="6BA7B810-9DAD-11D1-80B4-00C04FD430C8")),
        encode(result(ride_id="X")).replace(b"X", b"\\ud800"),
        encode(result(ride_id="X")).replace(b"X", b"\\u0000"),
        encode(result(ts="2026-01-05T08:15:30Z")),
        encode(result(ts="2026-02-30T08:15:30.000000Z")),
        encode(result(ts="0000-01-01T00:00:00.000000Z")),
        encode(result(ts="2026-01-05T08:15:30.000000+00:00")),
        encode(result(ts="X")).replace(b"X", b"\\udfff"),
        b'{"a":' * 100_000,
    ],
    ids=range(25),
)
def test_invalid_results_are_rejected(value: bytes | None) -> None:
    good = [encode(result()), encode(result())]
    rows, rejects = flat([good[0], value, good[1]], first=10)
    assert [row["kafka_offset"] for row in rows] == [10, 12]
    (reject,) = rejects
    assert (reject["partition"], reject["offset"], reject["key"], reject["value"]) == (4, 11, b"key", value)
    assert reject["reason"] == Reason.INVALID_RESULT
    assert reject["message"]
    assert reject["stacktrace"] is None


def test_batches_of_rejects_and_empty_batches_are_flattened() -> None:
    rows, rejects = flat([b"a", b"b"])
    assert (rows, len(rejects)) == ([], 2)
    assert flat([]) == ([], [])


def test_priced_rides_are_flattened_without_loss() -> None:
    """Exact to the last digit, at the limits of every field."""
    rides = [
        ride(ts="0001-01-01T00:00:00Z", duration_min=5e-324, price_base=1.7e308, price_per_min=0),
        ride(ts="9999-12-31T23:59:59.999999Z", origin={"lat": -90, "lon": 180}, destination={"lat": 90, "lon": -180}),
        ride(ts="1969-12-31T23:59:59.000001Z", price_base=0.1 + 0.2, duration_min=-0.0),
        ride(comfort="business", price_per_km=1e-7, price_base=123456789012345680),
    ]
    priced = price(messages([*map(encode, rides)]), haversine).column("value").to_pylist()
    rows, rejects = flat(priced)
    assert rejects == []
    for value, row in zip(priced, rows, strict=True):
        content = json.loads(value)
        for name in ("duration_min", "price_base", "price_per_km", "price_per_min", "distance_km", "price_total"):
            assert row[name] == content[name]
        assert f"{row['ts'].year:04d}" == content["ts"][:4]
        for point in ("origin", "destination"):
            assert {axis: row[f"{point}_{axis}"] for axis in ("lat", "lon")} == content[point]


# --- Documents ------------------------------------------------------------------------------------

numbers = st.floats(0, allow_infinity=False)
points = st.fixed_dictionaries({"lat": st.floats(-90, 90), "lon": st.floats(-180, 180)})
results = st.fixed_dictionaries(
    {
        "ride_id": st.uuids().map(str),
        "ts": st.datetimes().map(lambda ts: f"{ts.replace(microsecond=0).isoformat()}.{ts.microsecond:06d}Z"),
        "origin": points,
        "destination": points,
        "comfort": st.sampled_from(["low", "medium", "high"]),
        **dict.fromkeys(
            ["duration_min", "price_base", "price_per_km", "price_per_min", "distance_km", "price_total"], numbers
        ),
    }
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(results, max_size=4))
def test_a_document_is_its_row_in_json(contents: list[dict[str, Any]]) -> None:
    rows, rejects = flatten(messages([encode(content) for content in contents], 5, SENT_AT), 4)
    assert len(rejects) == 0
    made = [json.loads(document) for document in make_documents(rows).to_pylist()]
    assert made == [
        {**content, "agent_timestamp": STAMP, "kafka_partition": 4, "kafka_offset": 5 + number}
        for number, content in enumerate(contents)
    ]


def test_documents_match_the_index_template() -> None:
    rows, _ = flatten(messages([encode(result())]), 4)
    (document,) = map(json.loads, make_documents(rows).to_pylist())
    mapping = TEMPLATE["template"]["mappings"]
    assert mapping["dynamic"] == "strict"
    assert set(document) == set(mapping["properties"])
    for point in ("origin", "destination"):
        assert mapping["properties"][point] == {"type": "geo_point"}
        assert set(document[point]) == {"lat", "lon"}
    flat_names = {name for name in SINK_SCHEMA.names if not name.endswith(("_lat", "_lon"))}
    assert set(document) == flat_names | {"origin", "destination"}


# --- Chunks ---------------------------------------------------------------------------------------


def staged(folder: Folder, chunks: list[list[bytes | None]]) -> Manifest:
    made = []
    first = 0
    for values in chunks:
        url = folder.write_table(f"{first}", [messages(values, first)], MESSAGE_SCHEMA)
        last = first + len(values) - 1
        made.append(Chunk(4, first, last, len(values), 100, url))
        first = last + 1
    return Manifest("result", "id", "group", (Claim(4, 0, first),), tuple(made), 50_000, 2**25)


def test_transform_keeps_chunks_and_counts(tmp_path: Path) -> None:
    folder = Folder(f"file://{tmp_path}")
    manifest = staged(folder.child("in"), [[encode(result()), b"bad"], [b"bad", None], [encode(result())] * 3])
    url, transformed = transform(manifest, folder.child("out"))
    assert url.endswith("/out/manifest.json")
    assert [(chunk.first, chunk.last, chunk.next) for chunk in transformed.chunks] == [(0, 1, 2), (2, 3, 4), (4, 6, 7)]
    assert [chunk.records for chunk in transformed.chunks] == [1, 0, 3]
    assert (transformed.claims, transformed.rejects) == (manifest.claims, 3)
    assert transformed.rejects_url
    rejects = [row for batch in read_batches(transformed.rejects_url) for row in batch.to_pylist()]
    assert [(row["partition"], row["offset"], row["value"]) for row in rejects] == [
        (4, 1, b"bad"),
        (4, 2, b"bad"),
        (4, 3, None),
    ]
    assert [len(read_chunk(chunk.url)) for chunk in transformed.chunks] == [1, 0, 3]


def test_the_same_plan_gives_identical_rows(tmp_path: Path) -> None:
    folder = Folder(f"file://{tmp_path}")
    manifest = staged(folder.child("in"), [[encode(result()) for _ in range(50)]])
    rows = [read_chunk(transform(manifest, folder.child(name))[1].chunks[0].url) for name in ("1", "2")]
    assert rows[0].equals(rows[1])
    for number, batch in enumerate(rows):
        pq.write_table(pa.Table.from_batches([batch]), tmp_path / f"{number}.parquet")
    assert (tmp_path / "0.parquet").read_bytes() == (tmp_path / "1.parquet").read_bytes()
    assert all(not math.isnan(total) for total in rows[0].column("price_total").to_pylist())
