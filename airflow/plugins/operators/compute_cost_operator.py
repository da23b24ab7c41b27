"""ComputeCostTravel: prices staged rides, or has Spark price a claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.files import Folder
from jobs.kafka.staged import Manifest, read_manifest
from jobs.rides.spark.vertical import SparkSettings
from operators.step_operator import StepOperator

if TYPE_CHECKING:
    from jobs.rides.spark.client import DriverClient


class ComputeCostOperator(StepOperator):
    """Computes the distance and price of every ride, and the reason of every invalid message.

    Messages that ConsumeKafka has only claimed are priced by Spark. Its manifest decides that, because the Variable may
    have changed since.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._driver: DriverClient | None = None

    def step(self, manifest: Manifest, folder: Folder, settings: SparkSettings) -> tuple[str, Manifest]:
        if manifest.is_staged:
            from jobs.rides.compute import compute
            from jobs.rides.distance import find_distance_function

            return compute(manifest, find_distance_function(settings.distance_method), folder)
        from jobs.rides.spark.client import DriverClient

        self._driver = DriverClient(settings.driver_url, lambda text: self.log.info("Spark: %s", text))
        url = self._driver.price(self.staged, folder.url, settings.distance_method)
        return url, read_manifest(url)

    def on_kill(self) -> None:
        # Spark cancels the work of a client that has gone.
        if self._driver is not None:
            self._driver.close()
