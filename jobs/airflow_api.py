"""The few calls of Airflow's REST API that the command line makes."""

from __future__ import annotations

import requests

from jobs.clients import local_session
from jobs.errors import IS_IT_UP, ConfigurationError, ServiceUnavailableError
from jobs.settings import LOOPBACK, Settings

DAGS = ("dag_compute_cost", "dag_index_and_export")
_TIMEOUT_S = 30


def unpause(settings: Settings, dags: tuple[str, ...] = DAGS) -> None:
    """Toggle DAGs on.

    Raises:
        ServiceUnavailableError: Airflow does not answer, or does not know a DAG yet.
        ConfigurationError: it does not take AIRFLOW_USER and AIRFLOW_PASSWORD.
    """
    url = f"http://{LOOPBACK}:{settings.airflow_port}"
    try:
        login = {"username": settings.airflow_user, "password": settings.airflow_password}
        session = local_session()
        token = session.post(f"{url}/auth/token", json=login, timeout=_TIMEOUT_S)
        if token.status_code in (400, 401, 403):
            raise ConfigurationError(f"Airflow at {url} does not take AIRFLOW_USER and AIRFLOW_PASSWORD.")
        token.raise_for_status()
        headers = {"Authorization": f"Bearer {token.json()['access_token']}"}
        for dag in dags:
            answer = session.patch(
                f"{url}/api/v2/dags/{dag}", json={"is_paused": False}, headers=headers, timeout=_TIMEOUT_S
            )
            answer.raise_for_status()
    except requests.RequestException as error:
        raise ServiceUnavailableError(f"Airflow at {url}: {error}. {IS_IT_UP}") from error
