"""The producer: its rides, its faults, and its command line with librdkafka's mock broker."""

from __future__ import annotations

import json
import math
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints
from uuid import UUID

import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from geopy.distance import great_circle

import producer
from ride_faults import FAULTS, draw_faults, encode
from ride_generator import CITIES, NEW_YORK, PARIS, City, Ride, make_rides, now, spread
from ride_messages import mix, read_messages
from tests.testkit.wait import until

SCRIPT = Path(producer.__file__)
START = datetime(2026, 1, 5, tzinfo=UTC)
TOPIC = "rides_raw"

LABELS = {
    *("empty_value", "invalid_utf8", "byte_order_mark", "invalid_json", "duplicate_key", "not_an_object"),
    *("missing_field", "wrong_type", "invalid_ride_id", "invalid_timestamp", "out_of_range", "unknown_comfort"),
    *("negative_amount", "not_finite"),
}


def rides(city: City = NEW_YORK, seed: int = 7, count: int = 1000) -> list[Ride]:
    return list(islice(make_rides(city, seed, now), count))


def ride_km(ride: Ride) -> float:
    ends = [(ride[point]["lat"], ride[point]["lon"]) for point in ("origin", "destination")]
    return great_circle(*ends).km


# --- A second implementation of the contract ------------------------------------------------------


def fault_of(value: bytes | None) -> str | None:  # noqa: PLR0911, PLR0912
    """The first fault of a message of rides_raw in order of precedence; None if it is valid."""
    if not value:
        return "empty_value"
    if value[:3] == b"\xef\xbb\xbf":
        return "byte_order_mark"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "invalid_utf8"

    repeated = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return dict(pairs)

    def constant(name: str) -> None:
        raise ValueError(name)

    try:
        ride = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except ValueError:
        return "invalid_json"
    if not isinstance(ride, dict):
        return "not_an_object"
    if repeated:
        return "duplicate_key"

    kinds = {"ride_id": str, "ts": str, "origin": dict, "destination": dict, "comfort": str}
    amounts = ("duration_min", "price_base", "price_per_km", "price_per_min")
    if set(kinds) | set(amounts) != set(ride):
        return "missing_field"
    if any(type(ride[field]) is not kind for field, kind in kinds.items()):
        return "wrong_type"
    if any(set(ride[point]) != {"lat", "lon"} for point in ("origin", "destination")):
        return "missing_field"
    coordinates = [ride[point][axis] for point in ("origin", "destination") for axis in ("lat", "lon")]
    if any(type(number) not in (int, float) for number in [*coordinates, *(ride[amount] for amount in amounts)]):
        return "wrong_type"

    try:
        assert str(UUID(ride["ride_id"])) == ride["ride_id"]
    except (ValueError, AssertionError):
        return "invalid_ride_id"
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", ride["ts"]):
        return "invalid_timestamp"
    try:
        datetime.fromisoformat(ride["ts"]).astimezone(UTC)
    except (ValueError, OverflowError):
        return "invalid_timestamp"
    if any(abs(degrees) > limit for degrees, limit in zip(coordinates, (90, 180, 90, 180), strict=True)):
        return "out_of_range"
    if ride["comfort"] not in ("low", "medium", "high", "eco", "comfort", "business"):
        return "unknown_comfort"
    minutes, base, per_km, per_min = (ride[amount] for amount in amounts)
    if min(minutes, base, per_km, per_min) < 0:
        return "negative_amount"
    if not math.isfinite(base + ride_km(ride) * per_km + minutes * per_min):
        return "not_finite"
    return None


