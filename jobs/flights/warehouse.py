"""Load clean rows into raw.flights and raw.weather of the shop's warehouse (infra/postgres/20_schemas.sql).

The name of an object says which messages it holds. A transaction loads an object and notes its name, so each is loaded
once, and one that was missed is loaded later.
"""

from __future__ import annotations

from typing import Any

import psycopg
from google.cloud import storage
from psycopg import sql

from jobs.flights.clean import TABLES, Table
from jobs.sinks.parquet import join, list_objects, read_rows


def load_objects(
    connection: psycopg.Connection[Any], client: storage.Client, bucket: str, prefix: str
) -> dict[str, int]:
    """Load the objects below a prefix that are not loaded; returns the number of rows by table.

    Args:
        connection: as a role that may insert into the tables. It is committed after each object.

    Raises:
        ConfigurationError: an object is not one of the tables'.
        ServiceUnavailableError: Cloud Storage does not answer. What is committed stays.
    """
    names = connection.execute("SELECT name FROM raw.flights_objects").fetchall()
    connection.commit()
    known = {name for (name,) in names}
    loaded = dict.fromkeys(TABLES, 0)
    for table in TABLES.values():
        for blob in list_objects(client, bucket, join(prefix, table.name)):
            name = f"gs://{bucket}/{blob.name}"
            if name not in known:
                loaded[table.name] += _load(connection, table, blob, name)
    return loaded


def _load(connection: psycopg.Connection[Any], table: Table, blob: storage.Blob, name: str) -> int:
    rows = read_rows(blob, table.schema)
    columns = sql.SQL(", ").join(map(sql.Identifier, table.schema.names))
    copy = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier("raw", table.name), columns)
    with connection.transaction(), connection.cursor() as cursor:
        noted = cursor.execute(
            "INSERT INTO raw.flights_objects (name, rows) VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, len(rows))
        )
        if not noted.rowcount:  # another run was faster; the key made this one wait for it
            return 0
        with cursor.copy(copy) as target:
            for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
                target.write_row(row)
    return len(rows)
