"""Kibana's alert rules as files in rules/<vertical>: connectors.json, actions.json and a file for each rule.

Their ids are fixed, so that every run updates the same ones. The basic licence has the rule types .es-query and
.index-threshold, and the connectors .server-log and .index.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infra.kibana.saved_objects import Kibana, NotFoundError

RULES = Path(__file__).parent / "rules"

# What only a creation may say.
_FIXED_OF_CONNECTORS = ("connector_type_id",)
_FIXED_OF_RULES = ("rule_type_id", "consumer")

Definition = dict[str, Any]


def read_connectors(vertical: str) -> list[Definition]:
    connectors: list[Definition] = json.loads((RULES / vertical / "connectors.json").read_text(encoding="utf-8"))
    return connectors


def read_rules(vertical: str) -> list[Definition]:
    """The rules with their actions; params.esQuery is an object."""
    actions = json.loads((RULES / vertical / "actions.json").read_text(encoding="utf-8"))
    files = sorted((RULES / vertical).glob("rule.*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) | {"actions": actions} for file in files]


def put_rules(kibana: Kibana, vertical: str) -> list[str]:
    """Create or update the connectors and rules of a vertical, and enable the rules. Harmless to repeat.

    Returns:
        The names of the rules.

    Raises:
        NotFoundError: this Kibana has no API for rules.
        DatastreamError: Kibana refuses one.
    """
    for connector in read_connectors(vertical):
        _put(kibana, "/api/actions/connector", connector, _FIXED_OF_CONNECTORS)
    rules = read_rules(vertical)
    for rule in rules:
        params = rule["params"] | {"esQuery": json.dumps(rule["params"]["esQuery"])}
        if not _put(kibana, "/api/alerting/rule", rule | {"params": params}, _FIXED_OF_RULES)["enabled"]:
            kibana.call("POST", f"/api/alerting/rule/{rule['id']}/_enable")
    return [rule["name"] for rule in rules]


def _put(kibana: Kibana, path: str, definition: Definition, fixed: tuple[str, ...]) -> Definition:
    """Update what has this id, or else create it; returns it as Kibana has it."""
    path = f"{path}/{definition['id']}"
    body = {name: value for name, value in definition.items() if name != "id"}
    try:
        answer = kibana.call("PUT", path, json={name: body[name] for name in body if name not in fixed})
    except NotFoundError:
        answer = kibana.call("POST", path, json=body)
    stored: Definition = answer.json()
    return stored
