"""The playbook's statements on this machine: BigQuery's SQL through sqlglot to DuckDB, k-means by scikit-learn.

What DuckDB has no word for is done here: external tables and LOAD DATA read the bucket by the Cloud Storage client,
CREATE MODEL trains, and ML.PREDICT, ML.CENTROIDS, ML.EVALUATE and ML.TRAINING_INFO become tables before the parser sees
them, because it refuses most of them and takes some forms that BigQuery refuses. Tables live as long as the engine;
`keep` and `restore` carry model and zones from one engine to the next.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from itertools import count
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
from jobs.sinks.parquet import explained
from jobs.zones import kmeans, reference
from jobs.zones.engine import Answer, RefusedError, StatementError
from jobs.zones.kmeans import Model
from jobs.zones.playbook import MODELS_FOLDER

_DOWNLOADS = 4
_ML_FUNCTIONS = ("PREDICT", "CENTROIDS", "EVALUATE", "TRAINING_INFO")


class Kept(msgspec.Struct, frozen=True):
    """What scoring needs of a training: the models by name, and the rows of tables that were made from them."""

    models: dict[str, Model]
    tables: dict[str, list[dict[str, Any]]]


class LocalEngine:
    """DuckDB in memory, models beside it. To be used in a `with` block, which deletes what was downloaded."""

    title = "the local engine (DuckDB and scikit-learn)"

    def __init__(self, client: storage.Client) -> None:
        self._client = client
        self._models: dict[str, Model] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="datastream-zones-")
        self._numbers = count(1)
        self._connection = duckdb.connect(config={"autoinstall_known_extensions": False})
        self._connection.execute("SET TimeZone = 'UTC'")

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()
        self._folder.cleanup()

    def estimate(self, statement: str) -> str:
        """Nothing is billed here, so there are no bytes to tell; the statement is parsed."""
        for call in _ml_calls(statement):
            call.check()
        _parse(_without_ml(statement))
        return "parsed; the local engine reads no billed bytes"

    def run(self, statement: str, step: str) -> Answer:
        """As `Engine.run`."""
        made: list[str] = []
        try:
            return self._run(_parse(self._with_tables_for_ml(statement, made)))
        except duckdb.Error as error:
            raise StatementError(f"{step}: DuckDB: {error}") from error
        except StatementError as error:
            raise StatementError(f"{step}: {error}") from error
        finally:
            for name in made:
                self._connection.unregister(name)

    def keep(self, bucket: str, dataset: str, tables: list[str]) -> str:
        """Write models and tables as JSON to the bucket; the URI."""
        rows = {name: self._table(f"SELECT * FROM {dataset}.{name}").to_pylist() for name in tables}  # noqa: S608
        content = msgspec.json.format(msgspec.json.encode(Kept(self._models, rows)), indent=1)
        name = _kept_name(dataset)
        with explained(self._client, f"writing gs://{bucket}/{name}"):
            self._client.bucket(bucket).blob(name).upload_from_string(content, "application/json")
        return f"gs://{bucket}/{name}"

    def restore(self, bucket: str, dataset: str) -> None:
        """Take up what `keep` wrote.

        Raises:
            ConfigurationError: nothing was kept yet.
        """
        name = _kept_name(dataset)
        with explained(self._client, f"reading gs://{bucket}/{name}"):
            try:
                content = self._client.bucket(bucket).blob(name).download_as_bytes()
            except google.api_core.exceptions.NotFound as error:
                raise ConfigurationError(
                    f"There is no model gs://{bucket}/{name} yet. Train one first: trigger dag_zones_train, or run "
                    "`make bqml`."
                ) from error
        kept = msgspec.json.decode(content, type=Kept)
        self._models |= kept.models
        self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {dataset}")
        for table, rows in kept.tables.items():
            self._make(f"{dataset}.{table}", pa.Table.from_pylist(rows))

    def _run(self, expression: exp.Expression) -> Answer:  # noqa: PLR0911 (one for each kind of statement)
        match expression:
            case exp.Create(kind="SCHEMA"):
                self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_dataset(expression)}")
                return Answer()
            case exp.Create(kind="MODEL"):
                model = kmeans.train(self._table(_duckdb(expression.expression)), _properties(expression))
                self._models[_name(expression.this)] = model
                return Answer(len(model.centroids))
            case exp.Create(kind="TABLE") if expression.find(exp.ExternalProperty):
                return Answer(self._external_table(_name(expression.this), _properties(expression)))
            case exp.LoadData():
                return Answer(self._load(expression))
            case exp.Alias(this=exp.Anonymous(this="ASSERT", expressions=[condition])):
                if not self._value(f"SELECT ({_duckdb(condition)})"):
                    raise RefusedError(expression.alias)
                return Answer()
            case exp.Drop(kind="MODEL"):
                self._models.pop(_name(expression), None)
                return Answer()
            case exp.Drop(kind="SCHEMA"):
                self._connection.execute(f"DROP SCHEMA IF EXISTS {_dataset(expression)} RESTRICT")
                return Answer()
            case exp.Drop():
                self._connection.execute(_duckdb(expression))
                return Answer()
            case exp.Create():
                self._connection.execute(_duckdb(expression))
                return Answer(self._value(f"SELECT COUNT(*) FROM {_name(expression.this)}"))  # noqa: S608
            case exp.Merge() | exp.Insert() | exp.Update() | exp.Delete():
                return Answer(self._value(_duckdb(expression)))
            case exp.Query():
                return _answer(self._table(_duckdb(expression)))
        raise StatementError(f"The local engine does not run {type(expression).__name__}: {expression.sql()[:80]}")

    def _table(self, sql: str) -> pa.Table:
        table = self._connection.sql(sql).to_arrow_table()
        # BigQuery counts and adds up INT64 to INT64, DuckDB to 128 bits.
        types = [pa.int64() if pa.types.is_decimal(field.type) else field.type for field in table.schema]
        return table.cast(pa.schema(zip(table.column_names, types, strict=True)))

    def _value(self, sql: str) -> Any:
        ((value,),) = self._connection.execute(sql).fetchall()
        return value

    def _make(self, name: str, rows: pa.Table) -> None:
        self._connection.register("made", rows)
        self._connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM made")  # noqa: S608
        self._connection.unregister("made")

    def _with_tables_for_ml(self, statement: str, made: list[str]) -> str:
        """The statement with each call of an ML function replaced by the name of a table with its answer."""
        parts, position = [], 0
        for call in _ml_calls(statement):
            call.check()
            name = f"ml_answer_{next(self._numbers)}"
            self._connection.register(name, self._ml_answer(call, made))
            made.append(name)
            parts += [statement[position : call.start], name]
            position = call.end
        return "".join([*parts, statement[position:]])

    def _ml_answer(self, call: _MlCall, made: list[str]) -> pa.Table:
        model = self._models.get(call.model)
        if model is None:
            raise StatementError(f"Not found: Model {call.model}. The steps that train it come first.")
        if call.function == "PREDICT":
            rows = self._table(_duckdb(_parse(self._with_tables_for_ml(call.query, made))))
            return kmeans.predict(model, rows)
        return {
            "CENTROIDS": kmeans.centroids,
            "EVALUATE": kmeans.evaluation,
            "TRAINING_INFO": kmeans.training_info,
        }[call.function](model)

    def _external_table(self, name: str, options: dict[str, Any]) -> int:
        """A view on the Parquet objects that the URIs mean, downloaded; the number of objects' rows."""
        if str(options.get("format")).upper() != "PARQUET":
            raise StatementError(f"{name}: the local engine reads external tables of format='PARQUET' only.")
        found = {
            uri: blob for pattern in options["uris"] for uri, blob in _objects(self._client, pattern)
        }  # an object that two patterns mean is read once
        if not found:
            where = ", ".join(options["uris"])
            raise ConfigurationError(
                f"No object matches {where} at {self._client._connection.API_BASE_URL}. Let rides flow first: "
                "`make demo`, or `make produce` and both DAGs toggled on."
            )
        # Names of objects are no safe names of files.
        folder = Path(self._folder.name) / str(next(self._numbers))
        folder.mkdir()
        files = [str(folder / f"{number:08d}.parquet") for number in range(len(found))]
        with ThreadPoolExecutor(_DOWNLOADS) as pool, explained(self._client, f"reading {options['uris'][0]}"):
            for _ in pool.map(lambda blob, file: blob.download_to_filename(file), found.values(), files):
                pass
        self._make(f"main.objects_{folder.name}", pa.table({"filename": files, "_FILE_NAME": list(found)}))
        pattern = str(folder / "*.parquet").replace("'", "''")
        self._connection.execute(
            f"CREATE OR REPLACE VIEW {name} AS "  # noqa: S608 (the name is a parsed identifier)
            f"SELECT rides.* EXCLUDE (filename), objects._FILE_NAME "
            f"FROM read_parquet('{pattern}', filename = true, hive_partitioning = false) AS rides "
            f"JOIN main.objects_{folder.name} AS objects ON objects.filename = rides.filename"
        )
        return int(self._value(f"SELECT COUNT(*) FROM {name}"))  # noqa: S608

    def _load(self, expression: exp.LoadData) -> int:
        """LOAD DATA OVERWRITE of one CSV file into columns of text; the number of its lines."""
        options = _options(expression.args["files"])
        (uri,) = options["uris"]
        columns = [column.name for column in expression.this.expressions]
        types = {column.args["kind"].sql() for column in expression.this.expressions}
        if str(options.get("format")).upper() != "CSV" or types != {"TEXT"} or not expression.args.get("overwrite"):
            raise StatementError("The local engine loads CSV into columns of type STRING with OVERWRITE only.")
        bucket, name = _bucket_and_name(uri)
        with explained(self._client, f"reading {uri}"):
            content = self._client.bucket(bucket).blob(name).download_as_bytes()
        lines = reference.lines_of(content)[int(options.get("skip_leading_rows", 0)) :]
        rows = [[*line, *[None] * (len(columns) - len(line))] for line in lines]
        values = zip(*rows, strict=True) if rows else [[] for _ in columns]
        arrays = [pa.array(column, pa.string()) for column in values]
        self._make(_name(expression.this.this), pa.table(arrays, names=columns))
        return len(rows)


