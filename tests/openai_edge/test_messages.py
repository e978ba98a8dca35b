"""Messages as OpenAI has them: content both ways, pages, changes."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from openai import OpenAI

from tests.openai_edge.conftest import DEPRECATED_API, refused

pytestmark = DEPRECATED_API
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def test_a_thousand_messages_in_exact_order_both_ways(client: OpenAI, api: httpx2.Client) -> None:
    """Many of them of the same second, and half of them appended through the other API."""
    given: list[Any] = [{"role": "user", "content": f"{i}"} for i in range(500)]
    thread = client.beta.threads.create(messages=given)
    more = [{"role": "user", "content": f"{i}"} for i in range(500, 1_000)]
    api.post(f"/v1/threads/{thread.id}/messages", json={"messages": more}).raise_for_status()
    expected = [str(i) for i in range(1_000)]

    def paged(**how: Any) -> list[str]:
        found = client.beta.threads.messages.list(thread.id, **how)
        return [part.text.value for m in found for part in m.content if part.type == "text"]

    assert paged(order="asc", limit=100) == expected
    assert paged(limit=37) == expected[::-1]


def test_content_goes_in_and_out(client: OpenAI, api: httpx2.Client) -> None:
    thread = client.beta.threads.create()
    content: Any = [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "image_file", "image_file": {"file_id": "file_1", "detail": "high"}},
    ]
    attachments: Any = [{"file_id": "file_2", "tools": [{"type": "file_search"}]}]
    made = client.beta.threads.messages.create(
        thread.id, role="user", content=content, attachments=attachments, metadata={"k": "v"}
    )
    shown = client.beta.threads.messages.retrieve(made.id, thread_id=thread.id).to_dict()
    assert shown["content"] == [
        {"type": "text", "text": {"value": "Look:", "annotations": []}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "auto"}},
        {"type": "image_file", "image_file": {"file_id": "file_1", "detail": "high"}},
    ]
    assert (shown["attachments"], shown["metadata"], shown["status"]) == (attachments, {"k": "v"}, "completed")
    native = api.get(f"/v1/threads/{thread.id}/messages/{made.id}").json()
    assert [block["type"] for block in native["content"]] == ["text", "image", "image", "image"]
    assert native["content"][2]["source"] == {"type": "base64", "media_type": "image/png", "data": PIXEL}
    fork = api.post(f"/v1/threads/{thread.id}/fork", json={"seq": 1}).json()
    (copy,) = client.beta.threads.messages.list(fork["id"]).data
    assert copy.to_dict()["attachments"] == attachments


def test_exports_take_along_what_only_openai_has(
    client: OpenAI, api: httpx2.Client, other_client: OpenAI, other_api: httpx2.Client
) -> None:
    assistant = client.beta.assistants.create(model="gpt-5.4", description="Knows.", tools=[{"type": "file_search"}])
    resources: Any = {"code_interpreter": {"file_ids": ["file_1"]}}
    attachments: Any = [{"file_id": "file_2", "tools": [{"type": "file_search"}]}]
    thread = client.beta.threads.create(
        messages=[{"role": "user", "content": "Hi.", "attachments": attachments}], tool_resources=resources
    )
    api.patch(f"/v1/threads/{thread.id}", json={"assistant_id": assistant.id}).raise_for_status()
    lines = api.get(f"/v1/threads/{thread.id}/export").content
    for _ in range(2):
        answer = other_api.post("/v1/import?ids=continue", content=lines)
        assert answer.is_success, answer.text
    assert other_client.beta.assistants.retrieve(assistant.id) == client.beta.assistants.retrieve(assistant.id)
    assert other_client.beta.threads.retrieve(thread.id) == client.beta.threads.retrieve(thread.id)
    assert other_client.beta.threads.messages.list(thread.id).data == client.beta.threads.messages.list(thread.id).data


@pytest.mark.parametrize(
    "content",
    ["", [], [{"type": "text"}], [{"type": "image_url", "image_url": "https://x"}], [{"type": "audio"}], [7]],
)
def test_content_that_makes_no_sense(client: OpenAI, content: Any) -> None:
    thread = client.beta.threads.create()
    error = refused(lambda: client.beta.threads.messages.create(thread.id, role="user", content=content))
    assert error.status_code == 400
    assert error.param
    assert error.param.startswith("content")


def test_calls_and_results_are_no_messages(client: OpenAI, api: httpx2.Client) -> None:
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "Look."}])
    path = f"/v1/threads/{thread.id}/messages"
    call = {"type": "tool_use", "id": "call_1", "name": "look", "input": {}}
    api.post(
        path, json={"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}, call]}
    )
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "a boat"}
    api.post(path, json={"role": "user", "content": [result]})
    api.post(path, json={"role": "assistant", "content": "A boat."})
    found = list(client.beta.threads.messages.list(thread.id, order="asc", limit=1))
    assert [m.role for m in found] == ["user", "assistant"]
    assert api.get(path).json()["data"][1]["content"][1] == call


def test_changes(client: OpenAI) -> None:
    thread = client.beta.threads.create()
    made = client.beta.threads.messages.create(thread.id, role="user", content="Hi.", metadata={"k": "v"})
    updated = client.beta.threads.messages.update(made.id, thread_id=thread.id, metadata={"l": "w"})
    assert (updated.metadata, updated.id) == ({"l": "w"}, made.id)
    assert client.beta.threads.messages.delete(made.id, thread_id=thread.id).deleted
    assert refused(lambda: client.beta.threads.messages.retrieve(made.id, thread_id=thread.id)).status_code == 404
    assert client.beta.threads.messages.list(thread.id).data == []
