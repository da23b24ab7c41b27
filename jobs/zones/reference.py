"""The reference file `uber-split2.csv`: New York pick-ups from 2014. Copies of it exist in three forms.

Columns: date, latitude, longitude, base. Header: `date,lat,lon,ID`, `Date/Time,Lat,Lon,Base`, or no header. Some copies
have CRLF line ends, no final newline, exact duplicates, or points far outside the city.
If the emulator's bucket lacks the file, a generated one replaces it. Its base column is GENERATED in every line.
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
from jobs.sinks.parquet import translate_errors
from jobs.zones.playbook import REFERENCE_FOLDER, Parameters

OBJECT = f"{REFERENCE_FOLDER}uber-split2.csv"
COLUMNS = 4
GENERATED = "GENERATED"

Form = Literal["date,lat,lon,ID", "Date/Time,Lat,Lon,Base", "no header"]
_HEADERS: dict[str, Form] = {"date,lat,lon,id": "date,lat,lon,ID", "date/time,lat,lon,base": "Date/Time,Lat,Lon,Base"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|infinity)|nan", re.IGNORECASE)


class Report(msgspec.Struct, frozen=True):
    """Figures of a reference file. Each line counts once: as unreadable (also a header), duplicate, outside or used."""

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
        kind = "a GENERATED stand-in" if self.made_up else "form"
        return f"{kind}, {self.form}: {self.lines:,} lines, {self.used:,} used; {', '.join(faults)}"


def parse_lines(content: bytes) -> list[list[str]]:
    """Return the first four fields of each line. Skips empty lines; a short line has fewer fields."""
    text = content.decode("utf-8-sig", "replace")
    return [fields[:COLUMNS] for fields in csv.reader(io.StringIO(text, newline="")) if fields]


def inspect(content: bytes, parameters: Parameters) -> Report:
    """Count the lines of a file by kind, like 11_reference_points.sql."""
    lines = parse_lines(content)
    first = ",".join(field.strip() for field in lines[0]).lower() if lines else ""
    seen: set[tuple[str, ...]] = set()
    unreadable = duplicates = outside = used = made_up = 0
    for fields in lines:
        line = tuple(field.strip() for field in fields)
        point = [float(text) for text in line[1:3] if _NUMBER.fullmatch(text)]
        if len(point) < 2:
            unreadable += 1
            continue
        made_up += line[3:] == (GENERATED,)
        if line in seen:
            duplicates += 1
        elif parameters.south <= point[0] <= parameters.north and parameters.west <= point[1] <= parameters.east:
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
    """Inspect the bucket's reference file. If there is no file, upload a generated one, provided that is allowed.

    Raises:
        ConfigurationError: there is no file, or it has no point in the service area.
        ServiceUnavailableError
    """
    uri = f"gs://{parameters.bucket}/{OBJECT}"
    with translate_errors(client, f"reading {uri}"):
        blob = client.bucket(parameters.bucket).blob(OBJECT)
        try:
            content = blob.download_as_bytes()
        except google.api_core.exceptions.NotFound as error:
            if not may_generate:
                raise ConfigurationError(
                    f"There is no {uri}. Upload the file of New York pick-ups (gcloud storage cp uber-split2.csv "
                    f"{uri}); docs/bqml_playbook.md lists its columns."
                ) from error
            content = generate()
            blob.upload_from_string(content, "text/csv")
    report = inspect(content, parameters)
    if not report.used:
        raise ConfigurationError(
            f"{uri} has {report.lines:,} lines and no point inside SERVICE_AREA={parameters.south},{parameters.west},"
            f"{parameters.north},{parameters.east}: {report}. The columns must be date, latitude, longitude, base, "
            "and SERVICE_AREA must be the area of the file's city."
        )
    return report


# Latitude and longitude of places in New York, the spread of pick-ups around each in km, and its weight.
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
_SCATTERED = 0.02  # share of pick-ups that are anywhere in the city
_KM_PER_DEGREE = 111.195
_KM_PER_DEGREE_OF_LONGITUDE = 84.3  # at 40.7° north


def generate(
    form: Form = "Date/Time,Lat,Lon,Base",
    *,
    points: int = 6_000,
    has_crlf: bool = True,
    ends_with_newline: bool = False,
    seed: int = 2014,
) -> bytes:
    """Generate a reference file with the form and faults of the real one: 1 % duplicates and 1 % far points."""
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
        pickup_time = datetime(2014, 8, 1) + timedelta(minutes=rng.randrange(31 * 24 * 60))
        date = f"{pickup_time.month}/{pickup_time.day}/{pickup_time.year} {pickup_time.hour}:{pickup_time:%M:%S}"
        lines.append(f"{date},{lat:.4f},{lon:.4f},{GENERATED}")
    if form != "no header":
        lines.insert(0, form)
    end = "\r\n" if has_crlf else "\n"
    return (end.join(lines) + (end if ends_with_newline else "")).encode()
