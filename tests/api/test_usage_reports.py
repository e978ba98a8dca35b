"""What was sent and what came back: usage once, the reply once, in whichever form, at whichever time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx2
import psycopg
import pytest
from anthropic.types import Message
from openai.types.chat import ChatCompletion

from .support import append, build, messages_of, new_thread, ok, refused, text, tool_result, tool_use

Unchanged = Callable[[], AbstractContextManager[None]]
USAGE = {"input_tokens": 20, "cache_read_input_tokens": 5, "output_tokens": 3, "service_tier": "standard"}
REPLY = {"role": "assistant", "content": "hello"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"city": "서울", "n": 1.10}'}}
USED = tool_use("call_1", "look", city="서울", n=1.1)


class Prompt:
    """A prompt that was built for a thread, and reports about it."""

    def __init__(self, api: httpx2.Client, **body: Any) -> None:
        self._api = api
        self.thread_id = new_thread(api, ("user", "hi"))["id"]
        self.id = ok(build(api, self.thread_id, **body), 201)["id"]
        self.path = f"/v1/threads/{self.thread_id}/prompts/{self.id}"

    def report(self, reply: Any = None, usage: Any = USAGE, **headers: str) -> httpx2.Response:
        body = {"usage": usage} if reply is None else {"usage": usage, "message": reply}
        return self._api.post(f"{self.path}/usage", json=body, headers=headers)

    def shown(self) -> dict[str, Any]:
        shown: dict[str, Any] = ok(self._api.get(self.path))
        return shown

    def contents(self) -> list[Any]:
        return [message["content"] for message in messages_of(self._api, self.thread_id)]


@pytest.fixture
def prompt(api: httpx2.Client) -> Prompt:
    return Prompt(api)


@pytest.fixture
def observations(database: psycopg.Connection, prompt: Prompt) -> Callable[[], int]:
    """How many reports the project's token estimate has learnt from."""

    def count() -> int:
        query = (
            "SELECT state::json ->> 'observations' FROM token_estimates e JOIN threads t USING (project_id)"
            " WHERE t.id = %s"
        )
        found = database.execute(query, [prompt.thread_id]).fetchone()
        return int(found[0]) if found else 0

    return count


def test_usage_and_reply(api: httpx2.Client, prompt: Prompt, unchanged: Unchanged) -> None:
    reply = {**REPLY, "metadata": {"k": "v"}}
    answer = ok(prompt.report(reply))
    assert answer["usage"] == USAGE
    reported = answer["reported"]
    assert (reported["cache_read_tokens"], reported["uncached_tokens"], reported["output_tokens"]) == (5, 20, 3)
    assert answer["message"] == messages_of(api, prompt.thread_id)[1]
    shown = prompt.shown()
    assert (shown["status"], shown["usage"], shown["reported"]) == ("sent", USAGE, reported)
    with unchanged():
        assert ok(prompt.report(reply)) == answer
        assert ok(prompt.report()) == answer
        assert ok(prompt.report(reply, dict(reversed(USAGE.items())))) == answer


def test_a_reply_may_follow_its_usage(prompt: Prompt, unchanged: Unchanged, observations: Callable[[], int]) -> None:
    assert ok(prompt.report())["message"] is None
    assert observations() == 1
    followed = ok(prompt.report(REPLY))
    assert (followed["message"]["seq"], followed["usage"]) == (2, USAGE)
    assert prompt.contents() == [[text("hi")], [text("hello")]]
    assert observations() == 1
    with unchanged():
        assert ok(prompt.report(REPLY)) == followed
        assert ok(prompt.report()) == followed
        refused(prompt.report({"content": "other"}), 409, "reply_already_reported")


def test_a_report_that_contradicts_the_first_says_in_what(prompt: Prompt, unchanged: Unchanged) -> None:
    reply = ok(prompt.report(REPLY))["message"]
    more = {**USAGE, "output_tokens": 4}
    with unchanged():
        error = refused(prompt.report(usage=more), 409, "usage_already_reported", field="usage")
        assert error["message"].startswith("`usage` differs from what was reported")
        assert "build a prompt for each request" in error["message"]
        refused(prompt.report(REPLY, more), 409, "usage_already_reported", says="`usage` differs")
        refused(prompt.report({"content": "x"}, more), 409, "usage_already_reported", says="`usage` and `message`")
        error = refused(prompt.report({"content": "x"}), 409, "reply_already_reported", field="message")
        assert error["message"].startswith("`message` differs from the reply")
        assert error["details"]["message_id"] == reply["id"]


def test_a_reply_that_was_edited_since_is_still_the_same(api: httpx2.Client, prompt: Prompt) -> None:
    reply = ok(prompt.report(REPLY))["message"]
    path = f"/v1/threads/{prompt.thread_id}/messages/{reply['id']}"
    for edited in ("once", "twice"):
        ok(api.patch(path, json={"content": edited}))
    assert ok(prompt.report(REPLY))["message"]["content"] == [text("twice")]
    refused(prompt.report({"content": "twice"}), 409, "reply_already_reported")


