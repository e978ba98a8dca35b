from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import memory_client
import pytest
from memory_client import (
    APIError,
    APIResponseValidationError,
    APIStatusError,
    InternalServerError,
    MemoryClientError,
    UnprocessableEntityError,
)

from .answers import thread
from .conftest import API_KEY
from .driver import Driver
from .peer import Answer, Drop, Peer, error


def get(client: Any) -> Any:
    return client.threads.get("thread_1")


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (409, "ConflictError"),
        (413, "RequestTooLargeError"),
        (418, "APIStatusError"),
        (422, "UnprocessableEntityError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
        (529, "InternalServerError"),
    ],
)
def test_each_status_has_its_error(new_driver: Callable[..., Driver], peer: Peer, status: int, name: str) -> None:
    peer.plays(error(status))
    with pytest.raises(APIStatusError) as caught:
        new_driver(max_retries=0).run(get)
    assert type(caught.value) is getattr(memory_client, name)
    assert caught.value.status_code == status


def test_an_error_says_what_the_server_said(driver: Driver, peer: Peer) -> None:
    peer.plays(error(422, "prompt_too_large", "It takes 1,200 tokens.", details={"needed": 1200}))
    with pytest.raises(UnprocessableEntityError) as caught:
        driver.run(get)
    failure = caught.value
    assert str(failure) == "422 prompt_too_large: It takes 1,200 tokens. (request_id=req_1)"
    assert (failure.code, failure.message) == ("prompt_too_large", "It takes 1,200 tokens.")
    assert (failure.details, failure.request_id) == ({"needed": 1200}, "req_1")
    assert failure.response.json()["error"]["code"] == "prompt_too_large"


@pytest.mark.parametrize("body", [b"<html>Bad gateway</html>", b"[]", b'{"error": "no"}', b'{"error": {}}', b""])
def test_an_error_without_the_usual_body_is_still_one(
    new_driver: Callable[..., Driver], peer: Peer, body: bytes
) -> None:
    peer.plays(Answer(body=body, status=502, headers={"x-request-id": "req_9"}))
    with pytest.raises(InternalServerError) as caught:
        new_driver(max_retries=0).run(get)
    assert str(caught.value) == "502: Bad Gateway (request_id=req_9)"
    assert caught.value.code is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"id": "thr', "expected JSON, got text/plain"),
        (b"<html>", "expected JSON, got text/plain"),
        (b"\xff", "expected JSON"),
        (b"", "Thread: expected an object, got NoneType"),
        (b"[]", "Thread: expected an object, got list"),
        (b"{}", "Thread.id is missing"),
        (b'{"id": 7, "created_at": "2026-03-01T00:00:00Z"}', "Thread.id: expected str, got int"),
        (b'{"id": "t", "created_at": "yesterday"}', "Thread.created_at: 'yesterday' is not a datetime"),
    ],
)
def test_an_answer_that_is_not_what_it_should_be(driver: Driver, peer: Peer, body: bytes, reason: str) -> None:
    peer.plays(Answer(body=body, headers={"content-type": "text/plain", "x-request-id": "req_3"}))
    with pytest.raises(APIResponseValidationError) as caught:
        driver.run(get)
    assert f"GET /v1/threads/thread_1: unreadable answer: {reason}" in str(caught.value)
    assert str(caught.value).startswith("200: ")
    assert caught.value.request_id == "req_3"


@pytest.mark.parametrize("answer", [{"object": "list"}, {"data": "x"}, ["x"]])
def test_a_list_that_is_none(driver: Driver, peer: Peer, answer: Any) -> None:
    peer.plays(Answer(answer))
    with pytest.raises(APIResponseValidationError, match="expected a list object with data"):
        driver.collect(lambda client: client.threads.list())


def test_a_redirect_is_not_followed_with_the_key(driver: Driver, peer: Peer) -> None:
    peer.plays(Answer(status=307, headers={"location": f"{peer.url}/elsewhere"}), Answer(thread()))
    with pytest.raises(APIStatusError, match="307"):
        driver.run(get)
    assert len(peer.received) == 1


def test_all_errors_have_one_root() -> None:
    errors = [kind for kind in vars(memory_client).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(errors) == 19
    assert all(issubclass(kind, MemoryClientError) for kind in errors)
    assert issubclass(APIStatusError, APIError)


@pytest.mark.usefixtures("short_backoff")
def test_the_key_is_nowhere_to_be_seen(
    new_driver: Callable[..., Driver], peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    driver = new_driver(max_retries=1)
    seen = [
        repr(driver.client),
        repr(driver.client.threads),
        repr(driver.client._config),
        str(vars(driver.client)),
    ]
    peer.plays(error(503, retry_after="0"), error(401, "unauthenticated", f"No such key: {API_KEY}"))
    seen.append(everything_shown(driver, APIStatusError))
    peer.plays(Answer(body=b"<html>"))
    seen.append(everything_shown(driver, APIResponseValidationError))
    peer.plays(Drop(), Drop())
    seen.append(everything_shown(driver, memory_client.APIConnectionError))
    assert peer.received[0].headers["authorization"] == f"Bearer {API_KEY}"
    assert "No such key: [api key]" in seen[4]
    assert "trying again" in caplog.text
    assert API_KEY not in caplog.text + "".join(seen)


def everything_shown(driver: Driver, kind: type[APIError]) -> str:
    with pytest.raises(kind) as caught:
        driver.run(get)
    failure = caught.value
    return f"{failure} {failure!r} {vars(failure)} {failure.__cause__!r} {getattr(failure, 'response', None)!r}"
