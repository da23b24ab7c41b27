"""Index templates with a lifecycle policy. A fake server stands in: the node without Docker has no lifecycles."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from elasticsearch import Elasticsearch
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from jobs.shop.vertical import LOGS_TEMPLATE
from jobs.sinks.elasticsearch import has_lifecycles, read_retention, set_up_index

HEADERS = {"x-elastic-product": "Elasticsearch"}


class FakeNode:
    """Keeps what is put."""

    def __init__(self, server: HTTPServer, *, has_lifecycles: bool) -> None:
        self.client = Elasticsearch(f"http://{server.host}:{server.port}", max_retries=0)
        self.put: dict[str, Any] = {}
        self._has_lifecycles = has_lifecycles
        server.expect_request("/_ilm/policy").respond_with_handler(self._answer_lifecycles)
        server.expect_request("/app-logs-*").respond_with_json({}, headers=HEADERS)
        for path in ("/_ilm/policy/app-logs", "/_index_template/app-logs"):
            server.expect_request(path, method="PUT").respond_with_handler(self._keep)

    def _answer_lifecycles(self, _: Request) -> Response:
        if self._has_lifecycles:
            return Response("{}", 200, HEADERS, content_type="application/json")
        text = '{"error": "no handler found for uri [/_ilm/policy] and method [GET]"}'
        return Response(text, 400, HEADERS, content_type="application/json")

    def _keep(self, request: Request) -> Response:
        self.put[request.path] = json.loads(request.get_data())
        return Response('{"acknowledged": true}', 200, HEADERS, content_type="application/json")


@pytest.mark.parametrize("has", [True, False])
def test_the_policy_is_set_where_the_node_has_lifecycles(httpserver: HTTPServer, has: bool) -> None:
    node = FakeNode(httpserver, has_lifecycles=has)
    assert has_lifecycles(node.client) == has
    set_up_index(node.client, "app-logs-*", LOGS_TEMPLATE)
    template = node.put["/_index_template/app-logs"]
    assert template["index_patterns"] == ["app-logs-*"]
    settings = template["template"]["settings"]
    assert settings["index.number_of_replicas"] == 0
    assert settings.get("index.lifecycle.name") == ("app-logs" if has else None)
    phases = {"delete": {"min_age": "14d", "actions": {"delete": {}}}}
    assert node.put.get("/_ilm/policy/app-logs") == ({"policy": {"phases": phases}} if has else None)


def test_old_indices_are_kept_as_long_as_the_policy_says() -> None:
    assert read_retention(LOGS_TEMPLATE) == timedelta(days=14)
