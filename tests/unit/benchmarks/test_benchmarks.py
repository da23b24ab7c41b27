"""The benchmarks report correct counts, seconds, memory and percentiles."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pytest

from benchmarks import candidates
from benchmarks.__main__ import Measurements
from benchmarks.airflow_times import Phases, count_busy_seconds, read_phases
from benchmarks.bench import Result, compute_ratio, select_candidates
from benchmarks.candidates import CANDIDATES, OURS, Pass, UnavailableError
from benchmarks.freshness import Percentiles
from benchmarks.large import make_large_messages
from benchmarks.layouts import LAYOUTS, rewrite_message
from benchmarks.measure import FailedError, Measured, run
from benchmarks.peers import pricing
from benchmarks.poison import Poison
from benchmarks.route import Route
from benchmarks.scale import Scale
from benchmarks.warehouse import Warehouse
from infra.local.java import lock
from jobs.rides.contract import parse_ride
from jobs.rides.distance import haversine
from jobs.rides.pricing import price
from jobs.settings import ROOT
from ride_faults import draw_faults
from tests.testkit.rides import messages, ride

BUSY = '''
import subprocess, sys, time
from benchmarks.measured import answer, measured

# A machine may take a second for memory that it touches for the first time: the one that is measured begins after it.
CHILD = """
import time
held = bytearray(200 * 2**20)
end = time.process_time() + 1
while time.process_time() < end:
    pass
