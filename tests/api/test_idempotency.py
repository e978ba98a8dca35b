"""Idempotency-Key: one effect, one answer, on every POST."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx2
import psycopg
import pytest

from .support import MODEL, build, import_lines, messages_of, ndjson, new_thread, ok, post_bytes, refused

Unchanged = Callable[[], AbstractContextManager[None]]
KEY = {"idempotency-key": "key-1"}
ROUTES = ["threads", "messages", "fork", "prompts", "usage", "assistants", "import", "search"]


def call_of(api: httpx2.Client, route: str) -> tuple[str, bytes, bytes]:
    """A path, a body for it, and another body that is right as well."""
    thread = new_thread(api, ("user", "hello"), ("assistant", "hi"), user_id="u")["id"]
    path = f"/v1/threads/{thread}"
    match route:
        case "threads" | "assistants":
            return f"/v1/{route}", b'{"instructions": "a"}', b'{"instructions": "b"}'
        case "messages":
            return f"{path}/messages", b'{"role": "user", "content": "a"}', b'{"role": "user", "content": "b"}'
        case "fork":
            return f"{path}/fork", b'{"seq": 1}', b'{"seq": 2}'
        case "prompts":
            body = '{"model": "%s", "message": {"role": "user", "content": "%s"}}'
            return f"{path}/prompts", (body % (MODEL, "a")).encode(), (body % (MODEL, "b")).encode()
        case "usage":
            prompt = ok(build(api, thread, message={"role": "user", "content": "x"}), 201)["id"]
            body = '{"usage": {"input_tokens": %d}, "message": {"content": "reply"}}'
            return f"{path}/prompts/{prompt}/usage", (body % 5).encode(), (body % 6).encode()
        case "import":
            lines = [{"type": "thread", "id": "t1"}, {"type": "message", "role": "user", "content": "a", "id": "m1"}]
            return "/v1/import", ndjson(*lines), ndjson(*lines[:1])
        case _:
            return "/v1/search", b'{"q": "hello", "user_id": "u"}', b'{"q": "hi", "user_id": "u"}'


@pytest.mark.parametrize("route", ROUTES)
def test_replayed(api: httpx2.Client, unchanged: Unchanged, route: str) -> None:
    path, body, _ = call_of(api, route)
    first = post_bytes(api, path, body, **KEY)
    assert first.status_code in (200, 201)
    with unchanged():
        again = post_bytes(api, path, body, **KEY)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    if route != "search":  # a search has no effect that could happen twice
        without = post_bytes(api, path, body)
        assert route == "usage" or without.content != first.content


@pytest.mark.parametrize("route", [r for r in ROUTES if r != "search"])
def test_another_body(api: httpx2.Client, unchanged: Unchanged, route: str) -> None:
    path, body, other = call_of(api, route)
    assert post_bytes(api, path, body, **KEY).status_code in (200, 201)
    with unchanged():
        refused(post_bytes(api, path, other, **KEY), 409, "idempotency_conflict", says="use a new key")
        refused(post_bytes(api, path, body + b" ", **KEY), 409, "idempotency_conflict")
    if route != "usage":  # which takes one report for each prompt
        assert post_bytes(api, path, other, **{"idempotency-key": "key-2"}).status_code == 201


def test_an_import_with_other_parameters(api: httpx2.Client) -> None:
    path, body, _ = call_of(api, "import")
    ok(post_bytes(api, path, body, **KEY), 201)
    refused(post_bytes(api, f"{path}?ids=fresh", body, **KEY), 409, "idempotency_conflict")


def test_one_key_on_two_paths(api: httpx2.Client) -> None:
    """A key belongs to a path."""
    threads = [ok(post_bytes(api, "/v1/threads", b"{}", **KEY), 201)["id"] for _ in range(2)]
    assert threads[0] == threads[1]
    ok(post_bytes(api, "/v1/assistants", b"{}", **KEY), 201)
    ok(post_bytes(api, f"/v1/threads/{threads[0]}/fork", b'{"seq": 0}', **KEY), 201)


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_keys_that_are_none(api: httpx2.Client, unchanged: Unchanged, key: str) -> None:
    with unchanged():
        for path, body in (("/v1/threads", b"{}"), ("/v1/import", b'{"type": "thread", "id": "t"}')):
            answer = post_bytes(api, path, body, **{"idempotency-key": key})
            refused(answer, 400, "invalid_header", field="Idempotency-Key", says="1 to 255")


@pytest.mark.parametrize("key", ["k" * 255, "a b/c?d%00", "ключ".encode(), b"\xff"])
def test_odd_keys(api: httpx2.Client, key: Any) -> None:
    first, second = (api.post("/v1/threads", json={}, headers={"idempotency-key": key}) for _ in range(2))
    assert ok(first, 201) == ok(second, 201)


def test_only_posts_are_kept(api: httpx2.Client) -> None:
    thread = new_thread(api, metadata={"k": "1"})
    for words in ("a", "b"):
        patched = api.patch(f"/v1/threads/{thread['id']}", json={"instructions": words}, headers=KEY)
        assert ok(patched)["instructions"] == words


@pytest.mark.parametrize("route", ["threads", "messages", "fork", "prompts", "usage", "import"])
def test_a_failure_leaves_nothing(api: httpx2.Client, unchanged: Unchanged, route: str) -> None:
    """After a 4xx the same key goes with the mended body."""
    path, body, _ = call_of(api, route)
    bad = {
        "threads": b'{"assistant_id": "asst_none"}',
        "messages": b'{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x"}]}',
        "fork": b'{"seq": 99}',
        "prompts": b'{"model": "m", "max_prompt_tokens": 1, "message": {"role": "user", "content": "word word"}}',
        "usage": b'{"usage": {}}',
        "import": b'{"type": "thread", "id": "t1"}\n{"type": "message"}',
    }[route]
    with unchanged():
        assert post_bytes(api, path, bad, **KEY).status_code in (404, 422)
    assert post_bytes(api, path, body, **KEY).status_code in (200, 201)


def test_kept_for_a_day(api: httpx2.Client) -> None:
    now = 1_800_000_000
    first = ok(post_bytes(api, "/v1/threads", b"{}", **KEY, **{"x-memory-now": str(now)}), 201)
    later = ok(post_bytes(api, "/v1/threads", b"{}", **KEY, **{"x-memory-now": str(now + 86_399)}), 201)
    assert later == first
    next_day = ok(
        post_bytes(api, "/v1/threads", b'{"user_id": "u"}', **KEY, **{"x-memory-now": str(now + 86_401)}), 201
    )
    assert next_day["id"] != first["id"]


def test_a_prompt_is_replayed_as_it_was(api: httpx2.Client) -> None:
    """Whatever was reported or appended since."""
    path, body, _ = call_of(api, "prompts")
    first = post_bytes(api, path, body, **KEY)
    prompt = ok(first, 201)
    usage = {"usage": {"input_tokens": 5}, "message": {"content": "reply"}}
    ok(api.post(f"{path}/{prompt['id']}/usage", json=usage))
    assert post_bytes(api, path, body, **KEY).content == first.content
    assert ok(api.get(f"{path}/{prompt['id']}"))["status"] == "sent"


@pytest.mark.parametrize("route", [r for r in ROUTES if r != "search"])
def test_at_the_same_time(api: httpx2.Client, database: psycopg.Connection, route: str) -> None:
    """Eight at once: one effect; who does not get its answer is told to ask again, and then gets it."""
    path, body, _ = call_of(api, route)
    counted = {"threads": "threads", "fork": "threads", "import": "threads", "assistants": "assistants"}
    table = counted.get(route, "messages")

    def count() -> int:
        row = database.execute(f"SELECT count(*) FROM {table}").fetchone()  # type: ignore[arg-type]
        assert row
        return int(row[0])

    async def send_all() -> list[httpx2.Response]:
        headers = {**api.headers, **KEY, "content-type": "application/json"}
        async with httpx2.AsyncClient(base_url=api.base_url, headers=headers, timeout=30) as client:
            return await asyncio.gather(*(client.post(path, content=body) for _ in range(8)))

    before = count()
    answers = asyncio.run(send_all())
    assert count() == before + 1
    good = [answer for answer in answers if answer.status_code in (200, 201)]
    assert good
    assert {answer.content for answer in good} == {good[0].content}
    for answer in answers:
        if answer not in good:
            refused(answer, 409, "idempotency_in_progress", says="send it again")
            assert answer.headers["retry-after"] == "1"
    assert post_bytes(api, path, body, **KEY).content == good[0].content


def test_while_the_first_is_running(api: httpx2.Client, database_url: str) -> None:
    """The first request waits for the thread's row, which the test holds; the second is told at once."""
    path, body, _ = call_of(api, "messages")
    thread = path.split("/")[3]

    async def race() -> list[httpx2.Response]:
        headers = {**api.headers, **KEY, "content-type": "application/json"}
        connection = await psycopg.AsyncConnection.connect(database_url, options="-c search_path=memory,public")
        async with connection, httpx2.AsyncClient(base_url=api.base_url, headers=headers, timeout=30) as client:
            await connection.execute("SELECT 1 FROM threads WHERE id = %s FOR UPDATE", [thread])
            sent = [asyncio.create_task(client.post(path, content=body)) for _ in range(2)]
            done, waiting = await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
            await connection.rollback()
            return [task.result() for task in done] + [await task for task in waiting]

    refusal, first = asyncio.run(race())
    refused(refusal, 409, "idempotency_in_progress")
    ok(first, 201)
    assert len(messages_of(api, thread)) == 3


def test_an_import_reports_the_same_ids_again(api: httpx2.Client) -> None:
    lines = ndjson({"type": "thread", "id": "t1"}, {"type": "message", "role": "user", "content": "a", "id": "m1"})
    ok(import_lines(api, lines), 201)
    first = post_bytes(api, "/v1/import", lines, **KEY)
    assert ok(first, 201)["renamed"].keys() == {"t1", "m1"}
    assert post_bytes(api, "/v1/import", lines, **KEY).content == first.content
