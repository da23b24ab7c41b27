"""Give Elasticsearch its users, roles and index template: `python -m infra.elasticsearch`. Harmless to repeat."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from elastic_transport import TransportError
from elasticsearch import ApiError, AuthenticationException, Elasticsearch
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from jobs.clients import ADMIN, READER, WRITER
from jobs.errors import ConfigurationError, DatastreamError, ServiceUnavailableError
from jobs.settings import Settings, load
from jobs.sinks.elasticsearch import apply_template, explained
from jobs.verticals import index_templates, stack_settings

DEVELOPMENT_PASSWORD = Settings.model_fields["elastic_password"].default
READY_S = 60


def main() -> None:
    settings = load(stack_settings())
    templates = index_templates(settings)
    client = sign_in(settings)
    with explained(client, "setting up users"):
        client.security.change_password(username=ADMIN, password=settings.elastic_password)
        client = client.options(basic_auth=(ADMIN, settings.elastic_password))
        client.security.change_password(username="kibana_system", password=settings.kibana_system_password)
        give_role(client, WRITER, settings.elasticsearch_writer_password, list(templates), _WRITE)
        give_role(client, READER, settings.elasticsearch_reader_password, list(templates), _READ)
    for index, path in templates.items():
        apply_template(client, index, path)
    print(f"Users {ADMIN}, kibana_system, {WRITER}, {READER} and the templates of {', '.join(templates)} are set.")


# `create_index`, because the first document makes the index by its template; `monitor` lets the template be read.
_WRITE = {"cluster": ["monitor"], "privileges": ["create_index", "index", "view_index_metadata"]}
_READ = {"cluster": [], "privileges": ["read", "view_index_metadata"]}


def sign_in(settings: Settings) -> Elasticsearch:
    """A client as `elastic`, whichever password the volume holds: the wanted one, or the development default.

    Raises:
        ConfigurationError: it holds another one.
        ServiceUnavailableError: no answer within READY_S seconds.
    """
    passwords = dict.fromkeys([settings.elastic_password, DEVELOPMENT_PASSWORD])
    clients = [
        Elasticsearch(settings.es_url, basic_auth=(ADMIN, password), max_retries=0, request_timeout=10)
        for password in passwords
    ]
    # A node that has just started refuses right passwords too: its own index of users is not there yet.
    attempts = Retrying(
        retry=retry_if_exception_type((ApiError, TransportError)),
        stop=stop_after_delay(READY_S),
        wait=wait_fixed(1),
        reraise=True,
    )
    try:
        return attempts(_first_taken, clients)
    except AuthenticationException as error:
        raise ConfigurationError(
            f"Elasticsearch at {settings.es_url} takes neither ELASTIC_PASSWORD nor the development default for "
            f"{ADMIN}: its volume was set up with another password. Put that one into .env, or set a new one with "
            "`docker compose exec elasticsearch bin/elasticsearch-reset-password -i -u elastic`, or delete all data "
            "with `make clean`."
        ) from error
    except (ApiError, TransportError) as error:
        raise ServiceUnavailableError(f"Elasticsearch at {settings.es_url}: not ready: {error}") from error


def _first_taken(clients: Sequence[Elasticsearch]) -> Elasticsearch:
    *others, last = clients
    for client in others:
        with suppress(AuthenticationException):
            client.security.authenticate()
            return client
    last.security.authenticate()
    return last


def give_role(
    client: Elasticsearch, user: str, password: str, indices: Sequence[str], rights: dict[str, list[str]]
) -> None:
    """Make a user with a role of the same name that reaches indices whose names begin so, and no others."""
    names = [f"{index}*" for index in indices]
    allowed = [{"names": names, "privileges": rights["privileges"]}]
    client.security.put_role(name=user, cluster=rights["cluster"], indices=allowed)
    client.security.put_user(username=user, password=password, roles=[user])


if __name__ == "__main__":
    try:
        main()
    except DatastreamError as error:
        sys.exit(f"error: {error}")
