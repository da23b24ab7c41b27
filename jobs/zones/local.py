"""Run the playbook's statements on this machine: sqlglot translates the SQL to DuckDB, scikit-learn does k-means.

This module implements what DuckDB lacks. External tables and LOAD DATA read the bucket with the Cloud Storage client.
CREATE MODEL trains a model. Calls of ML.PREDICT, ML.CENTROIDS, ML.EVALUATE and ML.TRAINING_INFO are replaced by tables
before parsing: sqlglot rejects most of them, and accepts some forms that BigQuery rejects.
Tables live as long as the engine; `save` and `restore` carry the models and zones over to another engine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from itertools import count, islice
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import duckdb
import google.api_core.exceptions
import msgspec
import pyarrow as pa
import sqlglot
from google.cloud import storage
from sqlglot import ErrorLevel, exp
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token

from jobs.errors import ConfigurationError
from jobs.rides.transform import KEY_SCHEMA
from jobs.sinks.parquet import parse_table, translate_errors
from jobs.zones import kmeans, reference
from jobs.zones.engine import Answer, RefusedError, StatementError
from jobs.zones.kmeans import Model
from jobs.zones.playbook import MODELS_FOLDER

_DOWNLOADS = 4
_DUCKDB_MEMORY = "256MB"
_DUCKDB_THREADS = 2
# Rows that are in Arrow or NumPy at a time.
_BATCH_ROWS = 20_000
_ML_FUNCTIONS = ("PREDICT", "CENTROIDS", "EVALUATE", "TRAINING_INFO")


class SavedTraining(msgspec.Struct, frozen=True):
    """What scoring needs from a training: the models by name, and the rows of the tables derived from them."""

    models: dict[str, Model]
    tables: dict[str, list[dict[str, Any]]]


class LocalEngine:
    """Keeps tables in an in-memory DuckDB and models in a dictionary. Use it in `with`, which deletes downloads."""

    title = "the local engine (DuckDB and scikit-learn)"

    def __init__(self, client: storage.Client) -> None:
        self._client = client
        self._models: dict[str, Model] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="datastream-zones-")
        self._numbers = count(1)
        self._connection = duckdb.connect(
            Path(self._folder.name) / "tables.duckdb",
            config={
                "autoinstall_known_extensions": False,
                # Above this limit, DuckDB moves data to the folder. A task has less than 1 GiB in Docker.
                "memory_limit": _DUCKDB_MEMORY,
                "threads": _DUCKDB_THREADS,
                "preserve_insertion_order": False,
                "temp_directory": self._folder.name,
            },
        )
        self._connection.execute("SET GLOBAL TimeZone = 'UTC'")

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()
        self._folder.cleanup()

    def estimate(self, statement: str) -> str:
        """Parse a statement. It reads no billed bytes."""
        for call in _find_ml_calls(statement):
            call.check()
        _parse(_mask_ml_calls(statement))
        return "parsed; the local engine reads no billed bytes"

    def run(self, statement: str, step: str) -> Answer:
        """See `Engine.run`."""
        ml_tables: list[str] = []
        try:
            return self._run(_parse(self._replace_ml_calls(statement, ml_tables)))
        except duckdb.Error as error:
            raise StatementError(f"{step}: DuckDB: {error}") from error
        except StatementError as error:
            raise StatementError(f"{step}: {error}") from error
        finally:
            for name in ml_tables:
                self._connection.execute(f"DROP TABLE {name}")

    def save(self, bucket: str, dataset: str, tables: list[str]) -> str:
        """Write models and tables to the bucket as JSON; return the URI."""
        rows = {name: self._query_table(f"SELECT * FROM {dataset}.{name}").to_pylist() for name in tables}  # noqa: S608
        content = msgspec.json.format(msgspec.json.encode(SavedTraining(self._models, rows)), indent=1)
        name = _build_object_name(dataset)
        with translate_errors(self._client, f"writing gs://{bucket}/{name}"):
            self._client.bucket(bucket).blob(name).upload_from_string(content, "application/json")
        return f"gs://{bucket}/{name}"

    def restore(self, bucket: str, dataset: str) -> None:
        """Load the models and tables that `save` wrote.

        Raises:
            ConfigurationError: no training was saved yet, or the object is from another program.
        """
        name = _build_object_name(dataset)
        with translate_errors(self._client, f"reading gs://{bucket}/{name}"):
            try:
                content = self._client.bucket(bucket).blob(name).download_as_bytes()
            except google.api_core.exceptions.NotFound as error:
                raise ConfigurationError(
                    f"There is no model gs://{bucket}/{name} yet. Trigger dag_zones_train to train one."
                ) from error
        try:
            saved = msgspec.json.decode(content, type=SavedTraining)
        except msgspec.MsgspecError as error:
            raise ConfigurationError(
                f"gs://{bucket}/{name} is not a model of this version ({error}). Trigger dag_zones_train to train one."
            ) from error
        self._models |= saved.models
        self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {dataset}")
        for table, rows in saved.tables.items():
            self._create_table(f"{dataset}.{table}", pa.Table.from_pylist(rows))

    def _run(self, expression: exp.Expression) -> Answer:  # noqa: PLR0911 (one for each kind of statement)
        match expression:
            case exp.Create(kind="SCHEMA"):
                self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_get_dataset(expression)}")
                return Answer()
            case exp.Create(kind="MODEL"):
                model = kmeans.train(self._query_table(_to_duckdb(expression.expression)), _read_properties(expression))
                self._models[_get_table_name(expression.this)] = model
                return Answer(len(model.centroids))
            case exp.Create(kind="TABLE") if expression.find(exp.ExternalProperty):
                return Answer(
                    self._create_external_table(_get_table_name(expression.this), _read_properties(expression))
                )
            case exp.LoadData():
                return Answer(self._load_csv(expression))
            case exp.Alias(this=exp.Anonymous(this="ASSERT", expressions=[condition])):
                if not self._query_value(f"SELECT ({_to_duckdb(condition)})"):
                    raise RefusedError(expression.alias)
                return Answer()
            case exp.Drop(kind="MODEL"):
                self._models.pop(_get_table_name(expression), None)
                return Answer()
            case exp.Drop(kind="SCHEMA"):
                self._connection.execute(f"DROP SCHEMA IF EXISTS {_get_dataset(expression)} RESTRICT")
                return Answer()
            case exp.Drop():
                self._connection.execute(_to_duckdb(expression))
                return Answer()
            case exp.Create():
                self._connection.execute(_to_duckdb(expression))
                return Answer(self._query_value(f"SELECT COUNT(*) FROM {_get_table_name(expression.this)}"))  # noqa: S608
            case exp.Merge() | exp.Insert() | exp.Update() | exp.Delete():
                return Answer(self._query_value(_to_duckdb(expression)))
            case exp.Query():
                return _to_answer(self._query_table(_to_duckdb(expression)))
        raise StatementError(f"The local engine does not run {type(expression).__name__}: {expression.sql()[:80]}")

    def _query_table(self, sql: str) -> pa.Table:
        return _narrow(self._connection.sql(sql).to_arrow_table())

    def _query_value(self, sql: str) -> Any:
        ((value,),) = self._connection.execute(sql).fetchall()
        return value

    def _create_table(self, name: str, rows: pa.Table | pa.RecordBatchReader) -> None:
        self._connection.register("new_rows", rows)
        self._connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM new_rows")  # noqa: S608
        self._connection.unregister("new_rows")

    def _replace_ml_calls(self, statement: str, ml_tables: list[str]) -> str:
        """Replace each call of an ML function by the name of a table with its result; add the names to `ml_tables`."""
        parts, position = [], 0
        for call in _find_ml_calls(statement):
            call.check()
            name = f"ml_answer_{next(self._numbers)}"
            self._create_table(name, self._answer_ml_call(call, ml_tables))
            ml_tables.append(name)
            parts += [statement[position : call.start], name]
            position = call.end
        return "".join([*parts, statement[position:]])

    def _answer_ml_call(self, call: _MlCall, ml_tables: list[str]) -> pa.Table | pa.RecordBatchReader:
        model = self._models.get(call.model)
        if model is None:
            raise StatementError(f"Not found: Model {call.model}. Run the steps that train it first.")
        if call.function == "PREDICT":
            sql = _to_duckdb(_parse(self._replace_ml_calls(call.query, ml_tables)))
            # A second connection reads the rows while the first writes the predictions.
            return _predict(model, self._connection.cursor().sql(sql).to_arrow_reader(_BATCH_ROWS))
        return {
            "CENTROIDS": kmeans.list_centroids,
            "EVALUATE": kmeans.evaluate,
            "TRAINING_INFO": kmeans.describe_training,
        }[call.function](model)

    def _create_external_table(self, name: str, options: dict[str, Any]) -> int:
        """Download the Parquet objects that match the URIs and create a view of them; return the number of rows."""
        if str(options.get("format")).upper() != "PARQUET":
            raise StatementError(f"{name}: the local engine supports only external tables with format='PARQUET'.")
        # A dictionary, so that an object that matches two patterns is read once.
        blobs = {uri: blob for pattern in options["uris"] for uri, blob in _list_objects(self._client, pattern)}
        if not blobs:
            patterns = ", ".join(options["uris"])
            raise ConfigurationError(
                f"No object matches {patterns} at {self._client._connection.API_BASE_URL}. Export rides first: run "
                "`make demo`, or run `make produce` with dag_compute_cost and dag_index_and_export turned on."
            )
        # Object names are not safe as file names.
        folder = Path(self._folder.name) / str(next(self._numbers))
        folder.mkdir()
        files = [str(folder / f"{number:08d}.parquet") for number in range(len(blobs))]
        with ThreadPoolExecutor(_DOWNLOADS) as pool, translate_errors(self._client, f"reading {options['uris'][0]}"):
            for _ in pool.map(_download, blobs.values(), files):
                pass
        self._create_table(f"main.objects_{folder.name}", pa.table({"filename": files, "_FILE_NAME": list(blobs)}))
        pattern = str(folder / "*.parquet").replace("'", "''")
        self._connection.execute(
            f"CREATE OR REPLACE VIEW {name} AS "  # noqa: S608 (the name is a parsed identifier)
            f"SELECT rides.* EXCLUDE (filename), objects._FILE_NAME "
            f"FROM read_parquet('{pattern}', filename = true, hive_partitioning = false) AS rides "
            f"JOIN main.objects_{folder.name} AS objects ON objects.filename = rides.filename"
        )
        return int(self._query_value(f"SELECT COUNT(*) FROM {name}"))  # noqa: S608

    def _load_csv(self, expression: exp.LoadData) -> int:
        """Run LOAD DATA OVERWRITE of one CSV file into text columns; return the number of lines."""
        options = _read_options(expression.args["files"])
        (uri,) = options["uris"]
        columns = [column.name for column in expression.this.expressions]
        types = {column.args["kind"].sql() for column in expression.this.expressions}
        is_csv = str(options.get("format")).upper() == "CSV" and options.get("quote") == ""
        if not is_csv or types != {"TEXT"} or not expression.args.get("overwrite"):
            raise StatementError(
                "The local engine supports only LOAD DATA OVERWRITE of CSV with quote = '' into STRING columns."
            )
        bucket, name = _split_uri(uri)
        table = _get_table_name(expression.this.this)
        with tempfile.TemporaryFile() as file:
            with translate_errors(self._client, f"reading {uri}"):
                self._client.bucket(bucket).blob(name).download_to_file(file)
            file.seek(0)
            lines = islice(reference.read_lines(file), int(options.get("skip_leading_rows", 0)), None)
            self._create_table(table, _read_csv(lines, columns))
        return int(self._query_value(f"SELECT COUNT(*) FROM {table}"))  # noqa: S608


def _read_csv(lines: Iterator[str], columns: list[str]) -> pa.RecordBatchReader:
    """Split lines into columns of text; a short line has NULLs."""
    schema = pa.schema([(name, pa.string()) for name in columns])

    def read_batches() -> Iterator[pa.RecordBatch]:
        while rows := [reference.split_line(line) for line in islice(lines, _BATCH_ROWS)]:
            padded = [[*fields, *[None] * (len(columns) - len(fields))] for fields in rows]
            yield pa.record_batch([pa.array(column, pa.string()) for column in zip(*padded, strict=True)], schema)

    return pa.RecordBatchReader.from_batches(schema, read_batches())


def _predict(model: Model, rows: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Stream the result of ML.PREDICT: each batch is computed when it is read."""
    schema = kmeans.predict(model, _narrow(rows.schema.empty_table())).schema
    tables = (kmeans.predict(model, _narrow(pa.Table.from_batches([batch]))) for batch in rows)
    return pa.RecordBatchReader.from_batches(schema, (batch for table in tables for batch in table.to_batches()))


