from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import httpx2
import pytest
from memory_client import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncMemoryClient,
    ConflictError,
    InternalServerError,
    NotFoundError,
    RateLimitError,
)
from memory_client._retry import retry_delay

from .answers import message, page, thread
from .conftest import API_KEY
from .driver import Driver
from .peer import Answer, Drop, Peer, error

CREATED = Answer(thread(), 201)
SLOW = Answer(thread(), 201, after_seconds=0.2)


def create(client: Any) -> Any:
    return client.threads.create(user_id="ada")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_retried_with_the_same_idempotency_key(driver: Driver, peer: Peer, status: int) -> None:
    peer.plays(error(status, retry_after="0"), error(status, retry_after="0"), CREATED)
    assert driver.run(create).id == "thread_1"
    assert len(peer.received) == 3
    assert len({request.key for request in peer.received}) == 1
    assert len({request.body for request in peer.received}) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501])
def test_a_lasting_failure_is_not_retried(driver: Driver, peer: Peer, status: int) -> None:
    peer.plays(error(status, retry_after="0"), CREATED)
    with pytest.raises(APIStatusError):
        driver.run(create)
    assert len(peer.received) == 1


def test_two_retries_by_default_then_the_last_error(driver: Driver, peer: Peer) -> None:
    peer.plays(*[error(429, retry_after="0")] * 3, CREATED)
    with pytest.raises(RateLimitError):
        driver.run(create)
    assert len(peer.received) == 3


def test_retry_after_is_waited_for(driver: Driver, peer: Peer) -> None:
    peer.plays(error(429, retry_after="0.2"), CREATED)
    driver.run(create)
    first, second = peer.received
    assert 0.2 <= second.at - first.at < 0.45


def test_a_wait_that_is_too_long_is_left_to_the_caller(driver: Driver, peer: Peer) -> None:
    peer.plays(error(429, retry_after="61"), CREATED)
    with pytest.raises(RateLimitError) as caught:
        driver.run(create)
    assert caught.value.retry_after_seconds == 61
    assert len(peer.received) == 1


def test_backs_off_without_retry_after(new_driver: Callable[..., Driver], peer: Peer) -> None:
    peer.plays(error(503), CREATED)
    new_driver(max_retries=1).run(create)
    first, second = peer.received
    assert 0.25 <= second.at - first.at < 0.8


def test_delays_grow_to_a_limit_and_jitter_only_shortens_them() -> None:
    lost = httpx2.ConnectError("lost")
    assert [retry_delay(lost, made, now=0, jitter=0) for made in range(6)] == [0.5, 1, 2, 4, 8, 8]
    assert retry_delay(lost, 0, now=0, jitter=1) == 0.25


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (formatdate(1_000_010, usegmt=True), 10),
        (formatdate(1_000_010), 10),
        (formatdate(999_000, usegmt=True), 0),
        ("-3", 0),
        ("soon", 0.5),
        ("nan", 0.5),
        ("", 0.5),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str, seconds: float) -> None:
    response = httpx2.Response(503, headers={"retry-after": header})
    assert retry_delay(response, 0, now=1_000_000, jitter=0) == seconds


@pytest.mark.usefixtures("short_backoff")
def test_a_dropped_connection_is_retried_with_the_same_idempotency_key(
    new_driver: Callable[..., Driver], peer: Peer
) -> None:
    peer.plays(Drop(), CREATED)
    assert new_driver(max_retries=1).run(create).id == "thread_1"
    first, second = peer.received
    assert first.key == second.key


@pytest.mark.usefixtures("short_backoff")
def test_an_answer_cut_short_is_retried(new_driver: Callable[..., Driver], peer: Peer) -> None:
    peer.plays(Drop(after=b'{"id": "thread_'), CREATED)
    assert new_driver(max_retries=1).run(create).id == "thread_1"


@pytest.mark.usefixtures("short_backoff")
def test_a_slow_answer_is_retried_with_the_same_idempotency_key(new_driver: Callable[..., Driver], peer: Peer) -> None:
    peer.plays(SLOW, CREATED)
    assert new_driver(max_retries=1, timeout=0.1).run(create).id == "thread_1"
    first, second = peer.received
    assert first.key == second.key