"""
time.sleep(1)
with measured():
    subprocess.run([sys.executable, "-c", CHILD], check=True)
answer({"of": sys.argv[1]})
'''


@pytest.fixture
def module(tmp_path: Path) -> dict[str, str]:
    """An environment in which the modules of tmp_path can be run."""
    return {"PYTHONPATH": f"{ROOT}:{tmp_path}"}


def test_child_processes_are_measured(tmp_path: Path, module: dict[str, str]) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    measured = run("busy", "mine", environment=module)
    assert measured.answer == {"of": "mine"}
    assert measured.cpu_seconds > 0.9, "the child's processor time counts"
    assert measured.seconds >= measured.cpu_seconds * 0.9
    assert measured.peak_mib > 200, "the child's memory counts"


def test_time_before_the_work_is_not_measured(tmp_path: Path, module: dict[str, str]) -> None:
    (tmp_path / "idle.py").write_text(BUSY.replace('subprocess.run([sys.executable, "-c", CHILD], check=True)', "pass"))
    measured = run("idle", "mine", environment=module)
    assert measured.seconds < 0.5
    assert measured.cpu_seconds < 0.5


def test_memory_of_the_measuring_process_is_not_counted(tmp_path: Path, module: dict[str, str]) -> None:
    """Linux hands the parent's peak on to a child's ru_maxrss."""
    (tmp_path / "small.py").write_text("from benchmarks.measured import measured\nwith measured():\n    pass\n")
    held = bytearray(b"x") * (300 * 2**20)
    measured = run("small", environment=module)
    assert len(held) > measured.peak_mib * 2**20 > 0
    assert measured.peak_mib < 200


@pytest.mark.parametrize(
    ("text", "said"),
    [("raise SystemExit('no broker')", "no broker"), ("print('benchmark: begins')", "ended with exit code 0")],
)
def test_failed_or_empty_measurements_are_rejected(
    tmp_path: Path, module: dict[str, str], text: str, said: str
) -> None:
    (tmp_path / "broken.py").write_text(text)
    with pytest.raises(FailedError, match=said):
        run("broken", environment=module)


def result(name: str, rate: int, messages: int = 1000, part: str = "price") -> Result:
    return Result(part, name, "", 1000, [Pass(messages, messages / rate, 1, 1, {})])


def test_a_ratio_is_the_median_over_the_rounds_of_one_part() -> None:
    ours, peer = result("ours", 300), result("peer", 100)
    ours.passes += result("ours", 600).passes + result("ours", 50).passes
    peer.passes += result("peer", 300).passes + result("peer", 25).passes
    others = [result("other", 1000, part="index"), ours, peer]
    assert compute_ratio(peer, others) == pytest.approx(2), "3, 2 and 2; that of the medians would be 3"


@pytest.mark.parametrize(("ours", "theirs"), [(1000, 999), (999, 1000), (1000, 1001)])
def test_runs_with_different_counts_have_no_ratio(ours: int, theirs: int) -> None:
    results = [result("ours", 300, ours), result("peer", 100, theirs)]
    assert compute_ratio(results[1], results) is None


def test_one_run_with_a_different_count_prevents_the_ratio() -> None:
    ours, peer = result("ours", 300), result("peer", 100)
    peer.passes.append(result("peer", 100, 999).passes[0])
    assert compute_ratio(peer, [ours, peer]) is None


def test_a_skipped_peer_has_no_ratio() -> None:
    ours, peer = result("ours", 300), Result("price", "peer", "", 1000)
    assert compute_ratio(peer, [ours, peer]) is None


def test_each_layout_has_a_ratio_and_an_aim() -> None:
    results = [
        result("datastream", 120_000),
        result("relay", 200_000),
        result("datastream", 60_000),
        result("relay", 80_000),
    ]
    for each, layout in zip(results, ["compact", "compact", "foreign", "foreign"], strict=True):
        each.layout = layout
    assert [compute_ratio(each, results) for each in results] == pytest.approx([1, 0.6, 1, 0.75])
    figures = {aim.name: aim.found for aim in Measurements(results).aims}
    assert figures == {
        "price: rides per second": 120_000,
        "price, compact: speed relative to relay": pytest.approx(0.6),
        "price, foreign: speed relative to relay": pytest.approx(0.75),
    }
    assert [aim.name for aim in Measurements(results[2:]).aims] == ["price, foreign: speed relative to relay"]


def test_most_peers_price_only_the_producer_layout() -> None:
    chosen = [CANDIDATES[name] for name in (OURS, "relay", "quix")]
    assert [candidate.name for candidate in select_candidates(chosen, "compact")] == [OURS, "relay", "quix"]
    assert [candidate.name for candidate in select_candidates(chosen, "spaced")] == [OURS, "relay"]


def test_every_layout_encodes_the_same_ride() -> None:
    compact = rewrite_message(json.dumps(ride(), separators=(",", ":")).encode(), "compact")
    assert compact
    values = {name: rewrite_message(compact, name) or b"" for name in LAYOUTS}
    assert len(set(values.values())) == len(LAYOUTS) == 3
    assert {parse_ride(value) for value in values.values()} == {parse_ride(compact)}
    assert b'", "' in values["spaced"]
    assert list(json.loads(values["foreign"])) == [*reversed(ride()), "driver"]
    assert rb"\u00eb" in values["foreign"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_keeps_the_fault(layout: str) -> None:
    values = [fault(ride()) for _, fault in islice(draw_faults(random.Random(1)), 200)]
    written = [rewrite_message(value, layout) for value in values]
    reasons, expected = (price(messages(part), haversine).column("reason") for part in (written, values))
    assert expected.null_count == 0
    assert reasons.equals(expected)


def test_aims_are_compared_with_the_results() -> None:
    results = [result("datastream", 120_000), result("relay", 200_000), result("quix", 40_000, 999)]
    measured = Measurements([msgspec.structs.replace(result, layout="compact") for result in results])
    reached = {aim.name: aim.reached for aim in measured.aims}
    assert reached == {
        "price: rides per second": pytest.approx(0.8),
        "price, compact: speed relative to relay": pytest.approx(0.6 / 0.5),
    }, "there is no aim without a ratio"
    assert not Measurements([result("datastream", 120_000, 999)]).aims


def test_scale_is_compared_with_a_million_rides_without_run_overhead() -> None:
    seconds_and_mib = {10_000: (0.3, 200), 1_000_000: (10.1, 400), 10_000_000: (150.1, 420)}
    passes = {size: [Pass(size, taken, 1, mib, {})] for size, (taken, mib) in seconds_and_mib.items()}
    aims = {aim.name.partition(": ")[2]: aim for aim in Measurements(scale=Scale(0.1, passes)).aims}
    assert aims["time per ride, largest ratio to 1,000,000 rides"].found == pytest.approx(2)
    assert aims["peak MiB"].found == 420
    assert aims["peak memory, ratio of the largest to 1,000,000 rides"].found == pytest.approx(1.05)
    assert aims["peak memory, ratio of the largest to 1,000,000 rides"].reached > 1


def test_bad_messages_are_compared_with_good_ones_round_by_round() -> None:
    good, bad = ([Pass(100, seconds, 0, 0, {}) for seconds in times] for times in ((1.0, 2.0, 1.0), (2.0, 5.0, 4.0)))
    (aim,) = Measurements(poison=Poison(good, bad)).aims
    assert (aim.found, aim.reached) == (0.4, 1.0)


def test_percentiles_are_computed_over_all_rides() -> None:
    rng = random.Random(1)
    values = [round(rng.expovariate(1), 1) for _ in range(5000)]
    percentiles = Percentiles.from_counts(Counter(values))
    ordered = sorted(values)
    assert (percentiles.p50, percentiles.p95, percentiles.p99, percentiles.most) == (
        ordered[2499],
        ordered[4749],
        ordered[4949],
        ordered[-1],
    )
    assert Percentiles.from_counts(Counter({7.0: 1})) == Percentiles(7.0, 7.0, 7.0, 7.0)


def test_peers_use_our_formula() -> None:
    rng = random.Random(1)
    for _ in range(100):
        origin, destination = ({"lat": rng.uniform(-90, 90), "lon": rng.uniform(-180, 180)} for _ in range(2))
        columns = (np.array([point[axis]]) for point in (origin, destination) for axis in ("lat", "lon"))
        (expected,) = haversine(*columns)
        assert pricing.haversine(origin, destination) == pytest.approx(expected, rel=1e-12)
    priced = pricing.price(ride(comfort="eco", price_base=2.0, price_per_km=3.0, price_per_min=0.5, duration_min=10.0))
    assert priced["price_total"] == pytest.approx(2 + 3 * priced["distance_km"] + 5)
    assert priced["comfort"] == "low"


def test_task_phases_are_read_from_the_log(tmp_path: Path) -> None:
    start = datetime(2026, 1, 5, tzinfo=UTC)
    events = {
        0.0: {"event": "::group::Pre Execute"},
        0.3: {"event": "Worker startup parse complete", "dag_file_parse_ms": 170},
        0.5: {"event": "::endgroup::"},
        2.0: {"event": "::group::Post Execute"},
        2.1: {"event": "::endgroup::"},
    }
    lines = [
        json.dumps({"timestamp": (start + timedelta(seconds=second)).isoformat(), **event})
        for second, event in events.items()
    ]
    log = tmp_path / "attempt=1.log"
    log.write_text("\n".join(lines))
    phases = read_phases(log)
    assert phases is not None
    assert [(moment - start).total_seconds() for moment in (phases.began, phases.ended)] == [0.5, 2.0]
    assert phases.parse_s == 0.17
    log.write_text("\n".join(lines[:3]))
    assert read_phases(log) is None, "the task was killed at work"


def test_overlapping_tasks_count_once() -> None:
    start = datetime(2026, 1, 5, tzinfo=UTC)

    def at(began: int, ended: int) -> Phases:
        return Phases(start + timedelta(seconds=began), start + timedelta(seconds=ended), 0)

    assert count_busy_seconds([]) == 0
    assert count_busy_seconds([at(10, 12), at(0, 3), at(1, 2), at(2, 5)]) == 7


def test_spark_and_its_connector_have_the_same_version() -> None:
    (version,) = re.findall(r"(?m)^pyspark==(\S+)", (ROOT / "requirements" / "spark.txt").read_text())
    assert version == lock.SPARK


def test_each_spark_engine_runs_with_one_and_two_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[tuple[str, ...]] = []

    def note(module: str, *arguments: str, python: Path, environment: dict[str, str]) -> Measured:
        started.append((module, *arguments))
        assert (python, environment) == (candidates.SPARK_PYTHON, {"TMPDIR": "folder"})
        return Measured(1, 1, 1, None)

    monkeypatch.setattr(candidates, "run", note)
    monkeypatch.setattr(candidates, "SPARK_READY", tmp_path)
    route = Route("broker:1", "source", "target", 10, "folder")
    lines = [candidate for name, candidate in CANDIDATES.items() if name.startswith("spark-")]
    for candidate in lines:
        candidate.work(route)
    engines = [(engine, cores) for cores in "12" for engine in ("functions", "arrow", "exactly-once")]
    assert started == [("benchmarks.spark", *engine, route.to_json()) for engine in engines]
    assert [candidate.name for candidate in lines] == [f"spark-{engine}-{cores}" for engine, cores in engines]
    topics = {candidate.name: (candidate.targets("t"), candidate.scratch("t")) for candidate in lines}
    assert topics["spark-functions-1"] == (["t"], ["t-warm-up"])
    assert topics["spark-arrow-2"] == topics["spark-exactly-once-1"]
    assert topics["spark-arrow-2"] == (["t", "t-dlq"], ["t-warm-up", "t-warm-up-dlq"])


def test_spark_is_left_out_if_it_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(candidates, "SPARK_READY", tmp_path / "missing")
    with pytest.raises(UnavailableError, match=r"make \.venv-spark/\.stamp"):
        CANDIDATES["spark-arrow-1"].work(Route("broker:1", "source", "target", 10, "folder"))


@pytest.mark.parametrize("is_noise", [True, False])
def test_large_messages_are_valid_rides_of_about_the_size(is_noise: bool) -> None:
    rides = [rewrite_message(json.dumps(ride()).encode(), "compact") or b"" for _ in range(2)]
    large = list(make_large_messages(rides, 3, 10_000, is_noise=is_noise))
    assert [parse_ride(value) for value in large] == [parse_ride(value) for value in (*rides, rides[0])]
    assert {len(value) for value in large} <= set(range(9_900, 10_100))


def test_benchmark_peers_are_in_no_requirement_set_for_users() -> None:
    for name in ("tools", "local", "dev", "image"):
        assert not re.search(r"(?m)^(pyspark|quixstreams)\b", (ROOT / "requirements" / f"{name}.txt").read_text())


def test_a_load_is_compared_with_a_bare_copy_round_by_round() -> None:
    loads = [Measured(2.0, 1.0, 100, 100_000), Measured(1.0, 1.0, 100, 100_000), Measured(4.0, 1.0, 100, 100_000)]
    copies = [Measured(0.4, 0.1, 50, 80_000), Measured(0.2, 0.1, 50, 80_000), Measured(1.6, 0.1, 50, 80_000)]
    warehouse = Warehouse(loads, copies)
    assert (warehouse.rate, warehouse.copy_rate) == (50_000, 200_000)
    assert warehouse.ratio == 0.25
    assert [aim.reached for aim in Measurements(load=warehouse).aims] == [1.0, 1.25]
