"""The sizing page shows the output of its script, and the script computes as the page explains."""

from __future__ import annotations

import json
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest

from benchmarks import sizing
from benchmarks.sizing import Assumptions, apply_bench, format_tables
from jobs.settings import ROOT

PAGE = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")


def test_the_sizing_page_shows_the_output_of_the_script() -> None:
    assert f"```text\n{format_tables(Assumptions())}```" in PAGE


def test_the_sizing_command_takes_options() -> None:
    command = [sys.executable, "-m", "benchmarks.sizing", "--rates", "1000", "--replication", "2"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed == format_tables(Assumptions(rates=[1000], replication=2))
    assert "1,000 msg/s" in printed


def test_kafka_sizing_matches_a_manual_calculation() -> None:
    a = Assumptions(
        raw_bytes=100, result_bytes=200, dead_letter_bytes=300, bad_share=0.1, mean_share=0.5,
        retention_days=7, dead_letter_days=14, broker_disk_tb=1, fill=0.5,
    )  # fmt: skip
    assert sizing.write_bytes(a, 1000) == 1000 * (100 + 0.9 * 200 + 0.1 * 300)
    assert sizing.read_bytes(a, 1000) == 1000 * (100 + 2 * 0.9 * 200)
    assert sizing.network_out_bytes(a, 1000) == 460_000 + 2 * 310_000
    held = 500 * 86_400 * (7 * (100 + 180) + 14 * 30) * 3
    assert sizing.kafka_disk_bytes(a, 1000) == pytest.approx(held)
    assert sizing.brokers(a, 1000) == 3
    assert sizing.brokers_by(a, 20_000)["disk space"] == -(-held * 20 // 500_000_000_000)
    assert sizing.brokers(a, 20_000) == sizing.brokers_by(a, 20_000)["disk space"] + 1


def test_run_time_includes_overhead_and_new_arrivals() -> None:
    a = Assumptions(compute_rate=100_000, compute_overhead_s=6, max_records_per_run=1_000_000, outage_h=2)
    assert sizing.run_seconds(a, 40_000) == pytest.approx(10)
    assert sizing.run_records(a, 40_000) == pytest.approx(400_000)
    assert sizing.run_seconds(a, 100_000) == inf
    assert sizing.most_per_second(a) == pytest.approx(62_500)
    assert sizing.catch_up_hours(a, 50_000) == pytest.approx(8)
    assert sizing.catch_up_hours(a, 62_500) == inf
    assert sizing.fits_one_process(a, 49_000)
    assert not sizing.fits_one_process(a, 50_000)


def test_elasticsearch_sizing_matches_a_manual_calculation() -> None:
    a = Assumptions(
        days_in_index=1, mean_share=1, bad_share=0, document_bytes=400, replicas=1, node_disk_tb=1, index_rate=20_000
    )
    held = 10_000 * 86_400
    assert sizing.documents(a, 10_000) == held
    assert sizing.shards(a, 10_000) == 9  # 345.6 GB in shards of 40
    assert sizing.nodes_by(a, 10_000)["disk space"] == 1
    assert sizing.nodes_by(a, 1_000_000)["cores"] == 7  # 2 copies of a million at 320,000 a node
    assert sizing.nodes(a, 10_000) == 3


def test_object_counts_match_a_manual_calculation() -> None:
    a = Assumptions(mean_share=1, export_target_records=600_000, export_max_age_s=300, chunk_records=50_000)
    assert sizing.export_seconds(a, 1000) == 300
    assert sizing.export_seconds(a, 10_000) == 60
    assert sizing.objects_per_day(a, 1000) == 6 * (288 + 24)
    assert sizing.objects_per_day(a, 10_000) == 6 * (1440 * 2 + 24)
    assert sizing.write_dollars(a, 1000) == pytest.approx(6 * (288 + 24) * 30 * 0.01 / 1000)


def test_higher_rates_never_need_less() -> None:
    a = Assumptions()
    for figure in (sizing.brokers, sizing.topic_partitions, sizing.shards, sizing.nodes, sizing.objects_per_day):
        figures = [figure(a, rate) for rate in range(1000, 1_000_000, 9000)]
        assert figures == sorted(figures), figure.__name__


def test_rates_of_the_last_benchmark_are_used(tmp_path: Path) -> None:
    passes = [{"messages": 1000, "seconds": seconds} for seconds in (1, 2, 4)]
    results = [{"part": "price", "name": "datastream", "passes": passes}]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"results": results}))
    assumptions = apply_bench(Assumptions(), path)
    assert assumptions.compute_rate == 500
    assert assumptions.export_rate == Assumptions().export_rate
