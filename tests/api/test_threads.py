"""Threads and assistants: made, read, changed, listed, copied, deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import psycopg
import pytest

from . import anthropic_rules
from .support import TOOL, append, build, messages_of, new_thread, ok, refused, text, tool_result, tool_use

FIELDS: dict[str, Any] = {
    "user_id": "user/é 한 😀",
    "instructions": "Be kind.",
    "tools": [TOOL],
    "documents": [{"text": "Opening hours: 9–17", "title": "Hours"}],
    "metadata": {"k": "v", "빈 값": ""},
    "truncation_strategy": {"type": "last_messages", "last_messages": 4},
}
EMPTY = {
    "user_id": None,
    "assistant_id": None,
    "instructions": None,
    "tools": None,
    "documents": None,
    "metadata": {},
    "truncation_strategy": None,
}


def test_a_thread_says_what_it_was_given(api: httpx2.Client) -> None:
    assistant = ok(api.post("/v1/assistants", json={}), 201)
    thread = new_thread(api, ("user", "hi"), ("assistant", "hello"), assistant_id=assistant["id"], **FIELDS)
    assert thread == {
        "id": thread["id"],
        "object": "thread",
        "created_at": thread["created_at"],
        "assistant_id": assistant["id"],
        **FIELDS,
        "message_count": 2,
        "last_seq": 2,
        "pending_embeddings": 0,
        "active_run_id": None,
    }
    assert thread["id"].startswith("thread_")
    assert thread["created_at"].endswith("Z")
    assert ok(api.get(f"/v1/threads/{thread['id']}")) == thread


def test_an_empty_thread(api: httpx2.Client) -> None:
    for body in (None, {}, EMPTY | {"messages": []}):
        thread = ok(api.post("/v1/threads", json=body), 201)
        assert {key: thread[key] for key in EMPTY} == EMPTY
        assert (thread["message_count"], thread["last_seq"]) == (0, 0)
        assert messages_of(api, thread["id"]) == []


def test_cache_control_is_left_out(api: httpx2.Client) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
    document = {"type": "document", "source": {"type": "content", "content": [{**text("page"), **mark}]}}
    arguments = tool_use("a", cache_control={"kept": True})
    thread = new_thread(
        api,
        ("user", [{**text("hi"), **mark}, {**document, **mark}]),
        ("assistant", [{**arguments, **mark}]),
        ("user", [{**tool_result("a", [{**text("found"), **mark}, {**image, **mark}]), **mark}]),
        tools=[{**TOOL, **mark}],
    )
    assert thread["tools"] == [TOOL]
    contents = [message["content"] for message in messages_of(api, thread["id"])]
    document["source"] = {"type": "content", "content": [text("page")]}
    assert contents == [[text("hi"), document], [arguments], [tool_result("a", [text("found"), image])]]
    anthropic_rules.check(ok(build(api, thread["id"]), 201)["request"])


def test_patch_sets_what_is_given_and_null_clears(api: httpx2.Client) -> None:
    thread = new_thread(api, ("user", "hi"), **FIELDS)
    path = f"/v1/threads/{thread['id']}"
    assert ok(api.patch(path, json={})) == thread
    one = ok(api.patch(path, json={"instructions": "Be brief."}))
    assert one == {**thread, "instructions": "Be brief."}
    for name in ("user_id", "instructions", "tools", "documents", "truncation_strategy"):
        cleared = ok(api.patch(path, json={name: None}))
        assert cleared == {**one, name: None}
        one = cleared
    assert ok(api.get(path)) == one
    back = ok(api.patch(path, json={k: v for k, v in FIELDS.items() if k != "metadata"}))
    assert back == thread


def test_patch_merges_metadata(api: httpx2.Client) -> None:
    thread = new_thread(api, metadata={"a": "1", "b": "2"})
    message = append(api, thread["id"], "user", "hi")
    assistant = ok(api.post("/v1/assistants", json={"metadata": {"a": "1", "b": "2"}}), 201)
    path = f"/v1/threads/{thread['id']}"
    ok(api.patch(f"{path}/messages/{message['id']}", json={"metadata": {"a": "1", "b": "2"}}))
    for where in (path, f"{path}/messages/{message['id']}", f"/v1/assistants/{assistant['id']}"):
        changed = ok(api.patch(where, json={"metadata": {"a": None, "b": "3", "c": "4", "absent": None}}))
        assert changed["metadata"] == {"b": "3", "c": "4"}
        assert ok(api.patch(where, json={"metadata": {}}))["metadata"] == {"b": "3", "c": "4"}
        assert ok(api.get(where))["metadata"] == {"b": "3", "c": "4"}


def test_assistants(api: httpx2.Client) -> None:
    fields: dict[str, Any] = {
        "name": "Support",
        "model": "claude-sonnet-5",
        "provider": "anthropic",
        "instructions": "Help.",
        "tools": [TOOL],
        "documents": [{"text": "x", "title": None}],
        "defaults": {"max_prompt_tokens": 9_000, "recall": False, "truncation_strategy": {"type": "sliding"}},
        "metadata": {"team": "a"},
    }
    assistant = ok(api.post("/v1/assistants", json=fields), 201)
    assert assistant == {"id": assistant["id"], "object": "assistant", "created_at": assistant["created_at"], **fields}
    path = f"/v1/assistants/{assistant['id']}"
    assert ok(api.get(path)) == assistant
    cleared = ok(api.patch(path, json=dict.fromkeys([k for k in fields if k != "metadata"])))
    assert cleared == {**assistant, **dict.fromkeys([k for k in fields if k != "metadata"])}
    assert ok(api.delete(path)) == {"id": assistant["id"], "object": "assistant.deleted", "deleted": True}
    refused(api.get(path), 404, "not_found")
    refused(api.delete(path), 404, "not_found")


def test_an_assistant_in_use_stays(api: httpx2.Client) -> None:
    assistant = ok(api.post("/v1/assistants", json={"model": "claude-sonnet-5"}), 201)
    thread = new_thread(api, ("user", "hi"), assistant_id=assistant["id"])
    path = f"/v1/assistants/{assistant['id']}"
    error = refused(api.delete(path), 409, "assistant_in_use", says="give them another assistant_id, or null")
    assert thread["id"] in error["message"]
    ok(api.patch(f"/v1/threads/{thread['id']}", json={"assistant_id": None}))
    ok(api.delete(path))
    refused(api.patch(f"/v1/threads/{thread['id']}", json={"assistant_id": assistant["id"]}), 404, "not_found")


def test_an_assistant_that_is_being_deleted(api: httpx2.Client, database_url: str) -> None:
    """Who wants to use it waits for the deletion, and then knows; no thread is left with an assistant that is gone."""
    assistant = ok(api.post("/v1/assistants", json={}), 201)["id"]
    thread = new_thread(api)["id"]
    use = {"assistant_id": assistant}
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"

    async def race() -> list[httpx2.Response]:
        connection = await psycopg.AsyncConnection.connect(database_url, options="-c search_path=memory,public")
        async with connection, httpx2.AsyncClient(base_url=api.base_url, headers=api.headers, timeout=30) as client:
            await connection.execute("DELETE FROM assistants WHERE id = %s", [assistant])
            calls = [client.post("/v1/threads", json=use), client.patch(f"/v1/threads/{thread}", json=use)]
            sent = [asyncio.create_task(call) for call in calls]
            while not any(task.done() for task in sent):
                if (await (await connection.execute(waiting)).fetchone()) == (len(sent),):
                    break
                await asyncio.wait(sent, timeout=0.01)
            await connection.commit()
            return [await task for task in sent]

    for answer in asyncio.run(race()):
        refused(answer, 404, "not_found", field="assistant_id")


def test_a_thread_takes_all_that_is_its_own_along(api: httpx2.Client, rows: Callable[[], dict[str, list[str]]]) -> None:
    headers = {"idempotency-key": "k"}
    body = {"instructions": "INSTRUCTED", "messages": [{"role": "user", "content": "SAID"}]}
    thread = ok(api.post("/v1/threads", json=body, headers=headers), 201)
    path = f"/v1/threads/{thread['id']}"
    ok(api.post(f"{path}/messages", json={"role": "user", "content": "SAID too"}, headers=headers), 201)
    fork = ok(api.post(f"{path}/fork", json={"seq": 1}, headers=headers), 201)
    prompt = ok(api.post(f"{path}/prompts", json={"model": "m"}, headers=headers), 201)
    ok(api.post(f"{path}/prompts/{prompt['id']}/usage", json={"usage": {"input_tokens": 9}}, headers=headers))
    ok(api.patch(f"{path}/messages/{messages_of(api, thread['id'])[0]['id']}", json={"content": "SAID anew"}))
    assert ok(api.delete(path)) == {"id": thread["id"], "object": "thread.deleted", "deleted": True}
    for answer in (api.get(path), api.delete(path), api.get(f"{path}/messages"), api.get(f"{path}/export")):
        refused(answer, 404, "not_found")
    ok(api.delete(f"/v1/threads/{fork['id']}"))
    left = {table: found for table, found in rows().items() if found}
    assert left.keys() <= {"api_keys", "idempotency_records", "token_estimates", "usage_entries"}
    assert thread["id"] not in str(left["usage_entries"]), "what it cost stays, not what for"
    assert "SAID" not in str(left)
    assert "INSTRUCTED" not in str(left)


def test_filters(api: httpx2.Client) -> None:
    threads = {
        name: new_thread(api, user_id=user, metadata=metadata)["id"]
        for name, user, metadata in (
            ("a", "u1", {"k": "1", "l": "x"}),
            ("b", "u1", {"k": "2"}),
            ("c", "u2", {"k": "1"}),
            ("d", None, {}),
            ("e", "u1", {"odd [key] = &": "%_'\"\\"}),
        )
    }

    def found(**params: str) -> list[str]:
        by_id = {id_: name for name, id_ in threads.items()}
        return [by_id[thread["id"]] for thread in ok(api.get("/v1/threads", params=params))["data"]]

    assert found() == ["e", "d", "c", "b", "a"]
    assert found(user_id="u1") == ["e", "b", "a"]
    assert found(user_id="u1", order="asc", limit="1", after=threads["a"]) == ["b"]
    assert found(user_id="U1") == []
    assert found(**{"metadata[k]": "1"}) == ["c", "a"]
    assert found(**{"metadata[k]": "1", "metadata[l]": "x"}) == ["a"]
    assert found(**{"metadata[k]": "1", "user_id": "u2"}) == ["c"]
    assert found(**{"metadata[odd [key] = &]": "%_'\"\\"}) == ["e"]
    assert found(**{"metadata[k]": "1", "after": threads["c"]}) == ["a"]
    refused(api.get("/v1/threads", params={"metadata[k]": "1", "after": threads["b"]}), 422, field="after")


@pytest.mark.parametrize("seq", range(8))
def test_fork(api: httpx2.Client, seq: int) -> None:
    """At every place of a history with a tool loop and a deleted message."""
    history: list[tuple[str, Any]] = [
        ("user", "one"),
        ("assistant", [{"type": "thinking", "thinking": "hm", "signature": "s"}, tool_use("a"), tool_use("b")]),
        ("user", [tool_result("a")]),
        ("user", [tool_result("b"), text("both")]),
        ("assistant", "done"),
        ("user", "two"),
        ("assistant", "bye"),
    ]
    source = new_thread(api, *history, **FIELDS)
    held = messages_of(api, source["id"])
    ok(api.delete(f"/v1/threads/{source['id']}/messages/{held[4]['id']}"))
    held = messages_of(api, source["id"])
    copy = ok(api.post(f"/v1/threads/{source['id']}/fork", json={"seq": seq}), 201)
    copied = messages_of(api, copy["id"])
    kept = [message for message in held if message["seq"] <= seq]
    own = ("id", "thread_id")
    assert [{k: v for k, v in m.items() if k not in own} for m in copied] == [
        {k: v for k, v in m.items() if k not in own} for m in kept
    ]
    assert not {m["id"] for m in copied} & {m["id"] for m in kept}
    assert {key: copy[key] for key in FIELDS} == FIELDS
    assert copy["message_count"] == len(kept)
    assert _found(api, copy) == {at for at in _found(api, source) if at <= seq}
    assert ok(api.get(f"/v1/threads/{source['id']}"))["message_count"] == len(held)
    # The copy goes on where the history ends, open tool calls included.
    if seq == 2:
        append(api, copy["id"], "user", [tool_result("a"), tool_result("b")])
    elif seq == 3:
        append(api, copy["id"], "user", [tool_result("b")])
    else:
        append(api, copy["id"], "user", "and now?")
    anthropic_rules.check(ok(build(api, copy["id"]), 201)["request"])


def _found(api: httpx2.Client, thread: dict[str, Any]) -> set[int]:
    hits = ok(api.get(f"/v1/threads/{thread['id']}/search", params={"q": "two both bye"}))["data"]
    return {hit["seq"] for hit in hits if hit["why"]["words"]}


def test_a_fork_with_fields_of_its_own(api: httpx2.Client) -> None:
    assistant = ok(api.post("/v1/assistants", json={"name": "a"}), 201)["id"]
    source = new_thread(api, ("user", "hi"), user_id="u", instructions="Be brief.", metadata={"k": "v"})
    own = {"user_id": "w", "instructions": None, "assistant_id": assistant, "metadata": {"l": "w"}}
    copy = ok(api.post(f"/v1/threads/{source['id']}/fork", json={"seq": 1, **own}), 201)
    assert {name: copy[name] for name in own} == own
    assert copy["message_count"] == 1
    plain = ok(api.post(f"/v1/threads/{source['id']}/fork", json={"seq": 1}), 201)
    assert (plain["user_id"], plain["instructions"], plain["metadata"]) == ("u", "Be brief.", {"k": "v"})
    missing = api.post(f"/v1/threads/{source['id']}/fork", json={"seq": 1, "assistant_id": "asst_unknown"})
    refused(missing, 404, "not_found")


def test_a_fork_and_its_source_part_ways(api: httpx2.Client) -> None:
    source = new_thread(api, ("user", "one"), ("assistant", "two"))
    copy = ok(api.post(f"/v1/threads/{source['id']}/fork", json={"seq": 2}), 201)
    ok(
        api.patch(
            f"/v1/threads/{source['id']}/messages/{messages_of(api, source['id'])[0]['id']}", json={"content": "x"}
        )
    )
    ok(api.delete(f"/v1/threads/{source['id']}"))
    assert [m["content"] for m in messages_of(api, copy["id"])] == [[text("one")], [text("two")]]
