"""Threads as people leave them: each gives a request that providers accept, or a 422 that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx2
import pytest

from . import anthropic_rules, openai_rules
from .support import build, messages_of, new_thread, ok, refused, text, tool_result, tool_use

Unchanged = Callable[[], AbstractContextManager[None]]
History = list[tuple[str, Any]]
THINKING = {"type": "thinking", "thinking": "hm", "signature": "s"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a page"}}

FINE: dict[str, History] = {
    "one message": [("user", "hi")],
    "the assistant greets": [("assistant", "welcome"), ("user", "hi")],
    "only greetings before": [("assistant", "welcome"), ("assistant", "well?"), ("user", "hi"), ("user", "hello?")],
    "two of a role": [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d"), ("user", "e")],
    "a call nobody answered": [("user", "a"), ("assistant", [tool_use("t")]), ("user", "never mind")],
    "calls, one answered with words": [
        ("user", "a"),
        ("assistant", [tool_use("t"), tool_use("u")]),
        ("user", [tool_result("u"), text("that is all")]),
    ],
    "calls, one answered, then words": [
        ("user", "a"),
        ("assistant", [tool_use("t"), tool_use("u")]),
        ("user", [tool_result("u")]),
        ("user", "that is all"),
    ],
    "answers in two messages": [
        ("user", "a"),
        ("assistant", [tool_use("t"), tool_use("u")]),
        ("user", [tool_result("u")]),
        ("user", [tool_result("t")]),
    ],
    "calls in two messages": [
        ("user", "a"),
        ("assistant", [tool_use("t")]),
        ("assistant", [text("and"), tool_use("u")]),
        ("user", [tool_result("t"), tool_result("u")]),
    ],
    "the assistant goes on without an answer": [
        ("user", "a"),
        ("assistant", [tool_use("t")]),
        ("assistant", "I could not look."),
        ("user", "so?"),
    ],
    "a greeting that calls": [("assistant", [tool_use("t")]), ("user", [tool_result("t")])],
    "a greeting that calls in vain": [("assistant", [tool_use("t")]), ("user", "hi")],
    "nothing but thinking": [("user", "a"), ("assistant", [THINKING]), ("user", "b")],
    "thinking in a loop": [("user", "a"), ("assistant", [THINKING, tool_use("t")]), ("user", [tool_result("t")])],
    "thinking first of all": [("assistant", [THINKING]), ("user", "hi")],
    "redacted thinking": [
        ("user", "a"),
        ("assistant", [{"type": "redacted_thinking", "data": "x"}, text("b")]),
        ("user", "c"),
    ],
    "nothing in a result": [("user", "a"), ("assistant", [tool_use("t")]), ("user", [tool_result("t", "")])],
    "no parts in a result": [("user", "a"), ("assistant", [tool_use("t")]), ("user", [tool_result("t", [])])],
    "an image in a result": [("user", "a"), ("assistant", [tool_use("t")]), ("user", [tool_result("t", [IMAGE])])],
    "only an image": [("user", [IMAGE])],
    "only a document": [("user", [DOCUMENT])],
    "a kind of later": [
        ("user", [{"type": "later", "x": 1}]),
        ("assistant", [{"type": "later", "y": 2}]),
        ("user", "a"),
    ],
}
REFUSED: dict[str, tuple[History, str, str]] = {
    "nothing": ([], "no_user_message", "append a user message, or send one as `message`"),
    "the assistant has spoken": ([("user", "a"), ("assistant", "b")], "no_user_message", "append a user message"),
    "only the assistant": ([("assistant", "b")], "no_user_message", "append a user message"),
    "a call waits": ([("user", "a"), ("assistant", [tool_use("t")])], "unanswered_tool_use", "each of: t."),
    "one of two calls waits": (
        [("user", "a"), ("assistant", [tool_use("t"), tool_use("u")]), ("user", [tool_result("t")])],
        "unanswered_tool_use",
        "each of: u.",
    ),
}


@pytest.mark.parametrize("history", FINE.values(), ids=FINE)
def test_accepted(api: httpx2.Client, history: History) -> None:
    thread = new_thread(api, *history)["id"]
    for extra in ({}, {"context": [text("now")]}, {"cache": False}):
        prompt = ok(build(api, thread, **extra), 201)
        anthropic_rules.check(prompt["request"])
        assert ok(api.get(f"/v1/threads/{thread}/prompts/{prompt['id']}"))["request"] == prompt["request"]
    for model in ("gpt-4o", "gpt-5.6"):
        openai_rules.check(ok(build(api, thread, model=model, provider="openai", dry_run=True))["request"])
    # What is added for the provider's sake is declared, and never stored.
    added = [repair["reason"] for repair in prompt["repairs"]]
    assert ("opened_by_assistant" in added) == (history[0][0] == "assistant")
    assert len(messages_of(api, thread)) == len(history)


@pytest.mark.parametrize(("history", "code", "says"), REFUSED.values(), ids=REFUSED)
def test_refused(api: httpx2.Client, unchanged: Unchanged, history: History, code: str, says: str) -> None:
    thread = new_thread(api, *history)["id"]
    with unchanged():
        for extra in ({}, {"dry_run": True}, {"provider": "openai", "model": "gpt-4o"}):
            refused(build(api, thread, **extra), 422, code, says=says)
    # Doing what it says helps.
    waiting = [tool_result(id_) for id_ in ("t", "u") if f"of: {id_}." in says]
    prompt = ok(build(api, thread, message={"role": "user", "content": waiting or "go on"}), 201)
    anthropic_rules.check(prompt["request"])


def test_a_thread_of_deleted_messages(api: httpx2.Client) -> None:
    thread = new_thread(api, ("user", "a"), ("assistant", "b"), ("user", "c"))["id"]
    for message in reversed(messages_of(api, thread)):
        ok(api.delete(f"/v1/threads/{thread}/messages/{message['id']}"))
    refused(build(api, thread), 422, "no_user_message", says="has no messages")
    prompt = ok(build(api, thread, message={"role": "user", "content": "anew"}), 201)
    assert prompt["window"] == {"first_seq": 4, "last_seq": 4, "trimmed": False, "reason": None}
    anthropic_rules.check(prompt["request"])


def test_deleting_the_end_opens_what_was_closed(api: httpx2.Client) -> None:
    thread = new_thread(api, ("user", "a"), ("assistant", [tool_use("t")]), ("user", "never mind"))["id"]
    last = messages_of(api, thread)[-1]
    ok(api.delete(f"/v1/threads/{thread}/messages/{last['id']}"))
    refused(build(api, thread), 422, "unanswered_tool_use")
    anthropic_rules.check(
        ok(build(api, thread, message={"role": "user", "content": [tool_result("t")]}), 201)["request"]
    )


@pytest.mark.parametrize("limit", [1, 50, 200])
def test_too_small_a_budget(api: httpx2.Client, unchanged: Unchanged, limit: int) -> None:
    thread = new_thread(api, ("user", "word " * 400))["id"]
    with unchanged():
        error = refused(
            build(api, thread, max_prompt_tokens=limit), 422, "prompt_too_large", says="shorten one of these"
        )
    details = error["details"]
    assert details["max_prompt_tokens"] == limit < details["needed_tokens"]
    ok(build(api, thread, max_prompt_tokens=details["needed_tokens"]), 201)
