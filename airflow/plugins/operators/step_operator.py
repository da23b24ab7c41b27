"""The base of the steps between ConsumeKafka and the tasks that publish or write."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context

from jobs.files import Folder
from jobs.kafka.staged import Manifest
from operators.base import DatastreamOperator


class StepOperator(DatastreamOperator):
    """Processes a manifest's chunks and returns the manifest of the outcomes.

    Args:
        staged: URL of ConsumeKafka's manifest.
    """

    template_fields: Sequence[str] = ("staged",)

    def __init__(self, *, staged: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.staged = staged

    @abstractmethod
    def step(self, manifest: Manifest, folder: Folder, settings: Any) -> tuple[str, Manifest]:
        """Process the chunks; returns URL and content of the manifest for the next task."""

    def work(self, context: Context, settings: Any) -> str:
        url, done = self.step(self.read_unfinished(self.staged), self.locate_folder(context, settings), settings)
        self.log.info(
            "Processed %d messages in %d chunks, rejected %d",
            done.records + done.rejects,
            len(done.chunks),
            done.rejects,
        )
        return url
