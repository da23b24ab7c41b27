"""The reference file `uber-split2.csv`: New York pick-ups of 2014 in the three forms in which it circulates.

Columns: date, latitude, longitude, base. Headers: `date,lat,lon,ID`, `Date/Time,Lat,Lon,Base`, or none. Some copies
have CRLF line ends, no final newline, exact duplicates, and points far outside the city.
Where there is no such file, a generated one stands in for it in the emulator: GENERATED in place of each base says so.
"""

from __future__ import annotations

import csv
import io
import random
import re
from datetime import datetime, timedelta
from typing import Literal

import google.api_core.exceptions
import msgspec
from google.cloud import storage

from jobs.errors import ConfigurationError
from jobs.sinks.parquet import explained
from jobs.zones.playbook import REFERENCE_FOLDER, Parameters

OBJECT = f"{REFERENCE_FOLDER}uber-split2.csv"
COLUMNS = 4
GENERATED = "GENERATED"

Form = Literal["date,lat,lon,ID", "Date/Time,Lat,Lon,Base", "no header"]
_HEADERS: dict[str, Form] = {"date,lat,lon,id": "date,lat,lon,ID", "date/time,lat,lon,base": "Date/Time,Lat,Lon,Base"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|infinity)|nan", re.IGNORECASE)


class Report(msgspec.Struct, frozen=True):
    """What a reference file holds. Each line counts once: unreadable (a header too), duplicate, outside or used."""

    form: Form
    lines: int
    unreadable: int
    duplicates: int
    outside: int
    used: int
    made_up: int
    has_crlf: bool
    ends_with_newline: bool

    def __str__(self) -> str:
        faults = [
            f"{self.unreadable:,} unreadable" + (" (one is the header)" if self.form != "no header" else ""),
            f"{self.duplicates:,} duplicates",
            f"{self.outside:,} outside the service area",
        ]
        faults += ["CRLF line ends"] if self.has_crlf else []
        faults += [] if self.ends_with_newline else ["no final newline"]
        what = "a GENERATED stand-in" if self.made_up else "form"
        return f"{what}, {self.form}: {self.lines:,} lines, {self.used:,} used; {', '.join(faults)}"


def lines_of(content: bytes) -> list[list[str]]:
    """The lines of a file, each as its first four fields; empty lines are none. Missing fields are left out."""
    text = content.decode("utf-8-sig", "replace")
    return [fields[:COLUMNS] for fields in csv.reader(io.StringIO(text, newline="")) if fields]


def inspect(content: bytes, parameters: Parameters) -> Report:
    """Count what a file holds, as 11_reference_points.sql does."""
    lines = lines_of(content)
    first = ",".join(field.strip() for field in lines[0]).lower() if lines else ""
    seen: set[tuple[str, ...]] = set()
    unreadable = duplicates = outside = used = made_up = 0
    for fields in lines:
        line = tuple(field.strip() for field in fields)
        place = [float(text) for text in line[1:3] if _NUMBER.fullmatch(text)]
        if len(place) < 2:
            unreadable += 1
            continue
        made_up += line[3:] == (GENERATED,)
        if line in seen:
            duplicates += 1
        elif parameters.south <= place[0] <= parameters.north and parameters.west <= place[1] <= parameters.east:
            used += 1
        else:
            outside += 1
        seen.add(line)
    return Report(
        form=_HEADERS.get(first, "no header"),
        lines=len(lines),
        unreadable=unreadable,
        duplicates=duplicates,
        outside=outside,
        used=used,
        made_up=made_up,
        has_crlf=b"\r\n" in content,
        ends_with_newline=content.endswith(b"\n"),
    )


def ensure(client: storage.Client, parameters: Parameters, *, may_generate: bool) -> Report:
    """What the bucket's reference file holds; where there is none, put the generated one there if that is allowed.

    Raises:
        ConfigurationError: there is no file, or no point of it is in the service area.
        ServiceUnavailableError
    """
    where = f"gs://{parameters.bucket}/{OBJECT}"
    with explained(client, f"reading {where}"):
        blob = client.bucket(parameters.bucket).blob(OBJECT)
        try:
            content = blob.download_as_bytes()
        except google.api_core.exceptions.NotFound as error:
            if not may_generate:
                raise ConfigurationError(
                    f"There is no {where}. Put the file of New York's pick-ups there (gcloud storage cp "
                    f"uber-split2.csv {where}); docs/bqml_playbook.md tells its columns."
                ) from error
            content = generated()
            blob.upload_from_string(content, "text/csv")
    report = inspect(content, parameters)
    if not report.used:
        raise ConfigurationError(
            f"{where} has {report.lines:,} lines and no place inside SERVICE_AREA={parameters.south},{parameters.west},"
            f"{parameters.north},{parameters.east}: {report}. Its columns must be date, latitude, longitude, base; set "
            "SERVICE_AREA to the area of its city."
        )
    return report


# Places of New York with the spread of pick-ups around them in km, and their weight.
_PLACES = (
    (40.7549, -73.9840, 0.9, 22),  # Midtown
    (40.7255, -73.9900, 0.9, 18),  # the Village
    (40.7085, -74.0095, 0.6, 10),  # Downtown
    (40.7780, -73.9650, 1.1, 15),  # the Upper East and West Side
    (40.8110, -73.9480, 1.0, 5),  # Harlem
    (40.8290, -73.9210, 1.1, 3),  # the Bronx
    (40.7135, -73.9560, 0.9, 7),  # Williamsburg
    (40.6830, -73.9820, 1.1, 7),  # Brooklyn
    (40.7560, -73.9320, 1.2, 5),  # Queens
    (40.7745, -73.8720, 0.5, 4),  # LaGuardia
    (40.6446, -73.7850, 0.6, 4),  # Kennedy
)
_SCATTERED = 0.02  # of pick-ups anywhere in the city
_KM_PER_DEGREE = 111.195
_KM_PER_DEGREE_OF_LONGITUDE = 84.3  # at 40.7° north


def generated(
    form: Form = "Date/Time,Lat,Lon,Base",
    *,
    points: int = 6_000,
    has_crlf: bool = True,
    ends_with_newline: bool = False,
    seed: int = 2014,
) -> bytes:
    """A made-up reference file with the real one's form and faults: one percent each of duplicates and far points."""
    rng = random.Random(seed)  # noqa: S311 (made-up data)
    weights = [weight for *_, weight in _PLACES]
    lines: list[str] = []
    for number in range(points):
        if number % 100 == 99:
            lines.append(lines[-1])
            continue
        if number % 100 == 49:
            lat, lon = rng.choice([(0.0, 0.0), (39.9526, -75.1652), (42.3601, -71.0589)])
        elif rng.random() < _SCATTERED:
            lat, lon = rng.uniform(40.60, 40.87), rng.uniform(-74.02, -73.76)
        else:
            place_lat, place_lon, spread, _ = rng.choices(_PLACES, weights)[0]
            lat = place_lat + rng.gauss(0, spread) / _KM_PER_DEGREE
            lon = place_lon + rng.gauss(0, spread) / _KM_PER_DEGREE_OF_LONGITUDE
        at = datetime(2014, 8, 1) + timedelta(minutes=rng.randrange(31 * 24 * 60))
        date = f"{at.month}/{at.day}/{at.year} {at.hour}:{at:%M:%S}"
        lines.append(f"{date},{lat:.4f},{lon:.4f},{GENERATED}")
    if form != "no header":
        lines.insert(0, form)
    end = "\r\n" if has_crlf else "\n"
    return (end.join(lines) + (end if ends_with_newline else "")).encode()
