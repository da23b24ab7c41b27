"""Read the steps in infra/bigquery, fill in their placeholders and split them into statements.

Each file `NN_name.sql` is a step; steps run in the order of their numbers. The first line says what the step does. The
line `-- role: …` says when it runs. `-- repeat: k = 4..12` repeats it for each k. Placeholders follow string.Template.
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

# dataset: creates the dataset, once; setup: needs no data; train: reference file to zones; score: rides to revenue;
# look: only reads; scan: trains other numbers of zones; teardown: deletes, and runs only on request.
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
    """Values of the placeholders. `prefix` is empty or ends with a slash; the area is in degrees."""

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
    """A file of the playbook. It is repeated for each k in `values`; if that is empty, it runs once."""

    name: str
    role: Role
    title: str
    text: str
    values: tuple[int, ...] = ()

    def build_statements(self, parameters: Parameters) -> list[str]:
        """Return the statements in order, with placeholders filled in, without the `;`.

        Raises:
            ConfigurationError: a placeholder is unknown.
        """
        replacements = {name: str(value) for name, value in asdict(parameters).items()}
        try:
            texts = [Template(self.text).substitute(replacements | {"k": str(k)}) for k in self.values or ("",)]
        except (KeyError, ValueError) as error:
            raise ConfigurationError(f"{self.name}.sql: unknown placeholder: {error}.") from error
        return [statement for text in texts for statement in split_statements(text)]


def build_parameters(settings: ZonesSettings) -> Parameters:
    """Take the placeholders' values from the settings; check each, because it becomes part of a statement.

    Raises:
        ConfigurationError: a setting is not valid in an identifier or URI; the text names it.
    """
    project = settings.bigquery_project or "local"
    prefix = join(settings.gcs_prefix, "")
    for name, value, pattern in (
        ("BIGQUERY_PROJECT", project, _PROJECT),
        ("GCS_BUCKET", settings.bucket, _BUCKET),
        ("GCS_PREFIX", prefix, _PREFIX),
    ):
        if not pattern.fullmatch(value):
            raise ConfigurationError(f"{name}={value!r} is not valid. See .env.example.")
    for folder in (REFERENCE_FOLDER, MODELS_FOLDER):
        if folder.startswith(prefix):
            raise ConfigurationError(
                f"GCS_PREFIX={settings.gcs_prefix!r} also covers the folder {folder}, because BigQuery's `*` matches "
                "across folders. Use a separate prefix for rides, for example rides/processed/."
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


def read_steps(*roles: Role, folder: Path = FOLDER) -> list[Step]:
    """Read the steps that have one of these roles, in order.

    Raises:
        ConfigurationError: the folder has no steps, or a step has no header.
    """
    all_steps = [_read_step(path) for path in sorted(folder.glob("*.sql"))]
    if not all_steps:
        raise ConfigurationError(f"No steps in {folder}. It is part of the repository: check it out or mount it.")
    return [step for step in all_steps if step.role in roles]


def _read_step(path: Path) -> Step:
    text = path.read_text(encoding="utf-8")
    header = _HEADER.match(text)
    if header is None or header["role"] not in get_args(Role):
        raise ConfigurationError(
            f"{path}: the first line must be `-- what it does`, the second `-- role: {'|'.join(get_args(Role))}`."
        )
    values = tuple(range(int(header["first"]), int(header["last"]) + 1)) if header["first"] else ()
    return Step(path.stem, header["role"], header["title"], text, values)  # type: ignore[arg-type]


def split_statements(text: str) -> list[str]:
    """Split a text into statements at each `;` that is not in a string or comment, as BigQuery does."""
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
