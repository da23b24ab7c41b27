"""The zones: city zones by k-means, and revenue by zone, from the exported rides."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from jobs.rides.vertical import RidesSettings
from jobs.vertical import Vertical


class ZonesSettings(RidesSettings):
    """The settings that zones add to the rides'."""

    # Empty: the playbook of infra/bigquery runs on the local engine.
    bigquery_project: Annotated[str, Field(pattern=r"^([a-z0-9.:-]+)?$")] = ""
    bigquery_dataset: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "rides"
    bigquery_location: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] = "EU"
    bigquery_max_bytes_billed: Annotated[int, Field(ge=1)] = 10 * 2**30
    service_area: str = "40.45,-74.30,41.00,-73.60"

    @field_validator("service_area")
    @classmethod
    def _is_area(cls, text: str) -> str:
        try:
            south, west, north, east = map(float, text.split(","))
        except ValueError as error:
            raise ValueError("four numbers are needed: south,west,north,east in degrees") from error
        if not (-90 <= south < north <= 90 and -180 <= west < east <= 180):
            raise ValueError("south must be below north and west below east, in degrees")
        return text

    @property
    def area(self) -> tuple[float, float, float, float]:
        """The service area's south, west, north and east in degrees."""
        south, west, north, east = map(float, self.service_area.split(","))
        return south, west, north, east


# The DAGs cost money on BigQuery, so `jobs unpause` does not turn them on.
VERTICAL = Vertical(
    name="zones",
    settings=ZonesSettings,
    metrics={
        "datastream.zones.revenue": "revenue of the last scoring, by zone and comfort",
        "datastream.zones.scored_timestamp_seconds": "when the last scoring ended",
    },
    services=("gcs", "airflow"),
)
