from __future__ import annotations

from typing import Any

import pytest

from .answers import message, page, thread
from .driver import Driver
from .peer import Answer, Peer, error


def test_iterating_a_page_goes_on_to_the_next(driver: Driver, peer: Peer) -> None:
    peer.plays(page(message(1), message(2), has_more=True), page(message(3), has_more=True), page(message(4)))
    walked = driver.collect(lambda client: client.threads.messages.list("thread_1", limit=2, order="asc"))
    assert [item.seq for item in walked] == [1, 2, 3, 4]
    assert [request.query for request in peer.received] == [
        [("limit", "2"), ("order", "asc")],
        [("limit", "2"), ("order", "asc"), ("after", "msg_2")],
        [("limit", "2"), ("order", "asc"), ("after", "msg_3")],
    ]


def test_a_page_at_a_time(driver: Driver, peer: Peer) -> None:
    peer.plays(page(message(1), has_more=True), page(message(2)))
    first = driver.run(lambda client: client.threads.messages.list("thread_1", after="msg_0"))
    assert ([item.seq for item in first.data], first.has_more) == ([1], True)
    assert (first.first_id, first.last_id) == ("msg_1", "msg_1")
    assert first.raw["object"] == "list"
    second = driver.run(lambda _: first.next_page())
    assert [item.seq for item in second.data] == [2]
    assert driver.run(lambda _: second.next_page()) is None
    assert [dict(request.query) for request in peer.received] == [{"after": "msg_0"}, {"after": "msg_1"}]


def test_a_page_can_be_walked_twice(driver: Driver, peer: Peer) -> None:
    peer.plays(page(thread("thread_1"), has_more=True), *[page(thread("thread_2"))] * 2)
    first = driver.run(lambda client: client.threads.list())
    for _ in range(2):
        assert [item.id for item in driver.collect(lambda _: first)] == ["thread_1", "thread_2"]


def test_a_walk_that_begins_before_a_cursor_goes_on_backwards(driver: Driver, peer: Peer) -> None:
    peer.plays(page(message(8), message(9), has_more=True), page(message(6), message(7)))
    walked = driver.collect(lambda client: client.threads.messages.list("thread_1", before="msg_10"))
    assert [item.seq for item in walked] == [8, 9, 6, 7]
    assert [dict(request.query) for request in peer.received] == [{"before": "msg_10"}, {"before": "msg_8"}]


def test_an_empty_page_ends_the_walk_whatever_it_says(driver: Driver, peer: Peer) -> None:
    peer.plays(Answer({"object": "list", "data": [], "last_id": "thread_1", "has_more": True}))
    assert driver.collect(lambda client: client.threads.list()) == []
    assert len(peer.received) == 1


def test_the_cursor_is_found_in_the_items_if_need_be(driver: Driver, peer: Peer) -> None:
    peer.plays(Answer({"object": "list", "data": [message(1)], "has_more": True}), page(message(2)))
    assert len(driver.collect(lambda client: client.threads.messages.list("thread_1"))) == 2
    assert dict(peer.received[1].query) == {"after": "msg_1"}


def test_filters_stay_on_every_page(driver: Driver, peer: Peer) -> None:
    peer.plays(page(thread("thread_1"), has_more=True), page(thread("thread_2")))
    filters: dict[str, Any] = {"user_id": "ada & co", "metadata": {"topic": "a=b", "größe": "1"}}
    driver.collect(lambda client: client.threads.list(**filters))
    expected = [("user_id", "ada & co"), ("metadata[topic]", "a=b"), ("metadata[größe]", "1")]
    assert peer.received[0].query == expected
    assert peer.received[1].query == [*expected, ("after", "thread_1")]


def test_a_failure_on_a_later_page_is_retried(driver: Driver, peer: Peer) -> None:
    peer.plays(page(message(1), has_more=True), error(503, retry_after="0"), page(message(2)))
    assert len(driver.collect(lambda client: client.threads.messages.list("thread_1"))) == 2


@pytest.mark.parametrize("resource", ["threads", "assistants"])
def test_empty_lists(driver: Driver, peer: Peer, resource: str) -> None:
    peer.plays(page())
    assert driver.collect(lambda client: getattr(client, resource).list()) == []