# --- Rides ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("city", CITIES.values(), ids=CITIES)
def test_generated_rides_are_plausible(city: City) -> None:
    made = rides(city, count=10_000)

    assert {fault_of(encode(ride)) for ride in made} == {None}
    assert len({ride["ride_id"] for ride in made}) == len(made)
    assert all(UUID(ride["ride_id"]).version == 4 for ride in made)

    speeds = [ride_km(ride) / ride["duration_min"] * 60 for ride in made]
    assert sum(5 <= speed <= 70 for speed in speeds) >= 0.99 * len(made)
    kilometres = sorted(map(ride_km, made))
    assert kilometres[0] > 0.3
    assert 2 < kilometres[5_000] < 6
    assert kilometres[-1] < 80

    for ride in made:
        for point in ("origin", "destination"):
            assert all(round(degrees, 6) == degrees for degrees in ride[point].values())
        amounts = [ride[key] for key in ("duration_min", "price_base", "price_per_km", "price_per_min")]
        assert all(round(amount, 2) == amount > 0 for amount in amounts)


def test_origins_cluster_around_hot_spots() -> None:
    def near_a_place(ride: Ride) -> bool:
        origin = (ride["origin"]["lat"], ride["origin"]["lon"])
        return any(
            great_circle(origin, (place.lat, place.lon)).km < 2.5 * place.scatter_km for place in NEW_YORK.places
        )

    made = rides(count=2000)
    assert sum(map(near_a_place, made)) > 0.93 * len(made)


def test_comforts_have_plausible_shares_and_prices() -> None:
    made = rides(count=10_000)
    comforts = Counter(ride["comfort"] for ride in made)
    assert comforts["low"] > comforts["medium"] > comforts["high"] > 500
    assert 200 < sum(comforts[alias] for alias in ("eco", "comfort", "business")) < 400
    cheapest = {comfort: min(r["price_per_km"] for r in made if r["comfort"] == comfort) for comfort in comforts}
    assert cheapest["low"] < cheapest["medium"] < cheapest["high"]
    assert cheapest == cheapest | {"low": 1.09, "eco": 1.09, "high": 2.33}
    surged = sum(r["price_base"] > NEW_YORK.fares["low"].base for r in made if r["comfort"] == "low")
    assert 0.05 < surged / comforts["low"] < 0.35


def test_a_seed_gives_the_same_rides_at_any_time() -> None:
    at_night = list(islice(make_rides(NEW_YORK, 7, lambda: START), 500))
    at_noon = list(islice(make_rides(NEW_YORK, 7, lambda: START + timedelta(hours=12, microseconds=5)), 500))
    assert [{**ride, "ts": ""} for ride in at_night] == [{**ride, "ts": ""} for ride in at_noon]
    assert at_noon[0]["ts"] == "2026-01-05T12:00:00.000005Z"


def test_seeds_and_cities_share_no_ride_id() -> None:
    runs = [rides(NEW_YORK, 7), rides(NEW_YORK, 8), rides(PARIS, 7)]
    assert len({ride["ride_id"] for run in runs for ride in run}) == 3000


def test_a_fixed_start_makes_runs_identical() -> None:
    def run() -> list[Ride]:
        clock = spread(START, timedelta(days=1), 5000, NEW_YORK, 7)
        return list(islice(make_rides(NEW_YORK, 7, clock, fixed_start=True), 5000))

    assert run() == run()


def test_spread_follows_the_hours_of_the_city() -> None:
    clock = spread(START + timedelta(minutes=30), timedelta(days=1), 20_000, NEW_YORK, 7)
    made = list(islice(make_rides(NEW_YORK, 7, clock, fixed_start=True), 20_000))

    moments = [datetime.fromisoformat(ride["ts"]) for ride in made]
    assert all(earlier <= later for earlier, later in pairwise(moments))
    assert moments[0] >= START + timedelta(minutes=30)
    assert moments[-1] < START + timedelta(days=1, minutes=30)

    by_hour = Counter((moment - timedelta(hours=5)).hour for moment in moments)  # New York
    assert by_hour.most_common(1)[0][0] in (17, 18, 19)
    assert min(by_hour, key=by_hour.__getitem__) in (3, 4, 5)
    assert by_hour[18] > 4 * by_hour[4]

    def mean_speed(*hours: int) -> float:
        chosen = [r for r, moment in zip(made, moments, strict=True) if (moment.hour - 5) % 24 in hours]
        return sum(map(ride_km, chosen)) / sum(ride["duration_min"] for ride in chosen) * 60

    assert mean_speed(2, 3, 4) > 1.3 * mean_speed(8, 17, 18)