def test_a_reply_that_was_deleted_since_does_not_come_back(api: httpx2.Client, prompt: Prompt) -> None:
    reply = ok(prompt.report(REPLY))["message"]
    ok(api.delete(f"/v1/threads/{prompt.thread_id}/messages/{reply['id']}"))
    refused(prompt.report(REPLY), 409, "reply_deleted", field="message", says="append it to the thread")
    assert ok(prompt.report())["message"] is None
    assert prompt.contents() == [[text("hi")]]


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": "k"}])
def test_a_reply_that_comes_late_is_kept_where_it_arrived(
    api: httpx2.Client, prompt: Prompt, observations: Callable[[], int], unchanged: Unchanged, headers: dict[str, str]
) -> None:
    append(api, prompt.thread_id, "user", "and another thing")
    assert ok(prompt.report(REPLY, **headers))["message"]["seq"] == 3
    with unchanged():
        assert ok(prompt.report(REPLY, **headers))["message"]["seq"] == 3
    assert prompt.contents() == [[text("hi")], [text("and another thing")], [text("hello")]]
    assert (prompt.shown()["status"], observations()) == ("sent", 1)
    again = build(api, prompt.thread_id, message={"role": "user", "content": "so?"})
    roles = [message["role"] for message in ok(again, 201)["request"]["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_a_reply_may_stand_behind_another_reply(api: httpx2.Client, prompt: Prompt) -> None:
    """Two models were asked, or the caller had appended something of the turn already."""
    second = ok(build(api, prompt.thread_id), 201)["id"]
    ok(api.post(f"/v1/threads/{prompt.thread_id}/prompts/{second}/usage", json={"usage": USAGE, "message": REPLY}))
    assert ok(prompt.report({"content": "hello too"}))["message"]["seq"] == 3


@pytest.mark.parametrize(
    "nothing",
    [
        {"content": []},
        {"content": ""},
        {"content": " \n"},
        {"content": [text("\n\n")]},
        {"role": "assistant", "content": None},
        {"content": None, "tool_calls": None, "refusal": None},
        {"choices": [{"message": {"role": "assistant"}}]},
    ],
)
def test_a_reply_of_nothing_is_not_appended(prompt: Prompt, nothing: dict[str, Any]) -> None:
    assert ok(prompt.report(nothing))["message"] is None
    assert len(prompt.contents()) == 1


FORMS: list[tuple[dict[str, Any], list[Any]]] = [
    ({"role": "assistant", "content": "x"}, [text("x")]),
    ({"role": "assistant", "content": [text("\n"), text("x")]}, [text("x")]),
    ({"role": "assistant", "content": None, "tool_calls": [CALL]}, [USED]),
    ({"role": "assistant", "content": "", "tool_calls": [CALL]}, [USED]),
    ({"role": "assistant", "content": "I look.", "tool_calls": [CALL, {**CALL, "id": "call_2"}]},
     [text("I look."), USED, {**USED, "id": "call_2"}]),
    ({"role": "assistant", "content": [text("I look.")], "tool_calls": [CALL]}, [text("I look."), USED]),
    ({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": ""}}]}, [tool_use("c", "f")]),
    ({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}]}, [tool_use("c", "f", a=1)]),
    ({"content": None, "refusal": "I will not.", "annotations": [], "reasoning_content": "hm"}, [text("I will not.")]),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "content"), FORMS)
def test_every_form_of_a_reply(prompt: Prompt, reply: dict[str, Any], content: list[Any]) -> None:
    assert ok(prompt.report(reply))["message"]["content"] == content
    assert prompt.contents()[1:] == [content]


def test_numbers_in_arguments_keep_their_spelling(api: httpx2.Client, prompt: Prompt) -> None:
    answer = prompt.report({"content": None, "tool_calls": [CALL]})
    assert '"input":{"city":"서울","n":1.10}' in answer.text


def test_a_whole_chat_completion(api: httpx2.Client) -> None:
    prompt = Prompt(api, model="gpt-5.5", provider="openai")
    completion = ChatCompletion.model_validate(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-5.5",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "tool_calls",
                    "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
                }
            ],
            "usage": {"prompt_tokens": 25, "completion_tokens": 3, "total_tokens": 28},
        }
    ).model_dump(mode="json")
    answer = ok(prompt.report(completion, completion["usage"]))
    assert (answer["message"]["content"], answer["reported"]["uncached_tokens"]) == ([USED], 25)
    # And the loop goes on, for either provider.
    append(api, prompt.thread_id, "user", [tool_result("call_1", "7 °C")])
    request = ok(build(api, prompt.thread_id, model="gpt-5.5", provider="openai"), 201)["request"]
    assert [message["role"] for message in request["messages"]] == ["user", "assistant", "tool"]
    assert request["messages"][1]["tool_calls"][0]["id"] == "call_1"
    assert ok(build(api, prompt.thread_id), 201)["request"]["messages"][1]["content"] == [USED]


def test_a_whole_message_of_anthropic(prompt: Prompt) -> None:
    message = Message.model_validate(
        {
            "id": "msg_x",
            "type": "message",
            "role": "assistant",
            "model": "claude-sonnet-5-5",
            "content": [text("hello")],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": USAGE,
        }
    ).model_dump(mode="json")
    kept = ok(prompt.report(message, message["usage"]))["message"]
    assert kept["id"] != "msg_x"
    assert [block["text"] for block in kept["content"]] == ["hello"]