@pytest.mark.usefixtures("short_backoff")
def test_a_lasting_silence_is_a_timeout_error(new_driver: Callable[..., Driver], peer: Peer) -> None:
    peer.plays(SLOW, SLOW)
    with pytest.raises(APITimeoutError, match=r"POST /v1/threads: no answer in time \(2 attempts\)") as caught:
        new_driver(max_retries=1, timeout=0.05).run(create)
    assert isinstance(caught.value, APIConnectionError)
    assert isinstance(caught.value.__cause__, httpx2.ReadTimeout)


def test_nobody_there_is_a_connection_error(new_driver: Callable[..., Driver]) -> None:
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        with pytest.raises(APIConnectionError, match=f"connection to {url} failed") as caught:
            new_driver(base_url=url, max_retries=0).run(create)
    assert not isinstance(caught.value, APITimeoutError)


def test_of_all_conflicts_only_a_request_in_progress_is_retried(driver: Driver, peer: Peer) -> None:
    peer.plays(error(409, "idempotency_in_progress", retry_after="0"), CREATED)
    assert driver.run(create).id == "thread_1"
    peer.plays(error(409, "thread_busy", retry_after="0"), CREATED)
    with pytest.raises(ConflictError) as caught:
        driver.run(create)
    assert caught.value.code == "thread_busy"
    assert len(peer.received) == 1


def test_each_call_has_a_key_of_its_own_unless_the_caller_names_one(driver: Driver, peer: Peer) -> None:
    peer.plays(CREATED, CREATED, CREATED)
    driver.run(create)
    driver.run(create)
    driver.run(lambda client: client.threads.create(idempotency_key="mine"))
    first, second, third = (request.key for request in peer.received)
    assert first != second
    assert (len(first or ""), len(second or "")) == (32, 32)
    assert third == "mine"


def test_get_patch_and_delete_are_retried_without_a_key(driver: Driver, peer: Peer) -> None:
    calls: list[Callable[[Any], Any]] = [
        lambda client: client.threads.get("thread_1"),
        lambda client: client.threads.update("thread_1", instructions="x"),
        lambda client: client.threads.delete("thread_1"),
    ]
    for call in calls:
        peer.plays(error(503, retry_after="0"), Answer(thread()))
        driver.run(call)
        assert [request.key for request in peer.received] == [None, None]


def test_a_delete_whose_answer_was_lost_succeeds_when_there_is_nothing_left(driver: Driver, peer: Peer) -> None:
    def delete(client: Any) -> Any:
        return client.threads.delete("thread_1")

    peer.plays(error(503, retry_after="0"), error(404, "not_found"))
    assert driver.run(delete) is None
    for refusals in ([], [error(429, retry_after="0")]):
        peer.plays(*refusals, error(404, "not_found"))
        with pytest.raises(NotFoundError):
            driver.run(delete)


def test_with_options_changes_patience_and_shares_connections(driver: Driver, peer: Peer) -> None:
    peer.plays(SLOW, error(503), CREATED)
    hasty = driver.client.with_options(timeout=0.1, max_retries=0)
    with pytest.raises(APITimeoutError):
        driver.run(lambda _: create(hasty))
    with pytest.raises(InternalServerError):
        driver.run(lambda _: create(driver.client.with_options(max_retries=0)))
    assert len(peer.received) == 2
    driver.run(lambda _: hasty.close())
    assert driver.run(create).id == "thread_1"


def test_with_options_keeps_what_is_not_given(new_driver: Callable[..., Driver], peer: Peer) -> None:
    driver = new_driver(timeout=0.05, max_retries=0)
    peer.plays(SLOW)
    with pytest.raises(APITimeoutError):
        driver.run(lambda client: create(client.with_options(max_retries=0)))
    peer.plays(SLOW)
    driver.run(lambda client: create(client.with_options(timeout=None)))
    peer.plays(error(503, retry_after="0"), CREATED)
    with pytest.raises(InternalServerError):
        driver.run(lambda client: create(client.with_options(timeout=None)))


def test_async_calls_run_side_by_side(peer: Peer) -> None:
    async def appends() -> list[Any]:
        async with AsyncMemoryClient(peer.url, API_KEY) as client:
            append = client.threads.messages.append
            tasks = [asyncio.create_task(append("thread_1", "user", "Hello")) for _ in range(10)]
            return await asyncio.gather(*tasks)

    answer = page(message())
    peer.plays(*[Answer(answer.json, 201, after_seconds=0.1)] * 10)
    started = time.monotonic()
    assert len(asyncio.run(appends())) == 10
    assert time.monotonic() - started < 0.8
    assert len({request.key for request in peer.received}) == 10
