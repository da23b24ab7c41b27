"""Writes transactions straight into PostgreSQL: COPY into a temporary table, then insert and update from it.

jobs/shop/load.py has the same rules: a transaction never changes its client, product, amount or date, and an older
status never overwrites a newer one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
from psycopg.conninfo import conninfo_to_dict

from shop_transactions import Item, list_clients, list_products

_RETRY_S = 0.5

# For a PostgreSQL without the schema of this project. infra/postgres has the full tables.
_CREATE = {
    "transactions_raw": """CREATE TABLE transactions_raw (
        transaction_id text PRIMARY KEY, client_id integer NOT NULL, produit_id integer NOT NULL,
        montant numeric(12,2) NOT NULL, date timestamptz NOT NULL, statut text NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        ingested_at timestamptz NOT NULL DEFAULT clock_timestamp())""",
    "clients": """CREATE TABLE clients (
        client_id integer PRIMARY KEY, nom text NOT NULL, ville text NOT NULL, inscrit_le date NOT NULL)""",
    "produits": """CREATE TABLE produits (
        produit_id integer PRIMARY KEY, nom text NOT NULL, categorie text NOT NULL, prix numeric(12,2) NOT NULL)""",
}

_PREPARE = """
CREATE TEMP TABLE IF NOT EXISTS incoming (
    number integer, transaction_id text, client_id integer, produit_id integer, montant numeric(12,2),
    date timestamptz, statut text, updated_at timestamptz
) ON COMMIT DELETE ROWS
"""
_COPY = """
COPY incoming (number, transaction_id, client_id, produit_id, montant, date, statut, updated_at) FROM STDIN
"""
_INSERT = """
INSERT INTO transactions_raw (transaction_id, client_id, produit_id, montant, date, statut, updated_at)
SELECT transaction_id, client_id, produit_id, montant, date, statut, updated_at FROM incoming ORDER BY number
ON CONFLICT (transaction_id) DO NOTHING
"""
# Pending is older than every other status of the same moment.
_COUNT = """
SELECT count(*) FILTER (WHERE same AND i.statut = t.statut) AS equal,
    count(*) FILTER (WHERE same AND i.statut <> t.statut AND newer) AS updated,
    count(*) FILTER (WHERE same AND i.statut <> t.statut AND NOT newer) AS stale,
    count(*) FILTER (WHERE NOT same) AS refused
FROM incoming i JOIN transactions_raw t USING (transaction_id),
    LATERAL (SELECT (i.client_id, i.produit_id, i.montant, i.date) = (t.client_id, t.produit_id, t.montant, t.date)
        AS same, (i.updated_at, i.statut <> 'pending') > (t.updated_at, t.statut <> 'pending') AS newer)
"""
_REFUSE = """
INSERT INTO load_refusals (reason, detail)
SELECT 'conflicting_transaction',
    format('transaction %s is loaded with client_id %s, produit_id %s, montant %s, date %s; a row has %s, %s, %s, %s',
        i.transaction_id, t.client_id, t.produit_id, t.montant, t.date, i.client_id, i.produit_id, i.montant, i.date)
FROM incoming i JOIN transactions_raw t USING (transaction_id)
WHERE (i.client_id, i.produit_id, i.montant, i.date) <> (t.client_id, t.produit_id, t.montant, t.date)
ORDER BY number
"""
_UPDATE = """
UPDATE transactions_raw t SET statut = i.statut, updated_at = i.updated_at,
    ingested_at = CASE WHEN t.statut = i.statut THEN t.ingested_at ELSE clock_timestamp() END
FROM (
    SELECT DISTINCT ON (transaction_id) i.*
    FROM incoming i JOIN transactions_raw USING (transaction_id, client_id, produit_id, montant, date)
    ORDER BY transaction_id, i.updated_at DESC, i.statut <> 'pending' DESC, number
) i
WHERE t.transaction_id = i.transaction_id
    AND (i.updated_at, i.statut <> 'pending') > (t.updated_at, t.statut <> 'pending')
"""
# Loads run one after the other, so that the counts of each are exact.
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('transactions_raw'))"


class TargetError(Exception):
    """The target takes nothing. The text has its address and what to do."""


class PostgresTarget:
    """Writes batches, each in one transaction. To write a batch again changes nothing.

    Args:
        timeout_s: seconds to keep trying while the server does not answer, at the start and later.
        is_stopped: whether to give up waiting.
    """

    def __init__(self, dsn: str, timeout_s: float, is_stopped: Callable[[], bool]) -> None:
        """
        Raises:
            TargetError: the server does not answer in time, or refuses the user.
        """
        self.refused = 0
        self._dsn, self._timeout_s, self._is_stopped = dsn, timeout_s, is_stopped
        self._connection: psycopg.Connection | None = None
        self._is_counted = False
        self._retry(self._prepare)

    def send(self, items: list[Item]) -> None:
        """
        Raises:
            TargetError: as for the constructor.
        """
        self._retry(lambda connection: self._write(connection, items))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    @property
    def name(self) -> str:
        parts = conninfo_to_dict(self._dsn)
        return f"{parts.get('host', 'the default host')}:{parts.get('port', 5432)}, user {parts.get('user', 'default')}"

    def _retry(self, work: Callable[[psycopg.Connection], object]) -> None:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = psycopg.connect(self._dsn, options="-c timezone=UTC", connect_timeout=5)
                with self._connection.transaction():
                    work(self._connection)
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline or self._is_stopped():
                    raise TargetError(
                        f"PostgreSQL at {self.name} did not answer within {self._timeout_s:g} s: "
                        f"{_first_line(error)}. Start it, correct the address (--dsn), or wait longer (--timeout)."
                    ) from error
                if self._connection is not None:
                    self._connection.close()
                time.sleep(_RETRY_S)
            except psycopg.Error as error:
                raise TargetError(
                    f"PostgreSQL at {self.name} refused the rows: {_first_line(error)}. "
                    "Its tables are made by `python -m infra.postgres`."
                ) from error
            else:
                return

    def _prepare(self, connection: psycopg.Connection) -> None:
        connection.execute(_LOCK)
        for table, create in _CREATE.items():
            if not _exists(connection, table):
                connection.execute(create)
        self._is_counted = _exists(connection, "load_batches") and _exists(connection, "load_refusals")
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO clients (client_id, nom, ville, inscrit_le) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT DO NOTHING",
                list_clients(),
            )
            cursor.executemany(
                "INSERT INTO produits (produit_id, nom, categorie, prix) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT DO NOTHING",
                list_products(),
            )

    def _write(self, connection: psycopg.Connection, items: list[Item]) -> None:
        connection.execute(_PREPARE)
        with connection.cursor() as cursor:
            with cursor.copy(_COPY) as copy:
                for number, item in enumerate(items):
                    copy.write_row((number, *item.transaction))
            cursor.execute(_LOCK)
            inserted = cursor.execute(_INSERT).rowcount
            equal, updated, stale, refused = cursor.execute(_COUNT).fetchone() or (0, 0, 0, 0)
            cursor.execute(_UPDATE)
            if self._is_counted:
                if refused:
                    cursor.execute(_REFUSE)
                cursor.execute(
                    "INSERT INTO load_batches (rows, inserted, updated, repeated, stale, refused) "
                    "VALUES (%s, %s, %s, %s, %s, %s)",
                    (len(items), inserted, updated, equal - inserted, stale, refused),
                )
        self.refused += refused


def _first_line(error: psycopg.Error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _exists(connection: psycopg.Connection, table: str) -> bool:
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (table,)).fetchone()
    return bool(row and row[0])
