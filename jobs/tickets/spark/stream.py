"""The stream: every 30 seconds a batch of new messages, then all outputs again.

Spark repeats an interrupted batch with the same id and messages. Each batch writes all tickets and rejects so far into
a folder with its id, from the folder of the batch before. So a repeated batch overwrites its own folder.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.streaming.query import StreamingQuery

from jobs.errors import ConfigurationError
from jobs.spark.checkpoint import Ends, read_ends
from jobs.tickets.outputs import Format, Run, make_time, write_outputs
from jobs.tickets.source import Topic
from jobs.tickets.spark.batch import count, log_messages
from jobs.tickets.spark.transformations import make_outputs, parse, split
from jobs.tickets.summary import Summary

TRIGGER_S = 30
# The most messages in a batch, so that the first one of a long backlog fits the memory.
MAX_BATCH = 500_000
_KEPT = 2  # states: that of the batch, and that of the one before, from which the batch can be repeated


@dataclass(frozen=True)
class Stream:
    """Where the stream reads and writes.

    Attributes:
        folder: holds the checkpoint and the state.
        on_batch: called after each batch, when its outputs are written.
    """

    topic: Topic
    folder: Path
    outputs: Path
    fmt: Format
    on_batch: Callable[[Summary], object]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    def start(self, spark: SparkSession) -> StreamingQuery:
        """Start the query. It continues where the checkpoint is, or at the first message of the topic."""
        source = spark.readStream.format("kafka").options(
            **self.topic.options,
            subscribe=self.topic.name,
            startingOffsets="earliest",
            maxOffsetsPerTrigger=MAX_BATCH,
        )
        return (
            source.load()
            .writeStream.queryName(self.topic.name)
            .option("checkpointLocation", str(self.checkpoint))
            .trigger(processingTime=f"{TRIGGER_S} seconds")
            .foreachBatch(self.process)
            .start()
        )

    def process(self, messages: DataFrame, batch: int) -> None:
        """Process a batch. Spark calls it again with the same messages if it did not end."""
        begun = time.monotonic()
        spark = messages.sparkSession
        before = self._find_state(before=batch)
        parsed = parse(messages).persist()
        try:
            earlier = before and spark.read.parquet(str(before / "tickets"))
            tickets, rejects = (rows.persist() for rows in split(parsed, earlier))
            state = self._name_state(batch)
            for kind, rows in (("tickets", tickets), ("rejects", rejects)):
                if before is not None:
                    rows = spark.read.parquet(str(before / kind)).unionByName(rows)  # noqa: PLW2901
                rows.coalesce(1).write.mode("overwrite").parquet(str(state / kind))
            all_tickets, all_rejects = (spark.read.parquet(str(state / kind)) for kind in ("tickets", "rejects"))
            run = Run(f"stream-{batch}", "stream", self.topic.name, self._read_ends(batch), make_time())
            write_outputs(self.outputs, make_outputs(all_tickets, all_rejects), self.fmt, run)
            log_messages(tickets, rejects)
            summary = Summary(run, *count(tickets, rejects), time.monotonic() - begun)
        finally:
            spark.catalog.clearCache()
        self._delete_states()
        self.on_batch(summary)

    def _read_ends(self, batch: int) -> Ends:
        return read_ends(self.checkpoint, batch, self.topic.name)

    def _name_state(self, batch: int) -> Path:
        return self.folder / "state" / f"batch={batch}"

    def _list_states(self) -> list[int]:
        return sorted(int(path.name.partition("=")[2]) for path in (self.folder / "state").glob("batch=*"))

    def _find_state(self, before: int) -> Path | None:
        """The state that a batch continues; None for the first one."""
        states = [batch for batch in self._list_states() if batch < before]
        if not states and before:
            raise ConfigurationError(
                f"The tickets before batch {before} are missing in {self.folder / 'state'}. To start again at the "
                f"beginning of the topic, delete the stream's folder: rm -r {self.folder}"
            )
        return self._name_state(states[-1]) if states else None

    def _delete_states(self) -> None:
        for other in self._list_states()[:-_KEPT]:
            shutil.rmtree(self._name_state(other))
