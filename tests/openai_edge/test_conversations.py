"""Conversations, by OpenAI's own SDK and by its agents' sessions."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.conftest import Service
from tests.providers.scripted import ScriptedProvider, blocks

CALL = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"at":"1.10"}'}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "a shed"}
SIGNED = {"type": "thinking", "thinking": "Let me see.", "signature": "sig=="}


def user(text: str) -> dict[str, str]:
    return {"type": "message", "role": "user", "content": text}


def texts(items: Any) -> list[str]:
    return [item.content[0].text for item in items]


def all_items(client: OpenAI, conversation_id: str, **query: Any) -> list[Any]:
    return list(client.conversations.items.list(conversation_id, **query))


def add(client: OpenAI, conversation_id: str, *items: Any) -> list[Any]:
    return client.conversations.items.create(conversation_id, items=list(items)).data


def test_a_conversation_is_a_thread(client: OpenAI, api: httpx2.Client) -> None:
    made = client.conversations.create(items=[user("Hello?")], metadata={"topic": "shed"})  # type: ignore[list-item]
    assert made.id.startswith("conv_")
    thread = api.get(f"/v1/threads/{made.id}").json()
    assert (thread["message_count"], thread["metadata"]) == (1, {"topic": "shed"})
    native = api.post("/v1/threads", json={"messages": [{"role": "user", "content": "From there."}]}).json()
    assert client.conversations.retrieve(native["id"]).object == "conversation"
    assert texts(all_items(client, native["id"])) == ["From there."]
    assert client.conversations.update(made.id, metadata={"other": "1"}).metadata == {"other": "1"}
    assert client.conversations.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(made.id)


def test_items_come_back_in_exact_order_both_ways(client: OpenAI) -> None:
    made = client.conversations.create()
    said = [f"message {number}" for number in range(1_000)]
    for start in range(0, 1_000, 20):
        add(client, made.id, *map(user, said[start : start + 20]))
    assert texts(all_items(client, made.id, order="asc", limit=100)) == said
    assert texts(all_items(client, made.id, limit=99)) == said[::-1]


def test_more_than_twenty_at_once_are_refused(client: OpenAI) -> None:
    made = client.conversations.create()
    with pytest.raises(openai.BadRequestError, match="at most 20"):
        add(client, made.id, *[user("x")] * 21)
    assert all_items(client, made.id) == []


def test_every_kind_of_item(client: OpenAI) -> None:
    made = client.conversations.create()
    image = {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "auto"}
    file = {"type": "input_file", "file_url": "https://example.com/a.pdf", "filename": "a.pdf"}
    sent: list[Any] = [
        {"type": "message", "role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What?"}, image, file]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "abc"},
        CALL,
        OUTPUT,
        {"role": "assistant", "content": [{"type": "output_text", "text": "A shed."}], "phase": "final_answer"},
    ]
    added = add(client, made.id, *sent)
    found = all_items(client, made.id, order="asc")
    assert [item.id for item in added] == [item.id for item in found]
    shown = [item.model_dump(exclude_none=True) for item in found]
    assert [(item["type"], item.get("role")) for item in shown] == [
        ("message", "developer"),
        ("message", "user"),
        ("reasoning", None),
        ("function_call", None),
        ("function_call_output", None),
        ("message", "assistant"),
    ]
    assert shown[0]["content"] == [{"type": "input_text", "text": "Be brief."}]
    assert shown[1]["content"] == [{"type": "input_text", "text": "What?"}, image, file]
    assert shown[2]["encrypted_content"] == "abc"
    assert shown[2]["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert shown[3] | CALL == shown[3]
    assert shown[4] | OUTPUT == shown[4]
    assert (shown[5]["content"][0]["text"], shown[5]["phase"]) == ("A shed.", "final_answer")
    for item in found:
        assert client.conversations.items.retrieve(item.id, conversation_id=made.id) == item


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"type": "web_search_call", "id": "ws_1"}, "web_search_call"),
        ({"type": "message", "role": "critic", "content": "x"}, "role"),
        (OUTPUT, "answers no open tool_use"),
        ({**CALL, "arguments": "no json"}, "arguments"),
        ({"type": "message", "role": "user", "content": [{"type": "input_audio"}]}, "content"),
        ({"type": "message", "role": "user", "content": 5}, "content"),
        ({"type": "message", "role": "user", "content": [{"type": "input_image"}]}, "image_url"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(client: OpenAI, item: Any, says: str) -> None:
    made = client.conversations.create()
    with pytest.raises(openai.BadRequestError, match=says):
        add(client, made.id, user("before"), item)
    assert all_items(client, made.id) == []


def test_items_inside_one_message(client: OpenAI, api: httpx2.Client) -> None:
    """A reply of a run is one message; here it is its parts, and pages may end between them."""
    said = {"type": "text", "text": "I look."}
    use = {"type": "tool_use", "id": "call_1", "name": "look", "input": {}}
    messages = [
        {"role": "user", "content": "What is there?"},
        {"role": "assistant", "content": [SIGNED, said, use, {**use, "id": "call_2"}]},
    ]
    thread = api.post("/v1/threads", json={"messages": messages}).json()["id"]
    whole = all_items(client, thread, order="asc")
    assert [item.type for item in whole] == ["message", "reasoning", "message", "function_call", "function_call"]
    assert len({item.id for item in whole}) == 5
    for limit in (1, 2, 3):
        assert all_items(client, thread, order="asc", limit=limit) == whole
        assert all_items(client, thread, limit=limit) == whole[::-1]
    client.conversations.items.delete(whole[-1].id, conversation_id=thread)
    assert all_items(client, thread, order="asc") == whole[:-1]
    # What was signed goes back to where it came from as it was.
    reasoning = whole[1].model_dump(exclude_none=True)
    copy = client.conversations.create(items=[user("What?"), reasoning])  # type: ignore[list-item]
    assert api.get(f"/v1/threads/{copy.id}/messages").json()["data"][1]["content"] == [SIGNED]


def test_deleting_items(client: OpenAI) -> None:
    made = client.conversations.create()
    one, two, three = add(client, made.id, user("one"), user("two"), user("three"))
    page = client.conversations.items.list(made.id, order="asc", limit=1)
    answer = client.conversations.items.delete(one.id, conversation_id=made.id)
    assert (answer.id, answer.object) == (made.id, "conversation")
    assert page.has_next_page()
    assert [item.id for item in page.get_next_page().data] == [two.id]  # type: ignore[union-attr]
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.delete(one.id, conversation_id=made.id)
    assert [item.id for item in all_items(client, made.id, order="asc")] == [two.id, three.id]


def test_a_call_is_not_deleted_before_its_output(client: OpenAI) -> None:
    made = client.conversations.create()
    _, call, output = add(client, made.id, user("Look."), CALL, OUTPUT)
    with pytest.raises(openai.BadRequestError, match="would break tool calls apart"):
        client.conversations.items.delete(call.id, conversation_id=made.id)
    for item in (output, call):
        client.conversations.items.delete(item.id, conversation_id=made.id)
    assert texts(all_items(client, made.id)) == ["Look."]


def test_locked_while_a_run_is_active(client: OpenAI, api: httpx2.Client, provider: ScriptedProvider) -> None:
    made = client.conversations.create()
    provider.script(blocks({"type": "tool_use", "id": "call_1", "name": "look", "input": {}}))
    body = {"model": "claude-sonnet-5", "message": "Look.", "wait": True}
    tools = [{"name": "look", "input_schema": {"type": "object"}}]
    assert api.post(f"/v1/threads/{made.id}/runs", json={**body, "tools": tools}).json()["status"] == "requires_action"
    with pytest.raises(openai.BadRequestError) as refused:
        add(client, made.id, user("Hello?"))
    assert (refused.value.code, refused.value.param) == ("conversation_locked", "conversation")
    assert "Another process is currently operating on this conversation." in refused.value.message


def test_nobody_else_sees_it(client: OpenAI, other_client: OpenAI) -> None:
    made = client.conversations.create(items=[user("Mine.")])  # type: ignore[list-item]
    (item,) = all_items(client, made.id)
    for ask in (
        lambda: other_client.conversations.retrieve(made.id),
        lambda: other_client.conversations.update(made.id, metadata={}),
        lambda: other_client.conversations.delete(made.id),
        lambda: all_items(other_client, made.id),
        lambda: add(other_client, made.id, user("x")),
        lambda: other_client.conversations.items.retrieve(item.id, conversation_id=made.id),
        lambda: other_client.conversations.items.delete(item.id, conversation_id=made.id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    own = other_client.conversations.create()
    with pytest.raises(openai.NotFoundError):
        other_client.conversations.items.retrieve(item.id, conversation_id=own.id)


def test_sessions_of_the_agents_sdk(service: Service, api_key: str) -> None:
    from agents import OpenAIConversationsSession  # which wants the newest SDK; the other tests do not

    async def play() -> None:
        async with AsyncOpenAI(base_url=f"{service.url}/openai/v1", api_key=api_key) as client:
            session = OpenAIConversationsSession(openai_client=client)
            items: list[Any] = [user(f"message {number}") for number in range(45)]
            await session.add_items([*items, CALL, OUTPUT])
            found: list[Any] = await session.get_items()
            assert [item["content"][0]["text"] for item in found[:45]] == [item["content"] for item in items]
            assert [item["type"] for item in found[45:]] == ["function_call", "function_call_output"]
            assert await session.get_items(limit=3) == found[-3:]
            assert await session.pop_item() == found[-1]
            assert await session.pop_item() == found[-2]
            assert await session.get_items() == found[:-2]
            await session.clear_session()
            assert await session.get_items() == []

    asyncio.run(play())