# --- ML functions, before the parser sees them -----------------------------------------------------


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
        """What ML.PREDICT is to read."""
        first, last = self.arguments[self._comma + 1], self.arguments[-1]
        if first.text.upper() == "TABLE":
            return f"SELECT * FROM {self.text[first.end + 1 : last.end + 1]}"  # noqa: S608
        return self.text[first.end + 1 : last.start]

    @property
    def _comma(self) -> int:
        return next((at for at, token in enumerate(self.arguments) if token.text == ","), len(self.arguments))

    def check(self) -> None:
        """Refuse what BigQuery refuses, and what is not possible here."""
        if self.function not in _ML_FUNCTIONS:
            self._refuse(f"the local engine has {', '.join(f'ML.{name}' for name in _ML_FUNCTIONS)} only")
        if not self.arguments or self.arguments[0].text.upper() != "MODEL" or self._comma < 2:
            self._refuse("the first argument must be MODEL and the model's name")
        rest = self.arguments[self._comma + 1 :]
        if self.function != "PREDICT":
            if rest:
                self._refuse("the local engine takes the model only")
        elif not rest:
            self._refuse("the second argument must be the rows: (SELECT …) or TABLE name")
        elif rest[0].text.upper() != "TABLE" and _closing(rest, 0) != len(rest) - 1:
            self._refuse("a query needs parentheses of its own: ML.PREDICT(MODEL name, (SELECT …))")

    def _refuse(self, why: str) -> NoReturn:
        raise StatementError(f"Syntax error in {self.text[self.start : self.end][:60]!r}: {why}.")


