"""ScoreNotes: adds a mood to staged notes."""

from __future__ import annotations

from typing import Any

from jobs.files import Folder
from jobs.kafka.staged import Manifest
from operators.step_operator import StepOperator


class ScoreNotesOperator(StepOperator):
    """Add a mood to every staged note, and a reason to every other message."""

    def step(self, manifest: Manifest, folder: Folder, settings: Any) -> tuple[str, Manifest]:
        from jobs.notes.score import score  # here: Airflow parses this file for every task

        return score(manifest, folder)
