"""Messages that no provider would take: refused when they are written, with the remedy, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx2
import pytest

from .support import append, import_lines, messages_of, new_thread, ok, refused, text, tool_result, tool_use

Unchanged = Callable[[], AbstractContextManager[None]]


def image(**source: str) -> dict[str, Any]:
    return {"type": "image", "source": source}


def document(**source: Any) -> dict[str, Any]:
    return {"type": "document", "source": source}


# Role, content, the field below `content`, and what the message says.
CONTENTS: list[tuple[str, Any, str, str]] = [
    ("user", "", "[0].text", "is empty"),
    ("user", " \n\t", "[0].text", "is empty"),
    ("user", [], "", "send at least one content block"),
    ("user", [text("")], "[0].text", "leave the block out"),
    ("user", [text("a"), text(" ")], "[1].text", "is empty"),
    ("user", [{"type": "text"}], "[0].text", "must be a string"),
    ("user", [{"type": "text", "text": 1}], "[0].text", "must be a string"),
    ("user", [{"text": "a"}], "[0].type", "must be a string"),
    ("user", [{"type": ""}], "[0].type", "must be a string"),
    ("user", [{"type": 1}], "[0].type", "must be a string"),
    ("user", [{"type": "image"}], "[0].source", "with a `type`"),
    ("user", [{"type": "image", "source": {}}], "[0].source", "with a `type`"),
    ("user", [{"type": "document", "source": "x"}], "[0].source", "with a `type`"),
    ("user", [image(type="base64", media_type="image/png")], "[0].source.data", "non-empty string"),
    ("user", [image(type="base64", media_type="image/png", data="AA?AA")], "[0].source.data", "must be base64"),
    ("user", [image(type="base64", media_type="image/png", data="iVBORw0KGgo")], "[0].source.data", "padded"),
    (
        "user",
        [image(type="base64", media_type="image/png", data="data:image/png;base64,AAAA")],
        "[0].source.data",
        "pre",
    ),
    ("user", [image(type="base64", media_type="image/tiff", data="AAAA")], "[0].source.media_type", "or image/webp"),
    ("user", [image(type="base64", data="AAAA")], "[0].source.media_type", "image/jpeg or"),
    (
        "user",
        [image(type="base64", media_type="image/jpeg", data="iVBORw0KGgo=")],
        "[0].source.media_type",
        "is image/png",
    ),
    (
        "user",
        [image(type="base64", media_type="image/png", data="JVBERi0=")],
        "[0].source.media_type",
        "is application/pdf",
    ),
    ("user", [document(type="text", media_type="text/plain", data=" \n")], "[0].source.data", "is blank"),
    ("user", [image(type="url")], "[0].source.url", "non-empty string"),
    ("user", [image(type="url", url="data:image/png;base64,AAAA")], "[0].source.url", "base64 source"),
    ("user", [image(type="file", file_id="")], "[0].source.file_id", "non-empty string"),
    ("user", [image(type="text", data="x")], "[0].source.type", "is not one of base64, url, file"),
    (
        "user",
        [document(type="base64", media_type="image/png", data="AAAA")],
        "[0].source.media_type",
        "application/pdf",
    ),
    ("user", [document(type="text", media_type="text/html", data="x")], "[0].source.media_type", "text/plain"),
    ("user", [document(type="text", media_type="text/plain")], "[0].source.data", "non-empty string"),
    ("user", [document(type="content", content=[])], "[0].source.content", "list of content blocks"),
    ("user", [document(type="web")], "[0].source.type", "is not one of"),
    ("user", [{"type": "image_url", "image_url": {"url": "https://x"}}], "[0].type", '{"type": "image", "source"'),
    ("user", [{"type": "input_image", "image_url": "https://x"}], "[0].type", '{"type": "image", "source"'),
    ("user", [{"type": "input_text", "text": "x"}], "[0].type", '{"type": "text"'),
    ("user", [{"type": "input_file", "file_id": "x"}], "[0].type", '{"type": "document"'),
    ("user", [{"type": "file", "file": {"file_id": "x"}}], "[0].type", '{"type": "document"'),
    ("user", [{"type": "input_audio", "input_audio": {}}], "[0].type", "no blocks for sound"),
    ("assistant", [{"type": "output_text", "text": "x"}], "[0].type", '{"type": "text"'),
    ("assistant", [{"type": "function_call", "name": "x"}], "[0].type", '{"type": "tool_use"'),
    ("user", [{"type": "function_call_output", "output": "x"}], "[0].type", '{"type": "tool_result"'),
    ("user", [tool_result("open", [image(type="url")])], "[0].content[0].source.url", "non-empty string"),
    ("user", [tool_result("open", [{"type": "image_url"}])], "[0].content[0].type", "is OpenAI's"),
    ("user", [tool_use("a")], "[0]", "belong in assistant messages"),
    ("user", [{"type": "thinking", "thinking": "x"}], "[0]", "belong in assistant messages"),
    ("user", [{"type": "redacted_thinking", "data": "x"}], "[0]", "belong in assistant messages"),
    ("assistant", [tool_result("a")], "[0]", "belong in user messages"),
    ("assistant", [{"type": "thinking"}], "[0].thinking", "must be a string"),
    ("assistant", [{"type": "tool_use", "name": "n", "input": {}}], "[0].id", "must be a string"),
    ("assistant", [tool_use("")], "[0].id", "1 to 256"),
    ("assistant", [tool_use("i" * 257)], "[0].id", "1 to 256"),
    ("assistant", [{"type": "tool_use", "id": "i", "input": {}}], "[0].name", "must be a string"),
    ("assistant", [{"type": "tool_use", "id": "i", "name": "", "input": {}}], "[0].name", "must be a string"),
    ("assistant", [{"type": "tool_use", "id": "i", "name": "n"}], "[0].input", "send {} for no arguments"),
    ("assistant", [{"type": "tool_use", "id": "i", "name": "n", "input": "{}"}], "[0].input", "must be an object"),
    ("user", [{"type": "tool_result"}], "[0].tool_use_id", "must be a string"),
    ("user", [tool_result("")], "[0].tool_use_id", "1 to 256"),
    ("user", [tool_result("open", None)], "[0].content", "string or a list"),
    ("user", [tool_result("open", {})], "[0].content", "string or a list"),
    ("user", [tool_result("open", ["x"])], "[0].content[0]", "with a `type`"),
    ("user", [tool_result("open", [text("")])], "[0].content[0].text", "is empty"),
    ("user", [tool_result("open", [{"type": "image"}])], "[0].content[0].source", "with a `type`"),
]


@pytest.mark.parametrize(("role", "content", "below", "says"), CONTENTS)
def test_content(api: httpx2.Client, unchanged: Unchanged, role: str, content: Any, below: str, says: str) -> None:
    """On every way in: appended, in a list, in a new thread, as an edit, and in an import."""
    thread = new_thread(api, ("user", "hello"), ("assistant", [tool_use("open")]))
    path = f"/v1/threads/{thread['id']}/messages"
    held = {m["role"]: m["id"] for m in ok(api.get(path))["data"]}
    bad = {"role": role, "content": content}
    fine = {"role": role, "content": "fine"}
    with unchanged():
        refused(api.post(path, json=bad), 422, "invalid_message", field=f"content{below}", says=says)
        many = api.post(path, json={"messages": [fine, bad]})
        refused(many, 422, "invalid_message", field=f"messages[1].content{below}", says=says)
        created = api.post("/v1/threads", json={"messages": [bad]})
        refused(created, 422, "invalid_message", field=f"messages[0].content{below}", says=says)
        edited = api.patch(f"{path}/{held[role]}", json={"content": content})
        refused(edited, 422, "invalid_message", field=f"content{below}", says=says)
        lines = [{"type": "thread", "id": "t"}, {"type": "message", **fine}, {"type": "message", **bad}]
        error = refused(import_lines(api, lines), 422, "invalid_message", field=f"content{below}", says=says)
        assert error["details"]["line"] == 3


def test_media_that_providers_take(api: httpx2.Client) -> None:
    blocks = [
        *(image(type="base64", media_type=f"image/{kind}", data="AAAA") for kind in ("png", "jpeg", "gif", "webp")),
        image(type="url", url="https://example.com/a.png"),
        image(type="file", file_id="file_1"),
        document(type="base64", media_type="application/pdf", data="AAA="),
        document(type="text", media_type="text/plain", data="x"),
        document(type="content", content="x"),
        document(type="content", content=[text("x")]),
        document(type="url", url="https://example.com/a.pdf"),
        document(type="file", file_id="file_1"),
        {"type": "a_later_one", "source": {"type": "anything"}},
    ]
    thread = new_thread(api, ("user", blocks))
    assert messages_of(api, thread["id"])[0]["content"] == blocks


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({}, "body", "In the body, send `role` and `content`, or `messages`."),
        ({"role": "user"}, "body", "send `role` and `content`"),
        ({"content": "x"}, "body", "send `role` and `content`"),
        ({"role": "system", "content": "x"}, "role", "goes into the `instructions` of the thread"),
        ({"role": "tool", "content": "x", "tool_call_id": "c"}, "role", "a user message whose content is [{"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", '"type": "tool_result"'),
        ({"role": "assistant", "content": "x", "tool_calls": []}, "tool_calls", "report the reply"),
        ({"role": None, "content": "x"}, "body", "send `role`"),
        ({"role": ["user"], "content": "x"}, "role", "'user' or 'assistant'"),
        ({"role": "user", "content": 1}, "content", "a string or a list of content blocks"),
        ({"role": "user", "content": {"type": "text", "text": "x"}}, "content", "a string or a list"),
        ({"role": "user", "content": ["x"]}, "content[0]", "must be an object"),
        ({"role": "user", "content": "x", "name": "n"}, "name", "check its spelling"),
        ({"role": "user", "content": "x", "metadata": {"k": None}}, "metadata.k", "string"),
        ({"role": "user", "content": "x", "messages": []}, "messages", "at least 1"),
        ({"messages": []}, "messages", "at least 1 entry."),
        ({"messages": [1]}, "messages[0]", "must be an object"),
        ({"messages": [{"role": "user", "content": "x"}], "role": "user"}, "body", "not both"),
        ({"messages": [{"role": "user", "content": "x"}], "metadata": {}}, "body", "not both"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "bot", "content": "x"}]},
            "messages[1].role",
            "'user'",
        ),
        ({"messages": [{"role": "user", "content": "x"}] * 1_001}, "messages", "at most 1000"),
    ],
)
def test_messages(api: httpx2.Client, unchanged: Unchanged, body: dict[str, Any], field: str, says: str) -> None:
    thread = new_thread(api, ("user", "hello"))
    with unchanged():
        answer = api.post(f"/v1/threads/{thread['id']}/messages", json=body)
        refused(answer, 422, "invalid_request", field=field, says=says)


@pytest.mark.parametrize(
    "body", [{"content": None}, {"role": "user"}, {"content": 5}, {"seq": 4}, {"metadata": {"k": 5}}]
)
def test_edits(api: httpx2.Client, unchanged: Unchanged, body: dict[str, Any]) -> None:
    thread = new_thread(api)
    message = append(api, thread["id"], "user", "hello")
    with unchanged():
        refused(api.patch(f"/v1/threads/{thread['id']}/messages/{message['id']}", json=body), 422, "invalid_request")


CALLS = ("assistant", [tool_use("a"), tool_use("b")])
# What the thread holds, what comes, the code, and what the message says.
PAIRS: list[tuple[list[tuple[str, Any]], tuple[str, Any], str, str]] = [
    ([], ("user", [tool_result("a")]), "orphaned_tool_result", "(open: none)"),
    ([CALLS], ("user", [tool_result("c")]), "orphaned_tool_result", "(open: 'a', 'b')"),
    ([CALLS, ("user", "never mind")], ("user", [tool_result("a")]), "orphaned_tool_result", "Append the assistant"),
    ([CALLS, ("user", [tool_result("a")])], ("user", [tool_result("a")]), "orphaned_tool_result", "(open: 'b')"),
    ([CALLS], ("user", [tool_result("a"), tool_result("a")]), "duplicate_tool_result", "answers tool_use 'a' twice"),
    ([CALLS], ("user", [text("so:"), tool_result("a")]), "invalid_message", "put all tool_result blocks first"),
    ([CALLS], ("user", [tool_result("a"), text("so:"), tool_result("b")]), "invalid_message", "blocks first"),
    ([], ("assistant", [tool_use("a"), tool_use("a")]), "duplicate_tool_use", "an id of its own"),
    ([CALLS], ("assistant", [tool_use("a")]), "duplicate_tool_use", "an id of its own"),
    (
        [CALLS, ("user", [tool_result("a"), tool_result("b")])],
        ("assistant", [tool_use("a")]),
        "duplicate_tool_use",
        "an id of its own",
    ),
]


@pytest.mark.parametrize(("held", "bad", "code", "says"), PAIRS)
def test_tool_pairs(
    api: httpx2.Client,
    unchanged: Unchanged,
    held: list[tuple[str, Any]],
    bad: tuple[str, Any],
    code: str,
    says: str,
) -> None:
    start = [("user", "hello"), *held]
    thread = new_thread(api, *start)
    role, content = bad
    all_messages = [{"role": r, "content": c} for r, c in [*start, bad]]
    with unchanged():
        answer = api.post(f"/v1/threads/{thread['id']}/messages", json={"role": role, "content": content})
        refused(answer, 422, code, says=says)
        refused(api.post("/v1/threads", json={"messages": all_messages}), 422, code, says=says)
        lines = [{"type": "thread", "id": "t"}, *({"type": "message", **m} for m in all_messages)]
        error = refused(import_lines(api, lines), 422, code, says=says)
        assert error["details"]["line"] == len(lines)
        if role == "user":
            prompt = {"model": "m", "message": {"role": role, "content": content}}
            refused(api.post(f"/v1/threads/{thread['id']}/prompts", json=prompt), 422, code, says=says)


def test_edits_and_deletions_that_break_pairs(api: httpx2.Client, unchanged: Unchanged) -> None:
    """Whatever loses its partner is named; the partner may go first."""
    thread = new_thread(
        api,
        ("user", "hello"),
        ("assistant", [tool_use("a")]),
        ("user", [tool_result("a")]),
        ("assistant", [tool_use("b")]),
        ("user", [tool_result("b")]),
    )
    path = f"/v1/threads/{thread['id']}/messages"
    _, call, result, second, _ = ok(api.get(path))["data"]
    with unchanged():
        for answer in (
            api.delete(f"{path}/{call['id']}"),
            api.patch(f"{path}/{call['id']}", json={"content": "no call"}),
            api.patch(f"{path}/{call['id']}", json={"content": [tool_use("other")]}),
        ):
            error = refused(answer, 422, "tool_pair_broken", says="(seq 3)")
            assert "Change or delete that message first" in error["message"]
            assert "Append" not in error["message"]
            assert error["details"]["message_id"] == result["id"]
        repeated = api.patch(f"{path}/{second['id']}", json={"content": [tool_use("a")]})
        refused(repeated, 422, "duplicate_tool_use")
        orphan = api.patch(f"{path}/{result['id']}", json={"content": [tool_result("zzz")]})
        refused(orphan, 422, "tool_pair_broken", says="answers no open tool_use")
    ok(api.delete(f"{path}/{result['id']}"))
    ok(api.delete(f"{path}/{call['id']}"))
    assert [m["seq"] for m in ok(api.get(path))["data"]] == [1, 4, 5]
