"""The hook for Elasticsearch."""

from __future__ import annotations

from typing import Any

from airflow.providers.elasticsearch.hooks.elasticsearch import ElasticsearchPythonHook
from airflow.sdk import BaseHook


class ElasticsearchHook(ElasticsearchPythonHook):
    """An ElasticsearchPythonHook that takes scheme, host, port, user and password from a connection."""

    def __init__(self, es_conn_id: str = "es_local") -> None:
        connection = BaseHook.get_connection(es_conn_id)
        arguments: dict[str, Any] = dict(connection.extra_dejson)
        if connection.login:
            arguments["basic_auth"] = (connection.login, connection.password or "")
        host = f"{connection.schema or 'http'}://{connection.host}:{connection.port or 9200}"
        super().__init__(hosts=[host], es_conn_args=arguments)
