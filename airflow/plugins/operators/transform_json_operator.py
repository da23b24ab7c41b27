"""TransformJSON: turns staged results into flat rows."""

from __future__ import annotations

from typing import Any

from jobs.files import Folder
from jobs.kafka.staged import Manifest
from operators.step_operator import StepOperator


class TransformJSONOperator(StepOperator):
    """Turns staged results into rows with flat coordinates and agent_timestamp."""

    def step(self, manifest: Manifest, folder: Folder, settings: Any) -> tuple[str, Manifest]:
        from jobs.rides.transform import transform

        return transform(manifest, folder)