def _narrow(table: pa.Table) -> pa.Table:
    """Convert integers of 128 bits: COUNTIF and SUM of INT64 are INT64 in BigQuery, but HUGEINT in DuckDB."""
    types = [pa.int64() if pa.types.is_decimal(field.type) else field.type for field in table.schema]
    return table.cast(pa.schema(zip(table.column_names, types, strict=True)))


def _download(blob: storage.Blob, file: str) -> None:
    """Download an object, and read it all: DuckDB's errors do not name the object.

    Raises:
        ConfigurationError: it is from another program.
    """
    blob.download_to_filename(file)
    parse_table(Path(file), f"gs://{blob.bucket.name}/{blob.name}", KEY_SCHEMA, with_others=True)


# --- ML functions, replaced before parsing ---------------------------------------------------------


class _MlCall(msgspec.Struct):
    """A call of an ML table function at [start, end) of a statement."""

    function: str
    start: int
    end: int
    text: str
    arguments: list[Token]

    @property
    def model(self) -> str:
        """The model as dataset.name."""
        tokens = self.arguments[1 : self._comma]
        return ".".join("".join(token.text for token in tokens).split(".")[-2:])

    @property
    def query(self) -> str:
        """The query whose rows ML.PREDICT reads."""
        first, last = self.arguments[self._comma + 1], self.arguments[-1]
        if first.text.upper() == "TABLE":
            return f"SELECT * FROM {self.text[first.end + 1 : last.end + 1]}"  # noqa: S608
        return self.text[first.end + 1 : last.start]

    @property
    def _comma(self) -> int:
        return next((index for index, token in enumerate(self.arguments) if token.text == ","), len(self.arguments))

    def check(self) -> None:
        """Reject what BigQuery rejects, and what the local engine does not support."""
        if self.function not in _ML_FUNCTIONS:
            self._reject(f"the local engine supports only {', '.join(f'ML.{name}' for name in _ML_FUNCTIONS)}")
        if not self.arguments or self.arguments[0].text.upper() != "MODEL" or self._comma < 2:
            self._reject("the first argument must be MODEL and the model's name")
        rest = self.arguments[self._comma + 1 :]
        if self.function != "PREDICT":
            if rest:
                self._reject("the local engine accepts only the model")
        elif not rest:
            self._reject("the second argument must be the rows: (SELECT …) or TABLE name")
        elif rest[0].text.upper() != "TABLE" and _find_closing(rest, 0) != len(rest) - 1:
            self._reject("the query must be in parentheses: ML.PREDICT(MODEL name, (SELECT …))")

    def _reject(self, reason: str) -> NoReturn:
        raise StatementError(f"Syntax error in {self.text[self.start : self.end][:60]!r}: {reason}.")


