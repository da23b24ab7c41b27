"""Set up Elasticsearch's users, roles, templates and indices: `python -m infra.elasticsearch`. Harmless to repeat.

Each file in `roles/` is the body of Elasticsearch's role API. Two things are added to it: an entry of `indices` without
`names` covers the indices of all verticals, and each role gets a user of the same name. The password of datastream_x
is the setting elasticsearch_x_password.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from elastic_transport import TransportError
from elasticsearch import ApiError, AuthenticationException, Elasticsearch
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from jobs.clients import ADMIN
from jobs.errors import ConfigurationError, DatastreamError, ServiceUnavailableError
from jobs.settings import Settings, load
from jobs.sinks.elasticsearch import set_up_index, translate_errors
from jobs.verticals import list_index_templates, merge_settings

DEVELOPMENT_PASSWORD = Settings.model_fields["elastic_password"].default
READY_S = 60
ROLES = Path(__file__).parent / "roles"


def main() -> None:
    settings = load(merge_settings())
    templates = list_index_templates(settings)
    roles = read_roles(templates)
    client = sign_in(settings)
    with translate_errors(client, "setting up users"):
        client.security.change_password(username=ADMIN, password=settings.elastic_password)
        client = client.options(basic_auth=(ADMIN, settings.elastic_password))
        client.security.change_password(username="kibana_system", password=settings.kibana_system_password)
        for name, role in roles.items():
            client.security.put_role(name=name, **role)
            client.security.put_user(username=name, password=password_of(name, settings), roles=[name])
    for index, path in templates.items():
        set_up_index(client, index, path)
    print(f"Set the users {ADMIN}, kibana_system, {', '.join(roles)} and the templates of {', '.join(templates)}.")


def read_roles(indices: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Each role by its name; entries without `names` cover the indices whose names begin with one of `indices`."""
    names = [f"{index.rstrip('*')}*" for index in indices]
    roles = {path.stem: json.loads(path.read_text()) for path in sorted(ROLES.glob("*.json"))}
    return {
        name: role | {"indices": [{"names": names} | entry for entry in role.get("indices", [])]}
        for name, role in roles.items()
    }


def password_of(role: str, settings: Settings) -> str:
    password: str = getattr(settings, f"elasticsearch_{role.removeprefix('datastream_')}_password")
    return password


def sign_in(settings: Settings) -> Elasticsearch:
    """A client as `elastic`, with the wanted password or the development default, whichever the volume holds.

    Raises:
        ConfigurationError: Elasticsearch rejects both.
        ServiceUnavailableError: no answer within READY_S seconds.
    """
    passwords = dict.fromkeys([settings.elastic_password, DEVELOPMENT_PASSWORD])
    clients = [
        Elasticsearch(settings.es_url, basic_auth=(ADMIN, password), max_retries=0, request_timeout=10)
        for password in passwords
    ]
    # A node that has just started rejects correct passwords too: its index of users does not exist yet.
    attempts = Retrying(
        retry=retry_if_exception_type((ApiError, TransportError)),
        stop=stop_after_delay(READY_S),
        wait=wait_fixed(1),
        reraise=True,
    )
    try:
        return attempts(_first_accepted, clients)
    except AuthenticationException as error:
        raise ConfigurationError(
            f"Elasticsearch at {settings.es_url} rejects ELASTIC_PASSWORD and the development default for {ADMIN}: its "
            "volume was set up with another password. Put that password into .env, or set a new one with "
            "`docker compose exec elasticsearch bin/elasticsearch-reset-password -i -u elastic`, or delete all data "
            "with `make clean`."
        ) from error
    except (ApiError, TransportError) as error:
        raise ServiceUnavailableError(f"Elasticsearch at {settings.es_url}: not ready: {error}") from error


def _first_accepted(clients: Sequence[Elasticsearch]) -> Elasticsearch:
    *others, last = clients
    for client in others:
        with suppress(AuthenticationException):
            client.security.authenticate()
            return client
    last.security.authenticate()
    return last


if __name__ == "__main__":
    try:
        main()
    except DatastreamError as error:
        sys.exit(f"error: {error}")
