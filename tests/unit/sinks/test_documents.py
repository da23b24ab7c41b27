"""Documents are created until Elasticsearch has answered for each. A fake server gives the answers that are rare."""

from __future__ import annotations

import json
from collections.abc import Callable
from threading import Event, Timer
from typing import Any

import pytest
from elasticsearch import Elasticsearch
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from jobs.sinks.documents import Document, NotStoredError, create_documents

DOCUMENTS = [Document("i", name, {"name": name}) for name in "abcd"]


class FakeNode:
    """Gives the next of its answers: a status for the whole request, or one for each id."""

    def __init__(self, server: HTTPServer, *answers: int | dict[str, int]) -> None:
        self.client = Elasticsearch(f"http://{server.host}:{server.port}")
        self.requests: list[list[str]] = []
        self._answers = list(answers)
        server.expect_request("/_bulk", method="POST").respond_with_handler(self._respond)

    def _respond(self, request: Request) -> Response:
        actions = [json.loads(line)["create"] for line in request.get_data().splitlines()[::2]]
        self.requests.append([action["_id"] for action in actions])
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        headers = {"x-elastic-product": "Elasticsearch"}
        if isinstance(answer, int):
            return Response("{}", answer, headers, content_type="application/json")
        items = [{"create": {"_id": action["_id"], "status": answer[action["_id"]]}} for action in actions]
        return Response(json.dumps({"items": items}), 200, headers, content_type="application/json")


@pytest.fixture
def make_node(httpserver: HTTPServer) -> Callable[..., FakeNode]:
    return lambda *answers: FakeNode(httpserver, *answers)


def test_stored_known_and_refused_documents_are_not_sent_again(make_node: Callable[..., FakeNode]) -> None:
    node = make_node({"a": 201, "b": 409, "c": 400, "d": 404})
    refused = create_documents(node.client, DOCUMENTS, Event())
    assert {number: answer["status"] for number, answer in refused.items()} == {2: 400, 3: 404}
    assert node.requests == [["a", "b", "c", "d"]]


def test_documents_that_are_rejected_for_now_are_sent_again(make_node: Callable[..., FakeNode]) -> None:
    node = make_node({"a": 429, "b": 201, "c": 400, "d": 503}, {"a": 201, "d": 429}, {"d": 201})
    refused: dict[int, dict[str, Any]] = create_documents(node.client, DOCUMENTS, Event())
    assert list(refused) == [2]
    assert node.requests == [["a", "b", "c", "d"], ["a", "d"], ["d"]]


@pytest.mark.parametrize("status", [400, 401, 403, 429, 500, 503])
def test_a_whole_request_that_fails_is_sent_again(make_node: Callable[..., FakeNode], status: int) -> None:
    node = make_node(status, status, dict.fromkeys("abcd", 201))
    assert create_documents(node.client, DOCUMENTS, Event()) == {}
    assert node.requests == [list("abcd")] * 3


@pytest.mark.parametrize("answer", [503, dict.fromkeys("abcd", 429)])
def test_a_sender_that_stops_learns_that_documents_are_missing(make_node: Callable[..., FakeNode], answer: Any) -> None:
    stopped = Event()
    Timer(0.3, stopped.set).start()
    with pytest.raises(NotStoredError):
        create_documents(make_node(answer).client, DOCUMENTS, stopped)


def test_nothing_to_send_is_no_request() -> None:
    assert create_documents(Elasticsearch("http://127.0.0.1:9"), [], Event()) == {}
