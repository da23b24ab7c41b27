"""The reference file `uber-split2.csv`: New York pick-ups from 2014. Copies of it exist in three forms.

Columns: date, latitude, longitude, base. Header: `date,lat,lon,ID`, `Date/Time,Lat,Lon,Base`, or no header. Some copies
have CRLF line ends, no final newline, exact duplicates, or points far outside the city. A line end always ends a line:
quotes do not join lines, so an unbalanced one costs only its own line (the same in 10_reference_raw.sql).
If the emulator's bucket lacks the file, a generated one replaces it. Its base column is GENERATED in every line.
"""

from __future__ import annotations

import io
import random
import re
import tempfile
from array import array
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import IO, Literal

import google.api_core.exceptions
import msgspec
import numpy as np
from google.cloud import storage

from jobs.errors import ConfigurationError
from jobs.sinks.parquet import translate_errors
from jobs.zones.playbook import REFERENCE_FOLDER, Parameters

OBJECT = f"{REFERENCE_FOLDER}uber-split2.csv"
COLUMNS = 4
GENERATED = "GENERATED"

Form = Literal["date,lat,lon,ID", "Date/Time,Lat,Lon,Base", "no header"]
_HEADERS: dict[str, Form] = {"date,lat,lon,id": "date,lat,lon,ID", "date/time,lat,lon,base": "Date/Time,Lat,Lon,Base"}
_NUMBER = re.compile(r"\s*([+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|infinity)|nan)\s*", re.IGNORECASE)
_EXPECTED = "The columns must be date, latitude, longitude, base, separated by commas, in UTF-8."
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_HEAD_BYTES = 4_096
_SHOWN_CHARACTERS = 100


class Report(msgspec.Struct, frozen=True):
    """Figures of a reference file. Each line counts once: as unreadable (also a header), duplicate, outside or used.

    `first_fault` shows the first unreadable line that is not the header, with its number and the reason.
    """

    form: Form
    lines: int
    unreadable: int
    duplicates: int
    outside: int
    used: int
    made_up: int
    has_crlf: bool
    ends_with_newline: bool
    first_fault: str = ""

    @property
    def is_refused(self) -> bool:
        """Whether more than a tenth of the lines are unreadable, besides a header; as in 11_reference_points.sql."""
        return self.unreadable > 1 + 0.1 * self.lines

    def __str__(self) -> str:
        remarks = ["one is the header"] if self.form != "no header" else []
        remarks += [f"the first is {self.first_fault}"] if self.first_fault else []
        faults = [
            f"{self.unreadable:,} unreadable" + (f" ({'; '.join(remarks)})" if remarks else ""),
            f"{self.duplicates:,} duplicates",
            f"{self.outside:,} outside the service area",
        ]
        faults += ["CRLF line ends"] if self.has_crlf else []
        faults += [] if self.ends_with_newline else ["no final newline"]
        kind = "a GENERATED stand-in" if self.made_up else "form"
        return f"{kind}, {self.form}: {self.lines:,} lines, {self.used:,} used; {', '.join(faults)}"


def read_lines(file: IO[bytes]) -> Iterator[str]:
    """Read the lines that are not empty, with their line ends."""
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
    for line in text:
        if line.strip("\r\n"):
            yield line
    text.detach()  # otherwise the file is closed, too


def split_line(line: str) -> list[str]:
    """Return the first four fields of a line; a short line has fewer."""
    return line.rstrip("\r\n").split(",")[:COLUMNS]