def test_spread_within_one_hour_is_even() -> None:
    clock = spread(START, timedelta(minutes=10), 1000, NEW_YORK, 7)
    minutes = Counter((clock() - START) // timedelta(minutes=1) for _ in range(1000))
    assert set(minutes) == set(range(10))
    assert all(98 <= n <= 102 for n in minutes.values())


# --- Faults, duplicates, replay -------------------------------------------------------------------


def test_fault_labels_match_the_contract() -> None:
    assert set(FAULTS) == LABELS


@pytest.mark.parametrize("label", FAULTS)
def test_every_fault_matches_its_label(label: str) -> None:
    for ride in rides(count=50):
        before = encode(ride)
        values = [fault(ride) for fault in FAULTS[label]]
        assert [fault_of(value) for value in values] == [label] * len(values)
        assert len(set(values)) == len(values)
        assert encode(ride) == before


def test_a_round_of_faults_has_every_label() -> None:
    faults = draw_faults(random.Random(7))
    for _ in range(5):
        assert {label for label, _ in islice(faults, len(LABELS))} == LABELS


def test_faults_and_duplicates_have_the_requested_shares() -> None:
    messages = list(islice(mix(make_rides(NEW_YORK, 7, now), 7, 0.2, 0.1), 10_000))
    faulty = Counter(message.fault for message in messages if message.fault)
    assert 1850 < faulty.total() < 2150
    assert set(faulty) == LABELS
    assert 900 < sum(message.duplicate for message in messages) < 1100

    seen = set()
    for message in messages:
        if message.duplicate:
            assert (message.key, message.value) in seen
            assert message.fault is None
        elif message.fault:
            assert fault_of(message.value) == message.fault
        else:
            assert fault_of(message.value) is None
            assert message.key == json.loads(message.value)["ride_id"].encode()  # type: ignore[arg-type]
        seen.add((message.key, message.value))
    assert len({message.key for message in messages if not message.duplicate}) == 10_000 - sum(
        message.duplicate for message in messages
    )


def test_shares_do_not_change_the_rides() -> None:
    plain = [message.key for message in islice(mix(make_rides(NEW_YORK, 7, now), 7, 0, 0), 100)]
    with_faults = [message.key for message in islice(mix(make_rides(NEW_YORK, 7, now), 7, 0.5, 0), 100)]
    assert plain == with_faults


def test_shares_of_one_make_all_messages_faulty_or_duplicates() -> None:
    assert all(message.fault for message in islice(mix(make_rides(NEW_YORK, 7, now), 7, 1, 0), 200))
    copies = list(islice(mix(make_rides(NEW_YORK, 7, now), 7, 0, 1), 200))
    assert len({message.value for message in copies}) == 1


LINES = [b'{"ride_id": "a",  "x": "\xc3\xa9"}', b"", b"not json\r", b'{"ride_id": 1}', b"\xff\x00", b"[]", b"1" * 5000]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_replay_leaves_bytes_untouched(tmp_path: Path, end: bytes) -> None:
    file = tmp_path / "rides.jsonl"
    file.write_bytes(b"\n".join(LINES) + end)
    with file.open("rb") as source:
        messages = list(read_messages(source.fileno(), lambda: False))
    assert [message.value for message in messages] == LINES
    assert [message.key for message in messages] == [b"a", *[None] * 6]


def test_lines_larger_than_one_read_are_replayed_whole(tmp_path: Path) -> None:
    lines = [b"x" * 3_000_000, b"y", b"z" * 1_500_000]
    file = tmp_path / "rides.jsonl"
    file.write_bytes(b"\n".join(lines))
    with file.open("rb") as source:
        assert [message.value for message in read_messages(source.fileno(), lambda: False)] == lines


# --- The command line -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mock_broker() -> Iterator[str]:
    """librdkafka's mock of a broker, which speaks Kafka's protocol on loopback."""
    broker = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    broker.list_topics(TOPIC, timeout=5)  # creates it
    [address] = broker.list_topics(timeout=5).brokers.values()
    yield f"{address.host}:{address.port}"
    del broker


def topics(mock_broker: str) -> Callable[[], str]:
    client = Producer({"bootstrap.servers": mock_broker, "log_level": 0})

    def create() -> str:
        name = f"rides_raw_{random.randrange(10**9)}"
        client.list_topics(name, timeout=5)
        return name

    return create


@pytest.fixture
def topic(mock_broker: str) -> str:
    return topics(mock_broker)()


def start(*options: str, **environment: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("KAFKA_") and k != "RAW_TOPIC"}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *options],
        env={**clean, "COLUMNS": "200", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    )


