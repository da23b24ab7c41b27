"""Alert rules are set by Kibana's API. A fake server stands in: no Kibana is available here."""

from __future__ import annotations

import json
import re
from typing import Any
from uuid import UUID

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from infra.kibana.rules import put_rules, read_connectors, read_rules
from infra.kibana.saved_objects import Kibana, NotFoundError
from jobs.errors import ConfigurationError
from jobs.settings import Settings

BASIC = {".es-query", ".index-threshold", ".server-log", ".index"}


class FakeKibana:
    """Stores connectors and rules by path. As Kibana, it creates with POST and updates with PUT."""

    def __init__(self, server: HTTPServer) -> None:
        self.address = f"http://{server.host}:{server.port}"
        self.stored: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.has_api = True
        server.expect_request(re.compile("/api/.*")).respond_with_handler(self.respond)

    def respond(self, request: Request) -> Response:
        self.calls.append(f"{request.method} {request.path}")
        assert request.headers["kbn-xsrf"]
        if request.authorization is None or request.authorization.password != "changeme":  # noqa: S105
            return Response("who?", 401)
        path = request.path.removesuffix("/_enable")
        body = json.loads(request.get_data() or b"{}")
        fixed = {"enabled", "consumer", "rule_type_id", "connector_type_id"} & body.keys()
        if not self.has_api or (request.method == "PUT" and path not in self.stored):
            return Response('{"statusCode": 404}', 404)
        if request.path != path:
            self.stored[path]["enabled"] = True
            return Response(status=204)
        if (request.method == "POST") == (path in self.stored) or (request.method == "PUT" and fixed):
            return Response('{"statusCode": 400}', 400)
        self.stored[path] = {"enabled": True} | self.stored.get(path, {}) | body
        return Response(json.dumps(self.stored[path]), content_type="application/json")


@pytest.fixture
def fake(httpserver: HTTPServer) -> FakeKibana:
    return FakeKibana(httpserver)


def kibana(fake: FakeKibana, **changes: Any) -> Kibana:
    return Kibana(Settings(_env_file=None, kibana_url=fake.address, **changes))  # type: ignore[call-arg]


def test_rules_and_connectors_are_created_enabled_with_fixed_ids(fake: FakeKibana) -> None:
    names = put_rules(kibana(fake), "shop")
    assert len(names) == 4
    ids = [path.rpartition("/")[2] for path in fake.stored]
    assert len(set(ids)) == 6
    assert all(UUID(id_).version == 4 for id_ in ids), "Kibana takes no other ids"
    rules = [rule for path, rule in fake.stored.items() if "/alerting/" in path]
    assert all(rule["enabled"] and rule["schedule"] == {"interval": "1m"} for rule in rules)
    assert all("query" in json.loads(rule["params"]["esQuery"]) for rule in rules), "a string that holds JSON"


def test_a_second_run_updates_the_same_and_undoes_changes(fake: FakeKibana) -> None:
    put_rules(kibana(fake), "shop")
    before = json.loads(json.dumps(fake.stored))
    rule = next(path for path in fake.stored if "/alerting/" in path)
    fake.stored[rule] |= {"enabled": False, "name": "changed"}
    fake.calls.clear()
    put_rules(kibana(fake), "shop")
    assert fake.stored == before
    assert fake.calls.count(f"POST {rule}/_enable") == 1
    assert [call.split()[0] for call in fake.calls].count("PUT") == len(fake.stored) == len(fake.calls) - 1


def test_a_kibana_without_alerting_and_a_wrong_password_are_reported(fake: FakeKibana) -> None:
    with pytest.raises(ConfigurationError, match="ELASTIC_PASSWORD"):
        put_rules(kibana(fake, elastic_password="lost"), "shop")  # noqa: S106
    fake.has_api = False
    with pytest.raises(NotFoundError, match="does not know POST /api/actions/connector/"):
        put_rules(kibana(fake), "shop")


def test_rules_use_what_the_basic_licence_has_and_connectors_that_exist() -> None:
    connectors = read_connectors("shop")
    rules = read_rules("shop")
    kinds = {connector["connector_type_id"] for connector in connectors} | {rule["rule_type_id"] for rule in rules}
    assert kinds <= BASIC
    (index,) = [one["config"]["index"] for one in connectors if one["connector_type_id"] == ".index"]
    assert index == "alerts-app-logs"
    for rule in rules:
        assert {action["id"] for action in rule["actions"]} == {connector["id"] for connector in connectors}
        assert {action["group"] for action in rule["actions"]} == {"query matched", "recovered"}
        assert rule["params"]["excludeHitsFromPreviousRun"] is False, "a window of 5 minutes overlaps the last one"
        assert rule["params"]["index"] == ["app-logs-*"]