def _find_ml_calls(statement: str) -> Iterator[_MlCall]:
    """Yield the outermost calls of ML functions, in order."""
    tokens = sqlglot.tokenize(statement, read="bigquery")
    position = 0
    while position < len(tokens) - 3:
        words = [token.text.upper() for token in tokens[position : position + 4]]
        if words[0] == "ML" and words[1] == "." and words[3] == "(":
            end = _find_closing(tokens, position + 3)
            if end is None:
                raise StatementError(f"Syntax error: ML.{words[2]}( is never closed.")
            arguments = tokens[position + 4 : end]
            yield _MlCall(words[2], tokens[position].start, tokens[end].end + 1, statement, arguments)
            position = end
        position += 1


def _find_closing(tokens: list[Token], opening: int) -> int | None:
    """Return the index of the parenthesis that closes the one at `opening`; None if it is not closed."""
    depth = 0
    for position in range(opening, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[position].text, 0)
        if not depth:
            return position if position > opening else None
    return None


def _mask_ml_calls(statement: str) -> str:
    """Replace each call of an ML function by a placeholder name, to check whether the rest can be parsed."""
    parts, position = [], 0
    for call in _find_ml_calls(statement):
        parts += [statement[position : call.start], "ml_answer"]
        position = call.end
    return "".join([*parts, statement[position:]])


