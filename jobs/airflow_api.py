"""Calls of Airflow's REST API that the command line makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import requests
from tenacity import (
    RetryError,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_fixed,
)

from jobs.clients import make_local_session
from jobs.errors import IS_IT_UP, ConfigurationError, DatastreamError, ServiceUnavailableError
from jobs.settings import LOOPBACK, Settings

_TIMEOUT_S = 30


class FailedRunError(DatastreamError):
    """A run of a DAG failed."""


def unpause(settings: Settings, dags: Sequence[str]) -> None:
    """Unpause DAGs, retrying for a minute.

    Raises:
        ServiceUnavailableError: Airflow did not answer or did not know a DAG.
        ConfigurationError: Airflow rejected AIRFLOW_USER and AIRFLOW_PASSWORD.
    """
    until_known = Retrying(
        retry=retry_if_exception_type(ServiceUnavailableError),
        stop=stop_after_delay(60),
        wait=wait_fixed(1),
        reraise=True,
    )
    until_known(_unpause, settings, dags)


def _unpause(settings: Settings, dags: Sequence[str]) -> None:
    with sign_in(settings) as (session, url):
        for dag in dags:
            session.patch(f"{url}/{dag}", json={"is_paused": False}, timeout=_TIMEOUT_S).raise_for_status()


def trigger(settings: Settings, dag_id: str, conf: Mapping[str, Any]) -> str:
    """Start a run of a DAG with parameters. The run is queued while another one is active.

    Returns:
        The id of the run.

    Raises:
        ServiceUnavailableError, ConfigurationError: as for `unpause`.
    """
    with sign_in(settings) as (session, url):
        run = {"logical_date": None, "conf": dict(conf)}
        answer = session.post(f"{url}/{dag_id}/dagRuns", json=run, timeout=_TIMEOUT_S)
        answer.raise_for_status()
        return str(answer.json()["dag_run_id"])


def wait_for_run(settings: Settings, dag_id: str, run_id: str, timeout_s: float) -> None:
    """Wait until a run has succeeded.

    Raises:
        FailedRunError: it failed.
        ServiceUnavailableError: it has not ended in time, or as for `unpause`.
    """
    with sign_in(settings) as (session, url):

        def read_state() -> str:
            answer = session.get(f"{url}/{dag_id}/dagRuns/{run_id}", timeout=_TIMEOUT_S)
            answer.raise_for_status()
            return str(answer.json()["state"])

        until_ended = Retrying(
            retry=retry_if_result(lambda state: state not in ("success", "failed")),
            stop=stop_after_delay(timeout_s),
            wait=wait_fixed(1),
        )
        where = f"http://localhost:{settings.airflow_port}/dags/{dag_id}/runs/{run_id}"
        try:
            state = until_ended(read_state)
        except RetryError as error:
            raise ServiceUnavailableError(
                f"The run of {dag_id} has not ended within {timeout_s:g} s. See {where}"
            ) from error
        if state == "failed":
            raise FailedRunError(f"The run of {dag_id} failed. The logs of its tasks: {where}")


@contextmanager
def sign_in(settings: Settings) -> Iterator[tuple[requests.Session, str]]:
    """Sign in; gives the session and the URL of the DAGs.

    Raises:
        ServiceUnavailableError, ConfigurationError: as for `unpause`.
    """
    url = f"http://{LOOPBACK}:{settings.airflow_port}"
    try:
        login = {"username": settings.airflow_user, "password": settings.airflow_password}
        session = make_local_session()
        token = session.post(f"{url}/auth/token", json=login, timeout=_TIMEOUT_S)
        if token.status_code in (400, 401, 403):
            raise ConfigurationError(f"Airflow at {url} rejected AIRFLOW_USER and AIRFLOW_PASSWORD.")
        token.raise_for_status()
        session.headers["Authorization"] = f"Bearer {token.json()['access_token']}"
        yield session, f"{url}/api/v2/dags"
    except requests.RequestException as error:
        raise ServiceUnavailableError(f"Airflow at {url}: {error}. {IS_IT_UP}") from error