def _ml_calls(statement: str) -> Iterator[_MlCall]:
    """The outermost calls of ML functions, in their order."""
    tokens = sqlglot.tokenize(statement, read="bigquery")
    at = 0
    while at < len(tokens) - 3:
        words = [token.text.upper() for token in tokens[at : at + 4]]
        if words[0] == "ML" and words[1] == "." and words[3] == "(":
            end = _closing(tokens, at + 3)
            if end is None:
                raise StatementError(f"Syntax error: ML.{words[2]}( is never closed.")
            yield _MlCall(words[2], tokens[at].start, tokens[end].end + 1, statement, tokens[at + 4 : end])
            at = end
        at += 1


def _closing(tokens: list[Token], at: int) -> int | None:
    """Where the parenthesis that opens at `at` is closed; None if none opens there."""
    depth = 0
    for position in range(at, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[position].text, 0)
        if not depth:
            return position if position > at else None
    return None


def _without_ml(statement: str) -> str:
    """The statement with a mere name in place of each call, to see whether the rest can be parsed."""
    parts, position = [], 0
    for call in _ml_calls(statement):
        parts += [statement[position : call.start], "ml_answer"]
        position = call.end
    return "".join([*parts, statement[position:]])


# --- sqlglot ---------------------------------------------------------------------------------------


