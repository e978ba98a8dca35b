"""Pages, both ways, over every list."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import pytest

from .support import append, build, messages_of, new_thread, ok, refused

COUNT = 11


@pytest.fixture(params=["messages", "threads", "assistants", "prompts"])
def listed(request: pytest.FixtureRequest, api: httpx2.Client) -> tuple[str, list[str]]:
    """A list's path and its ids, oldest first."""
    thread = new_thread(api, ("user", "hello"))["id"]
    path = f"/v1/threads/{thread}/{request.param}"
    match request.param:
        case "messages":
            body = {"messages": [{"role": "user", "content": str(i)} for i in range(COUNT - 1)]}
            ok(api.post(path, json=body), 201)
            return path, [message["id"] for message in messages_of(api, thread)]
        case "prompts":
            return path, [ok(build(api, thread), 201)["id"] for _ in range(COUNT)]
        case "threads":
            # All at one moment: the order is that of creation all the same.
            now = {"x-memory-now": "1790000000"}
            ok(api.delete(f"/v1/threads/{thread}"))
            return "/v1/threads", [ok(api.post("/v1/threads", headers=now), 201)["id"] for _ in range(COUNT)]
        case _:
            return "/v1/assistants", [ok(api.post("/v1/assistants", json={}), 201)["id"] for _ in range(COUNT)]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [3, 11, 12])
def test_forwards_and_back(api: httpx2.Client, listed: tuple[str, list[str]], order: str, limit: int) -> None:
    path, ids = listed
    expected = ids if order == "asc" else ids[::-1]

    def page(**cursor: str) -> tuple[list[str], bool]:
        found = ok(api.get(path, params={"order": order, "limit": limit, **cursor}))
        assert found.keys() == {"object", "data", "first_id", "last_id", "has_more"}
        assert found["object"] == "list"
        page_ids = [item["id"] for item in found["data"]]
        assert (found["first_id"], found["last_id"]) == ((page_ids[0], page_ids[-1]) if page_ids else (None, None))
        return page_ids, found["has_more"]

    seen, more = page()
    while more:
        assert len(seen) % limit == 0
        items, more = page(after=seen[-1])
        seen += items
    assert seen == expected
    assert page(after=seen[-1]) == ([], False)
    back, more = page(before=seen[-1])
    while more:
        items, more = page(before=back[0])
        back = items + back
    assert back == expected[:-1]
    assert page(before=seen[0]) == ([], False)


def test_default_order(api: httpx2.Client, listed: tuple[str, list[str]]) -> None:
    path, ids = listed
    found = [item["id"] for item in ok(api.get(path))["data"]]
    assert found == (ids if path.endswith("messages") else ids[::-1])


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_messages_deleted_in_between(api: httpx2.Client, order: str) -> None:
    """What was deleted is not listed, and a page that ended with it can still be left."""
    thread = new_thread(api, *[("user", str(i)) for i in range(10)])["id"]
    path = f"/v1/threads/{thread}/messages"
    held = messages_of(api, thread)
    for seq in (2, 5, 6, 10):
        ok(api.delete(f"{path}/{held[seq - 1]['id']}"))
    left = [1, 3, 4, 7, 8, 9] if order == "asc" else [9, 8, 7, 4, 3, 1]
    read: list[int] = []
    params = {"order": order, "limit": "2"}
    while True:
        page = ok(api.get(path, params=params))
        read += [message["seq"] for message in page["data"]]
        if not page["has_more"]:
            break
        ok(api.delete(f"{path}/{page['last_id']}"))
        params = {**params, "after": page["last_id"]}
    assert read == left
    # Every second one is gone by now, the cursors of the loop among them.
    assert [m["seq"] for m in messages_of(api, thread)] == sorted(left[i] for i in (0, 2, 4, 5))
    for cursor in ("after", "before"):
        around = ok(api.get(path, params={cursor: held[4]["id"], "order": "asc"}))["data"]
        assert all((m["seq"] > 5) == (cursor == "after") for m in around)
        assert around


def test_a_deleted_thread_is_no_cursor(api: httpx2.Client) -> None:
    thread = new_thread(api)
    ok(api.delete(f"/v1/threads/{thread['id']}"))
    refused(api.get("/v1/threads", params={"after": thread["id"]}), 422, field="after", says="pass the id of one")


def test_new_items_do_not_shift_pages(api: httpx2.Client) -> None:
    thread = new_thread(api, *[("user", str(i)) for i in range(6)])["id"]
    path = f"/v1/threads/{thread}/messages"
    first = ok(api.get(path, params={"order": "desc", "limit": 3}))
    append(api, thread, "user", "new")
    second = ok(api.get(path, params={"order": "desc", "limit": 3, "after": first["last_id"]}))
    assert [m["seq"] for m in first["data"] + second["data"]] == [6, 5, 4, 3, 2, 1]


def test_a_page_of_the_largest_size(api: httpx2.Client, rows: Callable[[], dict[str, list[str]]]) -> None:
    thread = new_thread(api, *[("user", str(i)) for i in range(101)])["id"]
    page = ok(api.get(f"/v1/threads/{thread}/messages", params={"limit": 100}))
    assert len(page["data"]) == 100
    assert page["has_more"]
    assert len(ok(api.get(f"/v1/threads/{thread}/messages"))["data"]) == 20
    assert len(rows()["messages"]) == 101