# --- sqlglot ---------------------------------------------------------------------------------------


def _parse(statement: str) -> exp.Expression:
    """Parse a statement in the SQL of BigQuery without ML functions."""
    # sqlglot cannot parse DROP EXTERNAL TABLE. In DuckDB an external table is a view.
    words = statement.split(maxsplit=3)
    if [word.upper() for word in words[:3]] == ["DROP", "EXTERNAL", "TABLE"]:
        statement = f"DROP VIEW {words[3]}"
    try:
        expression = sqlglot.parse_one(statement, read="bigquery", error_level=ErrorLevel.RAISE)
    except SqlglotError as error:
        raise StatementError(f"Syntax error: {error}") from error
    if isinstance(expression, exp.Command) or not isinstance(expression, exp.Expression):
        raise StatementError(f"Syntax error: cannot parse {statement[:80]!r}")
    return expression


def _to_duckdb(expression: exp.Expression) -> str:
    """Return the SQL for DuckDB, without project names and BigQuery's storage options."""
    translated = expression.copy()
    for table in translated.find_all(exp.Table):
        table.set("catalog", None)
    return translated.sql("duckdb", unsupported_level=ErrorLevel.IGNORE)


def _get_table_name(expression: exp.Expression) -> str:
    """Return `dataset.name` of the table or model that a statement creates or drops."""
    table = expression if isinstance(expression, exp.Table) else expression.find(exp.Table)
    if table is None or not table.db:
        raise StatementError(f"{expression.sql()}: the name must have the form dataset.name.")
    return f"{table.db}.{table.name}"