def finish(process: subprocess.Popen[str], stdin: str = "") -> tuple[int, str, str]:
    out, err = process.communicate(stdin, timeout=30)
    return process.returncode, out, err


def read(servers: str, topic: str) -> list[Message]:
    """All messages of a topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "test",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    partitions = list(consumer.list_topics(topic, timeout=5).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    messages, at_end = [], 0
    while at_end < len(partitions):
        message = consumer.poll(10)
        assert message is not None, "the broker stopped answering"
        if message.error():
            assert message.error().code() == KafkaError._PARTITION_EOF
            at_end += 1
        else:
            messages.append(message)
    consumer.close()
    return messages


def test_faults_are_labelled_in_a_header(mock_broker: str, topic: str) -> None:
    options = ("--count", "2000", "--rate", "0", "--faulty", "0.2", "--duplicates", "0.1", "--seed", "7")
    code, out, err = finish(start(*options, RAW_TOPIC=topic, KAFKA_BOOTSTRAP_SERVERS=mock_broker))
    assert code == 0, err
    assert f"sending to {topic} at {mock_broker} (new-york, seed 7)" in err
    assert "\x1b" not in out + err

    messages = read(mock_broker, topic)
    labels = [dict(message.headers() or []).get("datastream.fault", b"").decode() or None for message in messages]
    assert [fault_of(message.value()) for message in messages] == labels
    faulty = sum(label is not None for label in labels)
    good = [message.value() for message, label in zip(messages, labels, strict=True) if label is None]
    line = f"sent 2000 (faulty {faulty}, duplicates {len(good) - len(set(good))}), delivered 2000, failed 0, "
    assert out.startswith(line), out
    assert out.endswith("seed 7\n")


def test_the_rate_is_never_exceeded(mock_broker: str, topic: str) -> None:
    code, _, err = finish(start("--rate=1000", "--duration=2", "--topic", topic, KAFKA_BOOTSTRAP_SERVERS=mock_broker))
    assert code == 0, err
    moments = sorted(datetime.fromisoformat(json.loads(message.value())["ts"]) for message in read(mock_broker, topic))
    assert 1000 < len(moments) <= 2001, "after a pause, the producer catches up in bursts"
    assert moments[-1] - moments[0] < timedelta(seconds=2)


def test_replay_sends_a_file_and_the_standard_input(mock_broker: str, topic: str, tmp_path: Path) -> None:
    file = tmp_path / "rides.jsonl"
    file.write_bytes(b"\n".join(LINES) + b"\n")
    code, out, err = finish(start(f"--replay={file}", "--topic", topic, KAFKA_BOOTSTRAP_SERVERS=mock_broker))
    assert code == 0, err
    assert out.startswith(f"sent {len(LINES)} ")
    code, _, err = finish(
        start("--replay=-", "--topic", topic, KAFKA_BOOTSTRAP_SERVERS=mock_broker), '{"ride_id":"b"}\nlast'
    )
    assert code == 0, err
    sent = {(message.key(), message.value()) for message in read(mock_broker, topic)}
    keyless = {(None, line) for line in LINES[1:]}
    assert sent == {(b"a", LINES[0]), *keyless, (b"b", b'{"ride_id":"b"}'), (None, b"last")}


def test_a_signal_ends_a_run_without_losing_messages(mock_broker: str) -> None:
    cases = [
        ((), signal.SIGINT, 0),
        ((), signal.SIGTERM, 0),
        (("--count=1000000",), signal.SIGINT, 130),
        (("--replay=-",), signal.SIGTERM, 143),  # the pipe stays empty
    ]
    create = topics(mock_broker)
    names = [create() for _ in cases]
    processes = [
        start(*options, "--rate=2000", "--topic", name, KAFKA_BOOTSTRAP_SERVERS=mock_broker)
        for (options, _, _), name in zip(cases, names, strict=True)
    ]
    for process in processes:
        assert process.stderr
        assert select.select([process.stderr], [], [], 20)[0], "nothing was said"
    sending = names[:3]
    until(lambda: all(read(mock_broker, name) for name in sending), "messages of every run that sends")
    for process, (_, number, _) in zip(processes, cases, strict=True):
        process.send_signal(number)
    for process, name, (_, _, expected) in zip(processes, names, cases, strict=True):
        process.wait(5)
        code, out, err = finish(process)
        assert code == expected, err
        counts = re.match(r"sent (\d+) \(.*\), delivered (\d+), failed 0, ", out)
        assert counts, out
        assert counts[1] == counts[2] == str(len(read(mock_broker, name)))


def test_an_unreachable_broker_is_reported() -> None:
    with socket.socket() as taken:  # bound, not listening
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        started = time.monotonic()
        code, out, err = finish(start("--count=1", KAFKA_PORT=str(port), KAFKA_BOOTSTRAP_SERVERS=""))
    assert time.monotonic() - started < 30, "Kafka's own limit is a minute"
    assert code == 1
    assert out == ""
    assert f"no Kafka broker answers at 127.0.0.1:{port}" in err
    assert "Connection refused" in err
    assert "make local-up" in err
    assert "KAFKA_BOOTSTRAP_SERVERS" in err
    assert "Traceback" not in err


def test_a_missing_topic_is_reported(mock_broker: str) -> None:
    code, _, err = finish(start("--topic=rides_rwa", "--bootstrap-servers", mock_broker))
    assert code == 1
    assert f"topic rides_rwa does not exist at {mock_broker}" in err
    assert "make topics" in err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--faulty=0.6", "--duplicates=0.6"), "must be at most 1"),
        (("--faulty=1.5",), "'--faulty'"),
        (("--rate=-1",), "'--rate'"),
        (("--count=0",), "'--count'"),
        (("--duration=soon",), "'soon' is not a duration"),
        (("--spread=1h",), "--spread needs --count"),
        (("--since=2026-01-05T00:00:00Z",), "needs --spread"),
        (("--since=2026-01-05T00:00:00", "--spread=1h", "--count=1"), "has no UTC offset"),
        (("--replay=/does/not/exist",), "No such file"),
        (("--replay=/",), "Is a directory"),
        (("--rate=inf",), "--rate"),
        (("--rate=nan",), "--rate"),
        (("--replay=/dev/null", "--faulty=0.1"), "--replay excludes"),
        (("--city=atlantis",), "paris"),
    ],
)
def test_invalid_options_are_rejected(options: tuple[str, ...], complaint: str) -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(producer.app, options, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())


def test_help_lists_options_and_environment_variables() -> None:
    from typer.testing import CliRunner

    text = CliRunner().invoke(producer.app, ["--help"], env={"COLUMNS": "200"}).output
    for word in ("--replay", "RAW_TOPIC", "KAFKA_BOOTSTRAP_SERVERS", "KAFKA_PORT", "29092", "rides_raw", "Exit code"):
        assert word in text


def test_the_city_option_offers_all_cities() -> None:
    assert set(get_args(get_type_hints(producer.main)["city"])) == set(CITIES)
