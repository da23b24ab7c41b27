"""The result of the BigQuery playbook: zones, and the revenue and rides of each. The report page reads it."""

from __future__ import annotations

from pathlib import Path

import msgspec

FILE = "zones.json"


class Zone(msgspec.Struct, frozen=True):
    """A zone of one training run. Coordinates are in degrees, the radius in the model's unit."""

    centroid_id: int
    label: str
    longitude: float
    latitude: float
    reference_points: int
    radius: float


class Revenue(msgspec.Struct, frozen=True):
    """The revenue of rides of one zone and comfort, in their currency. `outside` counts rides beyond the zone."""

    centroid_id: int
    label: str
    comfort: str
    revenue: float
    rides: int
    outside: int


class Zones(msgspec.Struct, frozen=True):
    """The result of a run. `sample` has longitude, latitude and centroid id of some rides, to draw the zones."""

    generated_at: str
    engine: str
    reference: str
    zones: list[Zone]
    revenue: list[Revenue]
    sample: list[tuple[float, float, int]]

    @property
    def rides(self) -> int:
        return sum(part.rides for part in self.revenue)

    @property
    def outside(self) -> int:
        return sum(part.outside for part in self.revenue)


def write(zones: Zones, path: Path) -> None:
    """Write zones as JSON. An existing file is replaced atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(encode(zones))
    unfinished.replace(path)


def encode(zones: Zones) -> bytes:
    """Zones as JSON."""
    return msgspec.json.encode(zones) + b"\n"


def read(path: Path) -> Zones | None:
    """Read the zones in a file; None if the file is missing or another version wrote it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Zones)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
