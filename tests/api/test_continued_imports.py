"""`ids=continue`: what an import was interrupted at is gone on with; nothing is lost, doubled or overwritten."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx2
import pytest

from .support import append, import_lines, messages_of, ndjson, new_thread, ok, refused, text, tool_result, tool_use

Unchanged = Callable[[], AbstractContextManager[None]]
TIME = "2026-01-01T00:00:00Z"
THREAD = {"type": "thread", "id": "thread_a", "created_at": TIME}
OTHER = {"type": "thread", "id": "thread_b", "created_at": TIME}


def said(number: int, content: Any = None, **fields: Any) -> dict[str, Any]:
    role = "user" if number % 2 else "assistant"
    line = {
        "type": "message",
        "role": role,
        "content": content or f"number {number}",
        "id": f"msg_{number}",
        "created_at": TIME,
    }
    return {**line, **fields}


LINES = [
    {"type": "assistant", "id": "asst_a", "name": "a", "created_at": TIME},
    {**THREAD, "assistant_id": "asst_a"},
    said(1),
    said(2, [tool_use("call")]),
    said(3, [tool_result("call")]),
    said(4),
    OTHER,
    said(5),
    said(6),
]


def exported(api: httpx2.Client) -> bytes:
    return b"".join(api.get(f"/v1/threads/{id_}/export").content for id_ in ("thread_a", "thread_b"))


def go_on(api: httpx2.Client, lines: Any) -> Any:
    return ok(import_lines(api, lines, ids="continue"), 201)


@pytest.mark.parametrize("cut", range(1, len(LINES) + 1))
def test_cut_anywhere(api: httpx2.Client, other_api: httpx2.Client, cut: int) -> None:
    """Between a tool call and its result too."""
    ok(import_lines(other_api, LINES), 201)
    first = go_on(api, LINES[:cut])
    second = go_on(api, LINES)
    assert first["skipped"] == 0
    assert second["skipped"] == first["messages"]
    assert first["renamed"] == second["renamed"] == {}
    for kind, count in (("assistants", 1), ("threads", 2), ("messages", 6)):
        assert first[kind] + second[kind] == count
    assert exported(api) == exported(other_api)
    assert ok(api.get("/v1/threads/thread_a"))["message_count"] == 4


def test_what_changed_here_stays(api: httpx2.Client) -> None:
    go_on(api, LINES[:-1])
    ok(api.patch("/v1/threads/thread_b/messages/msg_5", json={"content": "edited"}))
    ok(api.delete("/v1/threads/thread_a/messages/msg_4"))
    ok(api.patch("/v1/threads/thread_a", json={"user_id": "mina"}))
    ok(api.patch("/v1/assistants/asst_a", json={"name": "renamed"}))
    report = go_on(api, LINES)
    assert (report["assistants"], report["threads"], report["messages"], report["skipped"]) == (0, 0, 1, 5)
    assert [message["id"] for message in messages_of(api, "thread_a")] == ["msg_1", "msg_2", "msg_3"]
    assert messages_of(api, "thread_b")[0]["content"] == [text("edited")]
    assert ok(api.get("/v1/threads/thread_a"))["user_id"] == "mina"


def test_a_thread_that_went_on_here(api: httpx2.Client, unchanged: Unchanged) -> None:
    """Two stories of one thread are not mixed."""
    go_on(api, LINES[:-1])
    append(api, "thread_b", "assistant", "another story")
    with unchanged():
        error = refused(import_lines(api, LINES, ids="continue"), 422, "thread_diverged", field="seq")
    assert error["details"]["line"] == len(LINES)
    assert go_on(api, LINES[:-1])["skipped"] == 5


def test_a_message_of_another_thread(api: httpx2.Client, unchanged: Unchanged) -> None:
    new_thread(api)
    go_on(api, [THREAD, said(1)])
    with unchanged():
        error = refused(import_lines(api, [OTHER, said(2), said(1)], ids="continue"), 422, "id_taken", field="id")
    assert error["details"]["line"] == 3
    with unchanged():
        refused(import_lines(api, [OTHER, said(2), said(3), said(2)], ids="continue"), 422, "id_taken", field="id")


def test_messages_without_ids(api: httpx2.Client) -> None:
    """They are known by what they say."""
    lines = [{**THREAD}, *({**said(number), "id": None} for number in (1, 2, 3))]
    assert go_on(api, lines[:3])["messages"] == 2
    assert go_on(api, lines)["skipped"] == 2
    changed = [*lines[:2], {**lines[2], "content": "another"}]
    refused(import_lines(api, changed, ids="continue"), 422, "thread_diverged", field="seq")


def test_one_thread_twice_in_a_file(api: httpx2.Client) -> None:
    report = go_on(api, [THREAD, said(1), OTHER, said(3), THREAD, said(1), said(2)])
    assert (report["threads"], report["messages"], report["skipped"]) == (2, 3, 1)
    assert [message["id"] for message in messages_of(api, "thread_a")] == ["msg_1", "msg_2"]


def test_more_threads_than_a_part_holds(api: httpx2.Client, other_api: httpx2.Client) -> None:
    """Threads of one message, and one that lies across two parts."""
    lines: list[Any] = []
    for number in range(1, 1_400, 2):
        lines += [{**THREAD, "id": f"thread_{number}"}, said(number)]
    lines += [OTHER, *(said(number) for number in range(2_001, 3_001))]
    assert ok(import_lines(other_api, lines), 201)["messages"] == 1_700
    assert go_on(api, lines[:1_234])["messages"] == 617
    report = go_on(api, ndjson(*lines))
    assert (report["messages"], report["skipped"]) == (1_083, 617)
    path = "/v1/threads/thread_b/export"
    assert api.get(path).content == other_api.get(path).content
    assert ok(api.get("/v1/threads/thread_b"))["last_seq"] == 1_000
    hits = ok(api.get("/v1/threads/thread_b/search", params={"q": "2999"}))
    assert hits["data"][0]["message_id"] == "msg_2999"
