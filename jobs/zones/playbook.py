"""The steps of infra/bigquery: read, filled in, split into statements.

A file is a step: `NN_name.sql`, run in the order of the numbers. Its first line says what it does, the line
`-- role: …` when it runs; `-- repeat: k = 4..12` has it run once for each k. Placeholders are those of string.Template.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Literal, get_args

from sqlglot import tokenize

from jobs.errors import ConfigurationError
from jobs.settings import ROOT
from jobs.sinks.parquet import join
from jobs.zones.vertical import ZonesSettings

FOLDER = ROOT / "infra" / "bigquery"

# dataset: once, by somebody who may create datasets; setup: what needs no data; train: reference file to zones; score:
# rides to revenue; look: only reads; scan: trains other numbers of zones; teardown: deletes, only when it is asked for.
Role = Literal["dataset", "setup", "train", "score", "look", "scan", "teardown"]

USUAL: tuple[Role, ...] = ("dataset", "setup", "train", "score", "look", "scan")

REFERENCE_FOLDER = "reference/"
MODELS_FOLDER = "models/"

_HEADER = re.compile(r"-- (?P<title>.+)\n-- role: (?P<role>\w+)\n(?:-- repeat: k = (?P<first>\d+)\.\.(?P<last>\d+)\n)?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]+[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9._/=-]*")
_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]*[a-z0-9]")


@dataclass(frozen=True)
class Parameters:
    """What the files' placeholders stand for. `prefix` ends with a slash unless it is empty; the area in degrees."""

    project: str
    dataset: str
    location: str
    bucket: str
    prefix: str
    south: float
    west: float
    north: float
    east: float


@dataclass(frozen=True)
class Step:
    """A file of the playbook. `values` are the k that it is repeated for; empty: it runs once, without one."""

    name: str
    role: Role
    title: str
    text: str
    values: tuple[int, ...] = ()

    def statements(self, parameters: Parameters) -> list[str]:
        """The step's statements in their order, filled in, without the `;`.

        Raises:
            ConfigurationError: a placeholder is unknown.
        """
        names = {name: str(value) for name, value in asdict(parameters).items()}
        try:
            texts = [Template(self.text).substitute(names | {"k": str(k)}) for k in self.values or ("",)]
        except (KeyError, ValueError) as error:
            raise ConfigurationError(f"{self.name}.sql: the placeholder {error} is unknown.") from error
        return [statement for text in texts for statement in split(text)]


def parameters(settings: ZonesSettings) -> Parameters:
    """The placeholders' values by the settings, each checked before it becomes part of a statement.

    Raises:
        ConfigurationError: names the setting that no identifier or URI can be made of.
    """
    project = settings.bigquery_project or "local"
    prefix = join(settings.gcs_prefix, "")
    for name, value, pattern in (
        ("BIGQUERY_PROJECT", project, _PROJECT),
        ("GCS_BUCKET", settings.bucket, _BUCKET),
        ("GCS_PREFIX", prefix, _PREFIX),
    ):
        if not pattern.fullmatch(value):
            raise ConfigurationError(f"{name}={value!r} has a character that does not belong there. See .env.example.")
    for folder in (REFERENCE_FOLDER, MODELS_FOLDER):
        if folder.startswith(prefix):
            raise ConfigurationError(
                f"GCS_PREFIX={settings.gcs_prefix!r} holds the folder {folder} as well, and BigQuery's `*` spans "
                "folders. Give rides a prefix of their own, such as rides/processed/."
            )
    south, west, north, east = settings.area
    return Parameters(
        project=project,
        dataset=settings.bigquery_dataset,
        location=settings.bigquery_location,
        bucket=settings.bucket,
        prefix=prefix,
        south=south,
        west=west,
        north=north,
        east=east,
    )


def steps(*roles: Role, folder: Path = FOLDER) -> list[Step]:
    """The steps of these roles in their order.

    Raises:
        ConfigurationError: the folder has no steps, or one without a header.
    """
    found = [_read(path) for path in sorted(folder.glob("*.sql"))]
    if not found:
        raise ConfigurationError(f"No steps in {folder}. It is part of the repository: mount or check it out.")
    return [step for step in found if step.role in roles]


def _read(path: Path) -> Step:
    text = path.read_text(encoding="utf-8")
    header = _HEADER.match(text)
    if header is None or header["role"] not in get_args(Role):
        raise ConfigurationError(
            f"{path}: the first line must be `-- what it does`, the second `-- role: {'|'.join(get_args(Role))}`."
        )
    values = tuple(range(int(header["first"]), int(header["last"]) + 1)) if header["first"] else ()
    return Step(path.stem, header["role"], header["title"], text, values)  # type: ignore[arg-type]


def split(text: str) -> list[str]:
    """The statements of a text as BigQuery tells them apart: `;` in strings and comments do not count."""
    statements, first, last = [], None, 0
    for token in tokenize(text, read="bigquery"):
        if token.token_type.name == "SEMICOLON":
            if first is not None:
                statements.append(text[first:last])
            first = None
        else:
            first = token.start if first is None else first
            last = token.end + 1
    if first is not None:
        statements.append(text[first:last])
    return statements
