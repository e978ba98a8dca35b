"""Errors, lists, cursors and objects as OpenAI has them, seen with its SDK."""

from __future__ import annotations

import contextlib
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from tests.conftest import Service
from tests.openai_edge.conftest import DEPRECATED_API, refused, sdk

pytestmark = DEPRECATED_API

FUNCTION: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather at a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
        "strict": True,
    },
}


def test_a_wrong_key_is_401(service: Service, client: OpenAI) -> None:
    with sdk(service, "msk_wrong") as stranger:
        error = refused(lambda: stranger.beta.assistants.list())
    assert isinstance(error, openai.AuthenticationError)
    assert (error.type, error.code) == ("invalid_request_error", "invalid_api_key")


def test_what_is_not_there_is_404(client: OpenAI) -> None:
    error = refused(lambda: client.beta.threads.retrieve("thread_none"))
    assert isinstance(error, openai.NotFoundError)
    assert error.type == "invalid_request_error"
    assert "thread_none" in str(error)
    assert isinstance(refused(lambda: client.get("/nothing", cast_to=object)), openai.NotFoundError)


def test_a_wrong_field_is_400_and_named(client: OpenAI) -> None:
    error = refused(lambda: client.beta.assistants.create(model=7))  # type: ignore[arg-type]
    assert isinstance(error, openai.BadRequestError)
    assert (error.type, error.param) == ("invalid_request_error", "model")
    assert refused(lambda: client.beta.threads.create(metadata={"k": "v" * 513})).status_code == 400
    assert refused(lambda: client.beta.threads.create(metadata={str(i): "v" for i in range(17)})).status_code == 400


@pytest.mark.parametrize("body", [b"{", b'{"metadata": "x"}', b"[]"])
def test_a_body_that_makes_no_sense_is_400(edge: httpx2.Client, body: bytes) -> None:
    answer = edge.post("/threads", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_is_too_large_is_refused_in_the_same_form(edge: httpx2.Client) -> None:
    with contextlib.suppress(httpx2.WriteError):
        answer = edge.post("/threads", json={"metadata": {"k": "v" * 1_100_000}})
        assert answer.status_code == 413
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def test_a_method_that_is_not_there_is_405_in_the_same_form(edge: httpx2.Client) -> None:
    answer = edge.put("/threads/thread_x", json={})
    assert answer.status_code == 405
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_assistant_is_kept_as_it_was_given(client: OpenAI) -> None:
    given: dict[str, Any] = {
        "model": "gpt-5.4",
        "name": "Weather",
        "description": "Knows the weather.",
        "instructions": "Be brief.",
        "tools": [FUNCTION, {"type": "file_search"}, {"type": "function", "function": {"name": "now"}}],
        "tool_resources": {"file_search": {"vector_store_ids": ["vs_1"]}},
        "metadata": {"k": "v"},
        "temperature": 0.25,
        "top_p": 0.5,
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
    }
    made = client.beta.assistants.create(**given)
    shown = client.beta.assistants.retrieve(made.id).model_dump(exclude_unset=True)
    assert {name: shown[name] for name in given} == given
    assert shown["object"] == "assistant"
    assert isinstance(shown["created_at"], int)
    updated = client.beta.assistants.update(made.id, description="Else.", metadata={"other": "v"})
    assert (updated.description, updated.metadata, updated.top_p) == ("Else.", {"other": "v"}, 0.5)
    assert client.beta.assistants.delete(made.id).deleted
    assert refused(lambda: client.beta.assistants.retrieve(made.id)).status_code == 404


def test_an_assistant_is_the_same_here_and_there(client: OpenAI, api: httpx2.Client) -> None:
    made = client.beta.assistants.create(model="gpt-5.4", tools=[FUNCTION], temperature=1)
    native = api.get(f"/v1/assistants/{made.id}").json()
    function = FUNCTION["function"]
    assert native["tools"] == [
        {
            "name": "weather",
            "description": function["description"],
            "input_schema": function["parameters"],
            "strict": True,
        }
    ]
    tools = [{"name": "other", "input_schema": {"type": "object"}}]
    api.patch(f"/v1/assistants/{made.id}", json={"tools": tools}).raise_for_status()
    shown = client.beta.assistants.retrieve(made.id)
    assert [tool.to_dict() for tool in shown.tools] == [
        {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}
    ]
    assert shown.temperature == 1
    native_made = api.post("/v1/assistants", json={"instructions": "Hi."}).json()
    assert client.beta.assistants.retrieve(native_made["id"]).instructions == "Hi."


def test_lists_go_by_order_of_making_whatever_the_clock_says(client: OpenAI) -> None:
    ids = [client.beta.assistants.create(model="gpt-5.4", name=str(i)).id for i in range(7)]
    newest_first = [a.id for a in client.beta.assistants.list(limit=3)]
    assert newest_first == ids[::-1]
    assert [a.id for a in client.beta.assistants.list(limit=2, order="asc")] == ids
    page = client.beta.assistants.list(before=ids[2], limit=2)
    assert ([a.id for a in page.data], page.has_more) == ([ids[4], ids[3]], True)


def test_a_cursor_that_is_unknown_has_nothing_behind_it(client: OpenAI) -> None:
    client.beta.assistants.create(model="gpt-5.4")
    page = client.beta.assistants.list(after="asst_none")
    assert (page.data, page.has_more) == ([], False)


def test_an_empty_cursor_is_none(client: OpenAI) -> None:
    made = client.beta.assistants.create(model="gpt-5.4")
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "Hello?"}])
    run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=made.id, poll_interval_ms=20)
    assert [a.id for a in client.beta.assistants.list(after="", before="")] == [made.id]
    assert len(client.beta.threads.runs.steps.list(run.id, thread_id=thread.id, after="", before="").data) == 1