def _get_dataset(expression: exp.Expression) -> str:
    """Return the dataset of CREATE SCHEMA or DROP SCHEMA, whose name is the one identifier `project.dataset`."""
    table = expression.find(exp.Table)
    return table.db.split(".")[-1] if table else ""


def _read_properties(expression: exp.Create) -> dict[str, Any]:
    """Return the OPTIONS of a CREATE statement."""
    return _read_options(expression.args.get("properties") or exp.Properties(expressions=[]))


def _read_options(properties: exp.Properties) -> dict[str, Any]:
    """Return options by name, as Python values."""
    options: dict[str, Any] = {}
    for option in properties.expressions:
        if isinstance(option, exp.FileFormatProperty):
            options["format"] = option.this.name
        elif isinstance(option, exp.Property) and isinstance(option.this, exp.Var):
            options[option.name] = _to_python(option.args["value"])
    return options


def _to_python(value: exp.Expression) -> Any:
    if isinstance(value, exp.Array):
        return [_to_python(item) for item in value.expressions]
    return value.to_py() if isinstance(value, exp.Literal | exp.Boolean) else value.sql()


def _to_answer(table: pa.Table) -> Answer:
    columns = tuple(table.column_names)
    return Answer(len(table), columns, tuple(tuple(row[name] for name in columns) for row in table.to_pylist()))


# --- Cloud Storage ---------------------------------------------------------------------------------


def _list_objects(client: storage.Client, pattern: str) -> Iterator[tuple[str, storage.Blob]]:
    """Yield the URIs and blobs that match a pattern. Its one `*` matches across folders, as in BigQuery."""
    if pattern.count("*") > 1:
        raise StatementError(f"{pattern}: a URI may contain only one *.")
    bucket, name = _split_uri(pattern)
    with translate_errors(client, f"listing {pattern}"):
        for blob in client.list_blobs(bucket, prefix=name.split("*")[0]):
            if fnmatchcase(blob.name, name):
                yield f"gs://{bucket}/{blob.name}", blob


def _split_uri(uri: str) -> tuple[str, str]:
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return bucket, name


def _build_object_name(dataset: str) -> str:
    return f"{MODELS_FOLDER}{dataset}/kmeans8.json"
