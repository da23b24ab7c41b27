"""Calls of Airflow's REST API that the command line makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_fixed

from jobs.clients import make_local_session
from jobs.errors import IS_IT_UP, ConfigurationError, DatastreamError, ServiceUnavailableError
from jobs.settings import LOOPBACK, Settings

T = TypeVar("T")

_TIMEOUT_S = 30
# A busy Airflow answers late: with the whole stack on two cores, twice after more than 30 s.
_BUSY_S = 300
_ALL_DAGS: dict[str, Any] = {"limit": 100, "order_by": "dag_id"}


class LastRun(msgspec.Struct, frozen=True):
    """The last run of a DAG that ended: its state (success or failed), when it ended (ISO 8601), how long it took."""

    run_id: str
    state: str
    ended_at: str
    duration_s: float


class Dag(msgspec.Struct, frozen=True):
    """A DAG, and its last run that ended."""

    dag_id: str
    is_paused: bool
    last_run: LastRun | None


class FailedRunError(DatastreamError):
    """A run of a DAG failed."""


def unpause(settings: Settings, dags: Sequence[str]) -> None:
    """Unpause DAGs. Retries for two minutes, in which a DAG that failed is parsed again; for five if Airflow is busy.

    Raises:
        ServiceUnavailableError: Airflow did not answer or did not know a DAG.
        ConfigurationError: Airflow rejected AIRFLOW_USER and AIRFLOW_PASSWORD.
    """

    def patch() -> None:
        with sign_in(settings) as (session, url):
            for dag in dags:
                session.patch(f"{url}/{dag}", json={"is_paused": False}, timeout=_TIMEOUT_S).raise_for_status()

    _retry(patch, 120, _BUSY_S)


def _retry(call: Callable[[], T], seconds: float, busy_s: float) -> T:
    """Repeat a call while Airflow does not answer: for `seconds`, or for `busy_s` if it is there but answers late."""

    def has_to_stop(state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        is_busy = error is not None and isinstance(error.__cause__, requests.Timeout)
        return (state.seconds_since_start or 0) >= (busy_s if is_busy else seconds)

    retrying = Retrying(
        retry=retry_if_exception_type(ServiceUnavailableError), stop=has_to_stop, wait=wait_fixed(1), reraise=True
    )
    return retrying(call)


def trigger(settings: Settings, dag_id: str, conf: Mapping[str, Any]) -> str:
    """Start a run of a DAG with parameters. The run is queued while another one is active.

    Returns:
        The id of the run.

    Raises:
        ServiceUnavailableError, ConfigurationError: as for `unpause`.
    """
    run_id = f"manual__{datetime.now(UTC).isoformat()}"
    run = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf)}

    def post() -> None:
        with sign_in(settings) as (session, url):
            answer = session.post(f"{url}/{dag_id}/dagRuns", json=run, timeout=_TIMEOUT_S)
            if answer.status_code != HTTPStatus.CONFLICT:  # an earlier try has started it
                answer.raise_for_status()

    _retry(post, 0, _BUSY_S)
    return run_id


def wait_for_run(settings: Settings, dag_id: str, run_id: str, timeout_s: float) -> None:
    """Wait until a run has succeeded.

    Raises:
        FailedRunError: it failed.
        ServiceUnavailableError: it has not ended in time, or as for `unpause`.
    """
    page = f"http://localhost:{settings.airflow_port}/dags/{dag_id}/runs/{run_id}"

    def read_state() -> str:
        with sign_in(settings) as (session, url):
            answer = session.get(f"{url}/{dag_id}/dagRuns/{run_id}", timeout=_TIMEOUT_S)
            answer.raise_for_status()
            state = str(answer.json()["state"])
            if state not in ("success", "failed"):
                raise ServiceUnavailableError(f"The run of {dag_id} is still {state}. See {page}")
            return state

    if _retry(read_state, timeout_s, timeout_s) == "failed":
        raise FailedRunError(f"The run of {dag_id} failed. The logs of its tasks: {page}")


def read_last_runs(settings: Settings) -> list[Dag]:
    """Read the last run of each DAG that ended.

    Raises:
        ServiceUnavailableError, ConfigurationError: as for `unpause`.
    """
    wanted: dict[str, Any] = {"state": ["success", "failed"], "order_by": "-end_date", "limit": 1}
    dags = []
    with sign_in(settings) as (session, url):
        listed = session.get(url, params=_ALL_DAGS, timeout=_TIMEOUT_S)
        listed.raise_for_status()
        for dag in listed.json()["dags"]:
            answer = session.get(f"{url}/{dag['dag_id']}/dagRuns", params=wanted, timeout=_TIMEOUT_S)
            answer.raise_for_status()
            runs = [
                LastRun(run["dag_run_id"], run["state"], run["end_date"], run["duration"])
                for run in answer.json()["dag_runs"]
            ]
            dags.append(Dag(dag["dag_id"], dag["is_paused"], runs[0] if runs else None))
    return dags


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