def _parse(statement: str) -> exp.Expression:
    """A statement in BigQuery's SQL, without ML functions, parsed."""
    # The parser knows no DROP EXTERNAL TABLE; for DuckDB such a table is a view.
    words = statement.split(maxsplit=3)
    if [word.upper() for word in words[:3]] == ["DROP", "EXTERNAL", "TABLE"]:
        statement = f"DROP VIEW {words[3]}"
    try:
        found = sqlglot.parse_one(statement, read="bigquery", error_level=ErrorLevel.RAISE)
    except SqlglotError as error:
        raise StatementError(f"Syntax error: {error}") from error
    if isinstance(found, exp.Command) or not isinstance(found, exp.Expression):
        raise StatementError(f"Syntax error: not understood: {statement[:80]!r}")
    return found


def _duckdb(expression: exp.Expression) -> str:
    """DuckDB's SQL, without the project and what only BigQuery's storage knows."""
    local = expression.copy()
    for table in local.find_all(exp.Table):
        table.set("catalog", None)
    return local.sql("duckdb", unsupported_level=ErrorLevel.IGNORE)


def _name(expression: exp.Expression) -> str:
    """`dataset.table` of what a statement makes or drops."""
    table = expression if isinstance(expression, exp.Table) else expression.find(exp.Table)
    if table is None or not table.db:
        raise StatementError(f"{expression.sql()}: a name must be dataset.name.")
    return f"{table.db}.{table.name}"


def _dataset(expression: exp.Expression) -> str:
    """The dataset of CREATE SCHEMA or DROP SCHEMA, whose name is one identifier in the form `project.dataset`."""
    table = expression.find(exp.Table)
    return table.db.split(".")[-1] if table else ""


def _properties(expression: exp.Create) -> dict[str, Any]:
    """OPTIONS of a CREATE statement."""
    return _options(expression.args.get("properties") or exp.Properties(expressions=[]))


def _options(properties: exp.Properties) -> dict[str, Any]:
    """Names and values, as Python's."""
    options: dict[str, Any] = {}
    for found in properties.expressions:
        if isinstance(found, exp.FileFormatProperty):
            options["format"] = found.this.name
        elif isinstance(found, exp.Property) and isinstance(found.this, exp.Var):
            options[found.name] = _literal(found.args["value"])
    return options


def _literal(value: exp.Expression) -> Any:
    if isinstance(value, exp.Array):
        return [_literal(item) for item in value.expressions]
    return value.to_py() if isinstance(value, exp.Literal | exp.Boolean) else value.sql()


def _answer(table: pa.Table) -> Answer:
    columns = tuple(table.column_names)
    return Answer(len(table), columns, tuple(tuple(row[name] for name in columns) for row in table.to_pylist()))


# --- Cloud Storage ---------------------------------------------------------------------------------


def _objects(client: storage.Client, pattern: str) -> Iterator[tuple[str, storage.Blob]]:
    """URIs and blobs that a pattern means. Its one `*` spans folders, as BigQuery's does."""
    if pattern.count("*") > 1:
        raise StatementError(f"{pattern}: a URI may have one * only.")
    bucket, name = _bucket_and_name(pattern)
    with explained(client, f"listing {pattern}"):
        for blob in client.list_blobs(bucket, prefix=name.split("*")[0]):
            if fnmatchcase(blob.name, name):
                yield f"gs://{bucket}/{blob.name}", blob


def _bucket_and_name(uri: str) -> tuple[str, str]:
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    return bucket, name


def _kept_name(dataset: str) -> str:
    return f"{MODELS_FOLDER}{dataset}/kmeans8.json"