def inspect(file: IO[bytes], parameters: Parameters) -> Report:
    """Count the lines of a file by kind, like 11_reference_points.sql."""
    form: Form = "no header"
    lines = unreadable = made_up = 0
    first_fault, line = "", ""
    has_crlf = False
    # Of each readable line, 9 bytes are kept: its hash, which shows duplicates, and whether it is in the area.
    hashes, are_inside = array("q"), bytearray()
    for line in read_lines(file):
        lines += 1
        has_crlf = has_crlf or line.endswith("\r\n")
        fields = tuple(field.strip().strip('"') for field in split_line(line))
        if fault := _find_fault(line, fields):
            unreadable += 1
            if lines == 1 and (header := ",".join(fields).lower()) in _HEADERS:
                form = _HEADERS[header]
            elif not first_fault:
                shown = line.rstrip("\r\n")[:_SHOWN_CHARACTERS]
                first_fault = f"line {lines:,}, {shown!r}: {fault}"
            continue
        made_up += fields[3:] == (GENERATED,)
        latitude, longitude = map(float, fields[1:3])
        hashes.append(hash(fields))
        are_inside.append(
            parameters.south <= latitude <= parameters.north and parameters.west <= longitude <= parameters.east
        )
    _, firsts = np.unique(np.frombuffer(hashes, np.int64), return_index=True)
    used = int(np.frombuffer(are_inside, np.bool_)[firsts].sum())
    return Report(
        form=form,
        lines=lines,
        unreadable=unreadable,
        duplicates=len(hashes) - len(firsts),
        outside=len(firsts) - used,
        used=used,
        made_up=made_up,
        has_crlf=has_crlf,
        ends_with_newline=line.endswith(("\r", "\n")),
        first_fault=first_fault,
    )


def _find_fault(line: str, fields: tuple[str, ...]) -> str:
    """Say why a line is unreadable; empty if it is readable."""
    faults = [
        f"its {name} is not a number"
        for name, text in zip(("latitude", "longitude"), fields[1:3], strict=False)
        if not _NUMBER.fullmatch(text)
    ]
    if not faults and len(fields) > 2:
        return ""
    separators = [
        f"it is separated by {name}" for separator, name in _OTHER_SEPARATORS.items() if line.count(separator) > 1
    ]
    return [*separators, *faults, f"it has {len(fields)} of 4 columns"][0]


def ensure(client: storage.Client, parameters: Parameters, *, may_generate: bool) -> Report:
    """Inspect the bucket's reference file. If there is no file, upload a generated one, provided that is allowed.

    Raises:
        ConfigurationError: there is no file, it is not a CSV file in UTF-8, more than a tenth of its lines are
            unreadable, or it has no point in the service area.
        ServiceUnavailableError
    """
    uri = f"gs://{parameters.bucket}/{OBJECT}"
    blob = client.bucket(parameters.bucket).blob(OBJECT)
    with tempfile.TemporaryFile() as file:
        with translate_errors(client, f"reading {uri}"):
            try:
                blob.download_to_file(file)
            except google.api_core.exceptions.NotFound as error:
                if not may_generate:
                    raise ConfigurationError(
                        f"There is no {uri}. Upload the file of New York pick-ups (gcloud storage cp uber-split2.csv "
                        f"{uri}); docs/bqml_playbook.md lists its columns."
                    ) from error
                content = generate()
                blob.upload_from_string(content, "text/csv")
                file.write(content)
        file.seek(0)
        if fault := _find_format_fault(file.read(_HEAD_BYTES)):
            raise ConfigurationError(f"{uri} {fault}. {_EXPECTED}")
        file.seek(0)
        report = inspect(file, parameters)
    if report.is_refused:
        raise ConfigurationError(
            f"{uri}: more than a tenth of the lines are unreadable: {report.unreadable:,} of {report.lines:,}. The "
            f"first is {report.first_fault}. {_EXPECTED}"
        )
    if not report.used:
        raise ConfigurationError(
            f"{uri} has {report.lines:,} lines and no point inside SERVICE_AREA={parameters.south},{parameters.west},"
            f"{parameters.north},{parameters.east}: {report}. {_EXPECTED} SERVICE_AREA must be the area of the file's "
            "city."
        )
    return report


def _find_format_fault(head: bytes) -> str:
    """Say why a file that begins with these bytes is not CSV in UTF-8; empty if it may be."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "is in UTF-16. Convert it: iconv -f UTF-16 -t UTF-8 uber-split2.csv > converted.csv"
    if head.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        return "is compressed. Unpack it first"
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        return "is an HTML or XML page. Download the file itself"
    if b"\0" in head:
        return "is not a text file, or is in UTF-16 or UTF-32"
    return "" if head.strip() else "is empty"


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
