"""Claim checks: manifests and staged files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from jobs.errors import OffsetsError, StagedFilesGoneError
from jobs.files import Folder, read_batches, read_chunk
from jobs.kafka.claim import Claimed, Limits
from jobs.kafka.scan import Claim
from jobs.kafka.stage import write_claim
from jobs.kafka.staged import (
    MESSAGE_SCHEMA,
    OUTCOME_SCHEMA,
    REJECT_SCHEMA,
    Chunk,
    Manifest,
    make_outcome_batch,
    make_reject_batch,
    read_manifest,
)
from jobs.parallel import prefetch
from jobs.settings import Settings
from tests.testkit.rides import messages

CHUNK = Chunk(partition=1, first=5, last=8, records=3, size=30, url="")
MANIFEST = Manifest("raw", "id", "group", (Claim(0, 3, 3), Claim(1, 5, 10)), (CHUNK,), 50_000, 2**25)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(f"file://{tmp_path}/staging")


def files(tmp_path: Path) -> set[str]:
    return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}


def test_a_staged_table_is_read_back_unchanged(folder: Folder) -> None:
    batches = [messages([b"a", None, b""]), messages([b"\x00\xff"], first=3)]
    url = folder.child("dag", "run", "1").write_table("00001-5", batches, MESSAGE_SCHEMA)
    assert url.endswith("/staging/dag/run/1/00001-5.arrow")
    assert list(read_batches(url)) == batches
    assert read_chunk(url).column("value").to_pylist() == [b"a", None, b"", b"\x00\xff"]


def test_a_deleted_file_can_be_read_to_its_end_once_opened(folder: Folder) -> None:
    batches = [messages([b"%d" % number] * 3, first=3 * number) for number in range(3)]
    staged = folder.child("run")
    reading = read_batches(staged.write_table("a", batches, MESSAGE_SCHEMA))
    first = next(reading)
    staged.delete()
    staged.write_table("a", [messages([b"new"])], MESSAGE_SCHEMA)
    assert [first, *reading] == batches


def test_an_empty_table_can_be_staged(folder: Folder) -> None:
    url = folder.write_table("rejects", [], REJECT_SCHEMA)
    assert list(read_batches(url)) == []


def test_a_manifest_is_read_back_unchanged(folder: Folder) -> None:
    assert read_manifest(folder.write_manifest(MANIFEST)) == MANIFEST
    assert MANIFEST.records == 3
    assert MANIFEST.ends == {0: 3, 1: 10}


def test_a_claim_is_written_without_its_messages(folder: Folder) -> None:
    claimed = Claimed("raw", "id", "group", MANIFEST.claims, Limits(100, 50_000, 2**25), lag=5)
    url, manifest = write_claim(claimed, folder)
    assert read_manifest(url) == manifest == msgspec.structs.replace(MANIFEST, chunks=(), is_staged=False)


def test_a_manifest_of_an_earlier_version_is_staged(folder: Folder) -> None:
    content = msgspec.to_builtins(MANIFEST)
    del content["is_staged"]
    assert read_manifest(folder.write_text("old.json", json.dumps(content))) == MANIFEST


def test_only_ends_at_or_after_the_committed_offset_are_committed() -> None:
    assert MANIFEST.list_ends_after({0: 3, 1: 5}) == {0: 3, 1: 10}, "Kafka would forget an offset that stays for long"
    assert MANIFEST.list_ends_after({0: None, 1: 10}) == {0: 3, 1: 10}
    assert MANIFEST.list_ends_after({0: 4, 1: 11}) == {}
    with pytest.raises(OffsetsError, match=r"raw\[1\]: group group was set back to 4, before 5"):
        MANIFEST.list_ends_after({0: 3, 1: 4})


def test_a_file_gets_its_final_name_when_complete(folder: Folder, tmp_path: Path) -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield messages([b"a"])
        assert not any(name.endswith(".arrow") for name in files(tmp_path)), "half a file already has its name"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        folder.write_table("chunk", broken(), MESSAGE_SCHEMA)
    assert not any(name.endswith("chunk.arrow") for name in files(tmp_path))
    url = folder.write_table("chunk", [messages([b"b"])], MESSAGE_SCHEMA)
    assert read_chunk(url).column("value").to_pylist() == [b"b"]
    assert files(tmp_path) == {"staging/chunk.arrow"}


def test_writing_a_table_again_replaces_it(folder: Folder) -> None:
    folder.write_table("chunk", [messages([b"old", b"old"])], MESSAGE_SCHEMA)
    url = folder.write_table("chunk", [messages([b"new"])], MESSAGE_SCHEMA)
    assert read_chunk(url).column("value").to_pylist() == [b"new"]


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("manual__2026-01-05T08:15:30+00:00", "manual__2026-01-05T08:15:30+00:00"),
        ("a/b", "a_b"),
        ("a b", "a_b"),
        ("a%b", "a_b"),
    ],
)
def test_names_are_made_safe_for_a_path(folder: Folder, tmp_path: Path, name: str, safe: str) -> None:
    url = folder.child(name).write_manifest(MANIFEST)
    assert read_manifest(url) == MANIFEST
    assert files(tmp_path) == {f"staging/{safe}/manifest.json"}


def test_no_name_escapes_from_the_folder(folder: Folder, tmp_path: Path) -> None:
    folder.child("dag").child("..").child("..").write_manifest(MANIFEST)
    assert all(name.startswith("staging/dag/") for name in files(tmp_path))


@pytest.mark.parametrize("name", ["plus+", "with space", "ünï", "a#b", "q?", "per%20cent"])
def test_special_characters_in_the_state_folder_are_supported(tmp_path: Path, name: str) -> None:
    state = tmp_path / name
    folder = Folder(Settings(_env_file=None, datastream_state=state, staging_url="").staging).child("run")
    url = folder.write_table("chunk", [messages([b"a"])], MESSAGE_SCHEMA)
    assert read_chunk(url).column("value").to_pylist() == [b"a"]
    assert (state / "staging" / "run" / "chunk.arrow").is_file()


@pytest.mark.parametrize(
    ("offsets", "passed"),
    [
        ({0: 3, 1: 10}, True),
        ({0: 99, 1: 99}, True),
        ({0: 3, 1: 9}, False),
        ({0: 2, 1: 10}, False),
        ({0: None, 1: 10}, False),
        ({0: 3, 1: None}, False),
        ({}, False),
    ],
)
def test_a_claim_is_passed_when_all_its_partitions_are_passed(offsets: dict[int, int | None], passed: bool) -> None:
    assert MANIFEST.is_passed_by(offsets) is passed


def test_a_missing_manifest_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(StagedFilesGoneError, match=r"gone/manifest.json was deleted.*clear the run from ConsumeKafka"):
        read_manifest(f"file://{tmp_path}/gone/manifest.json")


def _populate(folder: Folder, *runs: str) -> None:
    for run in runs:
        for task in ("ConsumeKafka", "ComputeCostTravel"):
            place = folder.child(run, task, "1")
            place.write_table("chunk", [messages([b"a"])], MESSAGE_SCHEMA)
            place.write_manifest(MANIFEST)


def test_deleting_a_run_removes_all_its_files(folder: Folder, tmp_path: Path) -> None:
    _populate(folder, "run", "other")
    folder.child("run").delete()
    assert {path.name for path in (tmp_path / "staging").iterdir()} == {"other"}
    folder.child("run").delete()
    folder.child("never made").delete()
    assert len(files(tmp_path)) == 4


def test_only_the_current_run_is_kept(folder: Folder, tmp_path: Path) -> None:
    _populate(folder.child("dag"), "run", "older", "oldest")
    _populate(folder.child("another dag"), "run")
    folder.child("dag").delete_all_but(folder.child("dag", "run"))
    assert {path.name for path in (tmp_path / "staging" / "dag").iterdir()} == {"run"}
    assert len(files(tmp_path)) == 8
    folder.child("dag").delete_all_but(folder.child("dag", "another"))
    assert {path.name for path in (tmp_path / "staging").rglob("*.json")} == {"manifest.json"}
    assert len(files(tmp_path)) == 4
    folder.child("never made").delete_all_but(folder.child("never made", "run"))


def test_an_outcome_is_a_result_or_the_message_with_a_reason() -> None:
    headers = [{"key": "trace", "value": b"\x00"}]
    batch = messages([b"a", None, b"c"], first=7)
    batch = batch.set_column(4, MESSAGE_SCHEMA.field("headers"), pa.array([headers] * 3, batch.schema.types[4]))
    outcomes = make_outcome_batch(
        batch,
        keys=pa.array([b"k", None, None], pa.binary()),
        values=[b"v", None, None],
        reasons=[None, "empty_value", "unexpected"],
        texts=[None, "no value", "what?"],
        stacktraces=[None, None, "at"],
    )
    assert outcomes.schema == OUTCOME_SCHEMA
    assert [list(row.values()) for row in outcomes.to_pylist()] == [
        [7, b"k", b"v", None, None, None, None],
        [8, b"key", None, headers, "empty_value", "no value", None],
        [9, b"key", b"c", headers, "unexpected", "what?", "at"],
    ]


def test_rejects_keep_the_message() -> None:
    batch = make_reject_batch(4, messages([b"a", None], first=7), "invalid_result", ["why", "why too"])
    assert batch.schema == REJECT_SCHEMA
    assert batch.to_pylist() == [
        {
            "partition": 4, "offset": 7 + row, "key": b"key", "value": value, "headers": None,
            "reason": "invalid_result", "message": text, "stacktrace": None,
        }
        for row, (value, text) in enumerate([(b"a", "why"), (None, "why too")])
    ]  # fmt: skip


def test_chunks_are_prefetched_one_ahead_and_in_order() -> None:
    chunks = [msgspec.structs.replace(CHUNK, first=number) for number in range(5)]
    loaded: list[int] = []

    def load(chunk: Chunk) -> int:
        loaded.append(chunk.first)
        return chunk.first * 10

    seen: list[Any] = []
    for chunk, content in prefetch(load, chunks):
        seen.append((chunk.first, content))
        assert len(loaded) <= len(seen) + 1
    assert seen == [(number, number * 10) for number in range(5)]
    assert loaded == list(range(5))
    assert list(prefetch(load, [])) == []


def test_an_error_while_prefetching_is_raised() -> None:
    def load(chunk: Chunk) -> int:
        raise OSError(f"chunk {chunk.first}")

    with pytest.raises(OSError, match="chunk 5"):
        list(prefetch(load, [CHUNK]))
