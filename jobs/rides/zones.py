"""What the playbook found, as the report page and others read it: zones, and revenue and rides in each."""

from __future__ import annotations

from pathlib import Path

import msgspec

FILE = "zones.json"


class Zone(msgspec.Struct, frozen=True):
    """A zone of this training. Degrees; the radius is in the model's unit."""

    centroid_id: int
    label: str
    longitude: float
    latitude: float
    reference_points: int
    radius: float


class Revenue(msgspec.Struct, frozen=True):
    """What rides of one zone and comfort brought in, in the unit of their prices. `outside`: beyond the zone."""

    centroid_id: int
    label: str
    comfort: str
    revenue: float
    rides: int
    outside: int


class Zones(msgspec.Struct, frozen=True):
    """A run's result. `sample`: longitude, latitude and centroid id of some rides, to draw the zones with."""

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
    """Write zones as JSON. A file that is there already is replaced at once, never half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.write_bytes(encode(zones))
    unfinished.replace(path)


def encode(zones: Zones) -> bytes:
    """Zones as JSON."""
    return msgspec.json.encode(zones) + b"\n"


def read(path: Path) -> Zones | None:
    """The zones of a file; None where there is none, or one that another version wrote."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Zones)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
