"""ComputeCostTravel: prices staged rides."""

from __future__ import annotations

from jobs.files import Folder
from jobs.kafka.staged import Manifest
from jobs.rides.vertical import RidesSettings
from operators.step_operator import StepOperator


class ComputeCostOperator(StepOperator):
    """Computes the distance and price of every staged ride, and the reason of every invalid message."""

    def step(self, manifest: Manifest, folder: Folder, settings: RidesSettings) -> tuple[str, Manifest]:
        from jobs.rides.compute import compute
        from jobs.rides.distance import find_distance_function

        return compute(manifest, find_distance_function(settings.distance_method), folder)
