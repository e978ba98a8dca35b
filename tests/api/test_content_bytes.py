"""Content is kept byte for byte: stored, shown, sent to a provider, exported, imported, exported again."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest

from . import anthropic_rules
from .support import MODEL, import_lines, messages_of, ndjson, new_thread, ok, post_bytes, text, tool_result, tool_use

NUMBERS = "[1.10,1e5,1E+5,-0,-0.0,0.1000,12345678901234567890,1234567890123456789,1e400,5e-324,1e-999]"
BLOCK = (
    '{"type":"later_kind","z":1,"a":{"b":'
    + NUMBERS
    + ',"":null,"é":"한국어 😀 \\u2028\\u007f","B":[[],{},true,false]},'
    '"quote":"\\" \\\\ / \\b\\f\\n\\r\\t \\u0001"}'
)
# The same as it is kept: no spaces, only what must be escaped is, and that in one way.
KEPT = BLOCK.replace("\\u2028", "\u2028").replace("\\u007f", "\x7f")
SPACED = (
    BLOCK.replace('"z":1', '\n "z" : 1 ')
    .replace("한국어 😀", "\\ud55c\\uad6d\\uc5b4 \\ud83d\\ude00")
    .replace(" / ", " \\/ ")
)


@pytest.fixture
def thread(api: httpx2.Client) -> dict[str, Any]:
    assistant = ok(api.post("/v1/assistants", json={"name": "a", "tools": [], "defaults": {"recall": False}}), 201)
    created: dict[str, Any] = new_thread(api, assistant_id=assistant["id"], user_id="u", metadata={"k": "v"})
    body = f'{{"role":"user","content":[{{"type":"text","text":"hi"}},{SPACED}]}}'
    path = f"/v1/threads/{created['id']}/messages"
    ok(post_bytes(api, path, body.encode()), 201)
    use = '{"type":"tool_use","id":"t","name":"n","input":{"b":1.10,"a":' + BLOCK + "}}"
    result = '{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"r","x":1e5}]}'
    ok(post_bytes(api, path, f'{{"role":"assistant","content":[{use}]}}'.encode()), 201)
    ok(post_bytes(api, path, f'{{"role":"user","content":[{result}],"metadata":{{"m":"1"}}}}'.encode()), 201)
    return created


def test_a_string_is_one_text_block(api: httpx2.Client) -> None:
    thread = new_thread(api, ("user", "  hi\n"))
    assert messages_of(api, thread["id"])[0]["content"] == [text("  hi\n")]


def test_shown_and_sent(api: httpx2.Client, thread: dict[str, Any]) -> None:
    path = f"/v1/threads/{thread['id']}"
    assert json.loads(BLOCK.replace("1e400", "0")) == json.loads(KEPT.replace("1e400", "0"))
    shown = api.get(f"{path}/messages").text
    assert shown.count(KEPT) == 2
    single = api.get(f"{path}/messages/{messages_of(api, thread['id'])[0]['id']}").text
    assert f'"content":[{{"type":"text","text":"hi"}},{KEPT}]' in single
    built = api.post(f"{path}/prompts", json={"model": MODEL})
    prompt = ok(built, 201)
    anthropic_rules.check(prompt["request"])
    assert built.text.count(KEPT) == 2
    assert '{"type":"text","text":"r","x":1e5}' in built.text
    again = api.get(f"{path}/prompts/{prompt['id']}")
    assert again.text == built.text
    arguments = api.post(f"{path}/prompts", json={"model": "gpt-4o", "provider": "openai"}).json()
    call = next(m for m in arguments["request"]["messages"] if m.get("tool_calls"))["tool_calls"][0]
    assert call["function"]["arguments"] == '{"b":1.10,"a":' + KEPT + "}"


def test_an_edit_keeps_bytes_too(api: httpx2.Client, thread: dict[str, Any]) -> None:
    message = messages_of(api, thread["id"])[0]
    path = f"/v1/threads/{thread['id']}/messages/{message['id']}"
    answer = api.patch(path, content=f'{{"content":[{SPACED}]}}'.encode(), headers={"content-type": "application/json"})
    assert f'"content":[{KEPT}]' in answer.text
    assert api.get(path).text == answer.text


def test_exported_imported_exported(api: httpx2.Client, other_api: httpx2.Client, thread: dict[str, Any]) -> None:
    """Into another project the ids stay, and so does every byte."""
    deleted = messages_of(api, new_thread(api, ("user", "x"))["id"])
    assert deleted
    exported = api.get(f"/v1/threads/{thread['id']}/export")
    assert exported.headers["content-type"].startswith("application/x-ndjson")
    assert exported.text.count(KEPT) == 2
    assert [json.loads(line)["type"] for line in exported.text.split("\n")[:-1]] == ["assistant", "thread"] + [
        "message"
    ] * 3
    report = ok(import_lines(other_api, exported.content), 201)
    counts = {"assistants": 1, "threads": 1, "runs": 0, "messages": 3, "skipped": 0}
    assert report == {"object": "import", **counts, "renamed": {}}
    assert other_api.get(f"/v1/threads/{thread['id']}/export").content == exported.content
    assert messages_of(other_api, thread["id"]) == messages_of(api, thread["id"])


def test_ids_that_are_taken(api: httpx2.Client, thread: dict[str, Any]) -> None:
    """Into the same project everything gets a fresh id, reported, but an assistant that is the same stays one."""
    exported = api.get(f"/v1/threads/{thread['id']}/export").text
    report = ok(import_lines(api, exported.encode()), 201)
    messages = messages_of(api, thread["id"])
    assert report["renamed"].keys() == {thread["id"], *(m["id"] for m in messages)}
    assert (report["assistants"], report["threads"], report["messages"]) == (0, 1, 3)
    renamed = exported
    for old, new in report["renamed"].items():
        renamed = renamed.replace(old, new)
    assert api.get(f"/v1/threads/{report['renamed'][thread['id']]}/export").text == renamed
    assert api.get(f"/v1/threads/{thread['id']}/export").text == exported


def test_fresh_ids(api: httpx2.Client, other_api: httpx2.Client, thread: dict[str, Any]) -> None:
    exported = api.get(f"/v1/threads/{thread['id']}/export")
    report = ok(import_lines(other_api, exported.content, ids="fresh"), 201)
    assert report["renamed"].keys() == {thread["id"], thread["assistant_id"]} | {
        message["id"] for message in messages_of(api, thread["id"])
    }
    copy = ok(other_api.get(f"/v1/threads/{report['renamed'][thread['id']]}"))
    assert copy["assistant_id"] == report["renamed"][thread["assistant_id"]]


def test_an_assistant_that_changed_is_another_one(api: httpx2.Client, thread: dict[str, Any]) -> None:
    exported = api.get(f"/v1/threads/{thread['id']}/export")
    ok(api.patch(f"/v1/assistants/{thread['assistant_id']}", json={"name": "b"}))
    report = ok(import_lines(api, exported.content), 201)
    assert report["assistants"] == 1
    copy = ok(api.get(f"/v1/threads/{report['renamed'][thread['id']]}"))
    assert copy["assistant_id"] == report["renamed"][thread["assistant_id"]]
    assert ok(api.get(f"/v1/assistants/{copy['assistant_id']}"))["name"] == "a"


def test_gaps_stay_gaps(api: httpx2.Client, other_api: httpx2.Client) -> None:
    thread = new_thread(api, *[("user", str(i)) for i in range(5)])
    held = messages_of(api, thread["id"])
    for seq in (1, 3, 5):
        ok(api.delete(f"/v1/threads/{thread['id']}/messages/{held[seq - 1]['id']}"))
    exported = api.get(f"/v1/threads/{thread['id']}/export").content
    ok(import_lines(other_api, exported), 201)
    assert [m["seq"] for m in messages_of(other_api, thread["id"])] == [2, 4]
    assert other_api.get(f"/v1/threads/{thread['id']}/export").content == exported


def test_a_long_thread_in_many_pages(api: httpx2.Client, other_api: httpx2.Client) -> None:
    turns = [message for i in range(600) for message in (("user", f"q{i}"), ("assistant", f"a{i}"))]
    thread = new_thread(api, *turns[:1_000])
    more = [{"role": role, "content": content} for role, content in turns[1_000:]]
    ok(api.post(f"/v1/threads/{thread['id']}/messages", json={"messages": more}), 201)
    exported = api.get(f"/v1/threads/{thread['id']}/export").content
    assert exported.count(b"\n") == 1_201
    assert ok(import_lines(other_api, exported), 201)["messages"] == 1_200
    assert other_api.get(f"/v1/threads/{thread['id']}/export").content == exported


def test_lines_by_hand(api: httpx2.Client) -> None:
    """The least that lines must say; times in other zones; one id twice."""
    lines = ndjson(
        {"type": "thread", "id": "conv-26", "metadata": None, "created_at": "2026-01-01T09:00:00+09:00"},
        {"type": "message", "role": "user", "content": "hi", "id": "D1:1", "created_at": "2026-01-01T00:00:00.5Z"},
        {"type": "message", "role": "assistant", "content": [tool_use("t")], "id": "D1:1", "status": "incomplete"},
        {"type": "message", "role": "user", "content": [tool_result("t")], "seq": 9, "run_id": "run_1"},
    ).replace(b"\n", b"\r\n")
    report = ok(import_lines(api, lines), 201)
    assert report["renamed"].keys() == {"D1:1"}
    thread = ok(api.get("/v1/threads/conv-26"))
    assert (thread["created_at"], thread["message_count"], thread["last_seq"]) == ("2026-01-01T00:00:00Z", 3, 9)
    first, second, third = messages_of(api, "conv-26")
    assert (first["id"], first["seq"], first["created_at"]) == ("D1:1", 1, "2026-01-01T00:00:00.500000Z")
    assert (second["id"], second["seq"], second["status"]) == (report["renamed"]["D1:1"], 2, "incomplete")
    assert (third["seq"], third["run_id"]) == (9, "run_1")
