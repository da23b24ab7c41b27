"""A lost index is rebuilt from Parquet, id for id."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from jobs.errors import ConfigurationError
from jobs.rides import reindex as module
from jobs.rides.reindex import Reindexed, reindex
from jobs.settings import ROOT
from tests.conftest import Stack
from tests.helpers import keyed, produce, result, until
from tests.integration.flow import Sinking

pytestmark = pytest.mark.timeout(120)


def send(sinking: Sinking) -> None:
    """Rides of several hours, some of them sent twice, and some sent later once more with another price."""
    hours = ["2026-01-05T08:15:30.123456Z", "2026-01-05T09:00:00.000000Z", "0001-01-01T00:00:00.000000Z"]
    rides = [result(ts=hour) for hour in hours for _ in range(20)]
    produce(sinking.config, sinking.source, [keyed(ride) for ride in [*rides, *rides[::3]]])
    sinking.run()
    produce(sinking.config, sinking.source, [keyed(ride | {"price_total": 99.25}) for ride in rides[::4]])
    sinking.run()


def run(stack: Stack, sinking: Sinking) -> Reindexed:
    update = {"rides_index": sinking.index, "gcs_bucket": sinking.bucket, "gcs_prefix": sinking.prefix}
    settings = stack.settings.model_copy(update=update)
    return reindex(settings, sinking.elasticsearch, sinking.gcs, lambda *_: None)


def test_a_lost_index_comes_back_as_it_was(stack: Stack, sinking: Sinking) -> None:
    send(sinking)
    before, mapping = sinking.documents(), sinking.elasticsearch.indices.get_mapping(index=sinking.index).body
    assert len(before) == 60
    assert sum(document["price_total"] == 99.25 for document in before.values()) == 15
    sinking.elasticsearch.indices.delete(index=sinking.index)
    sinking.elasticsearch.indices.delete_index_template(name=sinking.index)

    done = run(stack, sinking)
    assert (done.objects, done.rows, done.refused, done.documents) == (len(sinking.objects()), 95, 0, 60)
    assert sinking.documents() == before
    assert sinking.elasticsearch.indices.get_mapping(index=sinking.index).body == mapping
    assert run(stack, sinking).documents == 60
    assert sinking.documents() == before


def test_what_is_newer_in_the_index_stays(stack: Stack, sinking: Sinking) -> None:
    """dag_index_and_export is ahead of what a reindex reads."""
    ride = result()
    produce(sinking.config, sinking.source, [keyed(ride)])
    sinking.run()
    produce(sinking.config, sinking.source, [keyed(ride | {"price_total": 99.25})])
    staged = sinking.staged()
    sinking.index_rides(staged, sinking.transform(staged))
    run(stack, sinking)
    (document,) = sinking.documents().values()
    assert document["price_total"] == 99.25


def test_rows_that_elasticsearch_refuses_are_counted(stack: Stack, sinking: Sinking) -> None:
    produce(sinking.config, sinking.source, [keyed(result(price_base=price)) for price in (2.0, 2.0, 5000.0)])
    sinking.run()
    sinking.elasticsearch.indices.delete(index=sinking.index)
    properties = {"price_base": {"type": "double", "fields": {"small": {"type": "byte"}}}}
    sinking.elasticsearch.indices.create(index=sinking.index, mappings={"properties": properties})
    done = run(stack, sinking)
    assert (done.rows, done.refused, done.documents) == (3, 1, 2)
    assert "price_base" in done.refusal


@pytest.mark.parametrize(("content", "fault"), [(b"no parquet", "is no Parquet file"), (None, "columns are others")])
def test_an_object_of_others_is_named(stack: Stack, sinking: Sinking, content: bytes | None, fault: str) -> None:
    if content is None:
        import io

        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(pa.table({"a": [1]}), buffer)
        content = buffer.getvalue()
    sinking.gcs.bucket(sinking.bucket).blob(f"{sinking.prefix}mine.parquet").upload_from_string(content)
    with pytest.raises(ConfigurationError, match=rf"gs://{sinking.bucket}/{sinking.prefix}mine.parquet .*{fault}"):
        run(stack, sinking)


KILLED = """
    import sys, time
    from pathlib import Path
    from jobs import __main__ as command_line
    from jobs.rides import reindex as module

    calls, bulk = 0, module.bulk

    def blocking(*arguments):
        global calls
        calls += 1
        if calls == 3:
            Path(sys.argv[1]).touch()
            time.sleep(600)
        return bulk(*arguments)

    module.bulk, module._BULK_ROWS = blocking, 10
    command_line.app(["reindex"])
"""


def test_killed_in_the_middle_and_run_again(
    stack: Stack, sinking: Sinking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(sinking)
    before = sinking.documents()
    sinking.elasticsearch.indices.delete(index=sinking.index)
    names = {"RIDES_INDEX": sinking.index, "GCS_BUCKET": sinking.bucket, "GCS_PREFIX": sinking.prefix}
    mark = tmp_path / "blocked"
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(mark)], cwd=ROOT, env={**os.environ, **names}
    )
    try:
        until(lambda: mark.exists() or process.poll() is not None, "it is at its third bulk")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    assert 0 < len(sinking.documents()) < 60
    monkeypatch.setattr(module, "_BULK_ROWS", 10)
    run(stack, sinking)
    assert sinking.documents() == before
