"""Whether a service is ready."""

from __future__ import annotations

from typing import Any

import requests

from infra.local.runner.service import Service
from jobs.clients import make_local_session
from jobs.settings import Settings

TIMEOUT_S = 3


def get_json(url: str) -> Any:
    """GET a URL of this machine; returns the JSON answer.

    Raises:
        requests.RequestException: no answer within TIMEOUT_S, an error status, or an answer that is not JSON.
    """
    answer = make_local_session().get(url, timeout=TIMEOUT_S)
    answer.raise_for_status()
    return answer.json()


def find_fault(service: Service, settings: Settings) -> str | None:
    """Why a service is not ready, or None."""
    try:
        return service.find_fault(settings)
    except requests.HTTPError as error:
        return f"answers {error}"
    except requests.JSONDecodeError:
        return "its answer is not JSON"
    except requests.Timeout:
        return f"does not answer within {TIMEOUT_S} s"
    except requests.RequestException:
        return "does not answer"