def test_a_limit_beyond_the_bounds_is_the_nearest_within(client: OpenAI) -> None:
    made = [client.beta.assistants.create(model="gpt-5.4").id for _ in range(2)]
    assert [a.id for a in client.beta.assistants.list(limit=0).data] == made[1:]
    assert len(client.beta.assistants.list(limit=1_000).data) == 2


def test_threads_are_the_same_here_and_there(client: OpenAI, api: httpx2.Client) -> None:
    resources: Any = {"code_interpreter": {"file_ids": ["file_1"]}}
    made = client.beta.threads.create(
        messages=[{"role": "user", "content": "Hello?"}], metadata={"k": "v"}, tool_resources=resources
    )
    assert (made.metadata, made.tool_resources and made.tool_resources.to_dict()) == ({"k": "v"}, resources)
    (message,) = api.get(f"/v1/threads/{made.id}/messages").json()["data"]
    assert message["content"] == [{"type": "text", "text": "Hello?"}]
    native = api.post("/v1/threads", json={"metadata": {"from": "here"}}).json()
    assert client.beta.threads.retrieve(native["id"]).metadata == {"from": "here"}
    listed: Any = client.get("/threads", cast_to=object)
    assert [thread["id"] for thread in listed["data"]] == [native["id"], made.id]
    assert client.beta.threads.update(made.id, metadata={}).metadata == {}
    assert client.beta.threads.delete(made.id).deleted
    assert api.get(f"/v1/threads/{made.id}").status_code == 404


def test_projects_see_nothing_of_each_other(client: OpenAI, other_client: OpenAI) -> None:
    thread, assistant = client.beta.threads.create(), client.beta.assistants.create(model="gpt-5.4")
    assert refused(lambda: other_client.beta.threads.retrieve(thread.id)).status_code == 404
    assert refused(lambda: other_client.beta.assistants.retrieve(assistant.id)).status_code == 404
    assert refused(lambda: other_client.beta.assistants.update(assistant.id, name="x")).status_code == 404
    assert other_client.beta.assistants.list().data == []
