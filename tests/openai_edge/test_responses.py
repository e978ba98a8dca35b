"""Responses, by OpenAI's own SDK: what a caller goes on from, what is kept, streamed, refused and counted."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from memory_service.config import Settings
from memory_service.services.lifecycle import OpenDatabase, open_runtime
from memory_service.services.retention import sweep
from tests.conftest import Service
from tests.openai_edge.conftest import refused
from tests.providers.scripted import ScriptedProvider, blocks, ok, stall, status

MODELS = ("gpt-5.4", "claude-sonnet-5")
LOOK: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
USE = {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": "the shed"}}
SIGNED = {"type": "thinking", "thinking": "Let me see.", "signature": "sig=="}


def said(provider: ScriptedProvider, number: int = -1) -> list[tuple[str, str]]:
    """What a model was told by users and by itself, as `(role, text)`."""
    found = []
    for message in provider.asked[number].body["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        found += [(message["role"], part["text"]) for part in parts if part.get("type") == "text"]
    return found


def items_of(client: OpenAI, conversation_id: str) -> list[str]:
    found: list[Any] = list(client.conversations.items.list(conversation_id, order="asc"))
    return [item.content[0].text for item in found]


@pytest.mark.parametrize("model", MODELS)
def test_a_chain(client: OpenAI, provider: ScriptedProvider, model: str) -> None:
    provider.script(ok("Hello Kim."), ok("Kim."), ok("Bye."))
    first = client.responses.create(model=model, input="I am Kim.", instructions="Be brief.")
    assert (first.status, first.output_text, first.instructions) == ("completed", "Hello Kim.", "Be brief.")
    second = client.responses.create(model=model, input="Who am I?", previous_response_id=first.id)
    assert (second.output_text, second.previous_response_id) == ("Kim.", first.id)
    assert "Be brief." in str(provider.asked[0].body)
    assert "Be brief." not in str(provider.asked[1].body)
    client.responses.create(model=model, input="Bye.", previous_response_id=second.id)
    assert said(provider) == [
        ("user", "I am Kim."),
        ("assistant", "Hello Kim."),
        ("user", "Who am I?"),
        ("assistant", "Kim."),
        ("user", "Bye."),
    ]


def test_a_chain_stays_on_one_thread_and_branches_when_it_must(
    client: OpenAI, api: httpx2.Client, provider: ScriptedProvider
) -> None:
    provider.script(ok("One."), ok("Two."), ok("Other two."))
    first = client.responses.create(model=MODELS[0], input="1")
    client.responses.create(model=MODELS[0], input="2", previous_response_id=first.id)
    assert len(api.get("/v1/threads").json()["data"]) == 1
    branch = client.responses.create(model=MODELS[0], input="2, again", previous_response_id=first.id)
    assert said(provider) == [("user", "1"), ("assistant", "One."), ("user", "2, again")]
    assert branch.output_text == "Other two."
    threads = api.get("/v1/threads").json()["data"]
    assert [thread["message_count"] for thread in threads] == [4, 4]


def test_in_a_conversation(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(ok("Hello Kim."), ok("Kim."), ok("Aside."))
    made = client.conversations.create()
    first = client.responses.create(model=MODELS[0], input="I am Kim.", conversation=made.id)
    assert first.conversation
    assert first.conversation.id == made.id
    client.responses.create(model=MODELS[0], input="Who am I?", conversation={"id": made.id})
    assert items_of(client, made.id) == ["I am Kim.", "Hello Kim.", "Who am I?", "Kim."]
    # Going on from a response is no part of the conversation that it was in.
    aside = client.responses.create(model=MODELS[0], input="Aside?", previous_response_id=first.id)
    assert said(provider) == [("user", "I am Kim."), ("assistant", "Hello Kim."), ("user", "Aside?")]
    assert aside.conversation is None
    assert len(items_of(client, made.id)) == 4
    shown = client.responses.input_items.list(first.id)
    assert [item.content[0].text for item in shown] == ["I am Kim."]  # type: ignore[union-attr]


def test_a_conversation_is_locked_while_a_response_is_made(client: OpenAI, provider: ScriptedProvider) -> None:
    made = client.conversations.create()
    provider.script(stall(after=1))
    with client.responses.create(model=MODELS[0], input="Hello?", conversation=made.id, stream=True) as stream:
        events = iter(stream)
        begun: Any = next(events)
        provider.wait_until(lambda: len(provider.asked) == 1)  # so that what it is to say next is for the next
        for ask in (
            lambda: client.responses.create(model=MODELS[0], input="And?", conversation=made.id),
            lambda: client.responses.create(model=MODELS[0], input="And?", previous_response_id=begun.response.id),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                ask()
            assert (refused.value.code, refused.value.param) == ("conversation_locked", "conversation")
        assert client.responses.cancel(begun.response.id).status in ("in_progress", "cancelled")
        *_, last = events
        assert (last.type, last.response.status) == ("response.failed", "cancelled")  # type: ignore[union-attr]
    provider.script(ok("Yes."))
    assert client.responses.create(model=MODELS[0], input="Now?", conversation=made.id).output_text == "Yes."


@pytest.mark.parametrize("model", MODELS)
def test_tools(client: OpenAI, provider: ScriptedProvider, model: str) -> None:
    provider.script(blocks(USE), ok("A spade."))
    first = client.responses.create(model=model, input="What is there?", tools=[LOOK], tool_choice="required")
    (call,) = first.output
    assert first.status == "completed"
    assert (call.type, call.name, call.call_id) == ("function_call", "look", "call_1")  # type: ignore[union-attr]
    assert call.arguments == '{"at":"the shed"}'  # type: ignore[union-attr]
    wanted = "required" if model.startswith("gpt") else {"type": "any"}
    assert provider.asked[0].body["tool_choice"] == wanted
    output: Any = {"type": "function_call_output", "call_id": "call_1", "output": "a spade"}
    second = client.responses.create(model=model, input=[output], tools=[LOOK], previous_response_id=first.id)
    assert second.output_text == "A spade."
    assert "a spade" in str(provider.asked[1].body["messages"][-1])


@pytest.mark.parametrize("model", MODELS)
def test_streaming(client: OpenAI, provider: ScriptedProvider, model: str) -> None:
    content = [{"type": "text", "text": "I look there."}, USE, {**USE, "id": "call_2"}]
    provider.script(blocks(*([SIGNED] if model.startswith("claude") else []), *content))
    with client.responses.stream(model=model, input="What is there?", tools=[LOOK]) as stream:
        events: list[Any] = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "I look there." == final.output_text
    done = [event for event in events if event.type == "response.output_item.done"]
    assert [event.output_index for event in done] == list(range(len(final.output)))
    assert [event.item.id for event in done] == [item.id for item in final.output]
    kinds = ["message", "function_call", "function_call"]
    assert [item.type for item in final.output] == (["reasoning", *kinds] if model.startswith("claude") else kinds)
    kept = client.responses.retrieve(final.id)
    assert [item.id for item in kept.output] == [item.id for item in final.output]
    if model.startswith("claude"):
        assert kept.output[0].encrypted_content  # type: ignore[union-attr]
    # It can be taken up again behind any event, and is the same.
    again: list[Any] = list(client.responses.retrieve(final.id, stream=True, starting_after=2))
    assert [(event.sequence_number, event.type) for event in again] == [
        (event.sequence_number, event.type) for event in events[3:]
    ]


def test_a_stream_is_what_happens(client: OpenAI, provider: ScriptedProvider) -> None:
    """The text comes before the reply is whole."""
    provider.script(stall("One two three.", after=2))
    with client.responses.create(model=MODELS[0], input="Count.", stream=True) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break
            if event.type == "response.created":
                id_ = event.response.id
        client.responses.cancel(id_)
    assert client.responses.retrieve(id_).model == MODELS[0]


def test_usage_with_cached_tokens(client: OpenAI, provider: ScriptedProvider) -> None:
    usage = {"input_tokens": 10, "cache_read_input_tokens": 70, "cache_creation_input_tokens": 20, "output_tokens": 5}
    provider.script(ok(usage=usage))
    made = client.responses.create(model="claude-sonnet-5", input="Hello?")
    assert made.usage
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (100, 5, 105)
    details = made.usage.input_tokens_details
    assert (details.cached_tokens, details.cache_write_tokens) == (70, 20)


def test_what_is_not_to_be_stored_is_not(client: OpenAI, api: httpx2.Client, provider: ScriptedProvider) -> None:
    first = client.responses.create(model=MODELS[0], input="Remember.")
    before = api.get("/v1/threads").json()["data"]
    provider.script(ok("Secret."), ok("Streamed."))
    made = client.responses.create(model=MODELS[0], input="Psst.", store=False, previous_response_id=first.id)
    assert (made.output_text, made.store) == ("Secret.", False)
    with client.responses.stream(model=MODELS[0], input="Psst.", store=False) as stream:
        assert stream.get_final_response().output_text == "Streamed."
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)
    deadline = threading.Event()
    for _ in range(200):
        if (found := api.get("/v1/threads").json()["data"]) == before:
            break
        deadline.wait(0.05)
    assert found == before


def test_what_a_killed_process_left_is_swept(
    client: OpenAI, api: httpx2.Client, provider: ScriptedProvider, database_url: str
) -> None:
    first = client.responses.create(model=MODELS[0], input="Remember.")
    before = api.get("/v1/threads").json()["data"]
    provider.respond = lambda asked: stall(after=1)
    fields: Any = {"model": MODELS[0], "input": "Psst.", "store": False, "stream": True}
    for previous in ({}, {"previous_response_id": first.id}):
        with client.responses.create(**fields, **previous) as stream:
            next(event for event in stream if event.type == "response.output_text.delta")
            assert len(api.get("/v1/threads").json()["data"]) == len(before) + 1
            assert swept(database_url, timedelta(minutes=30)) == 0
            assert swept(database_url, timedelta(hours=2)) == 1
            assert api.get("/v1/threads").json()["data"] == before


def test_a_copy_of_what_is_not_to_be_stored_is_kept(
    client: OpenAI, api: httpx2.Client, provider: ScriptedProvider, database_url: str
) -> None:
    provider.respond = lambda asked: stall(after=1)
    with client.responses.create(model=MODELS[0], input="Psst.", store=False, stream=True) as stream:
        next(event for event in stream if event.type == "response.output_text.delta")
        unkept = api.get("/v1/threads").json()["data"][0]["id"]
        copy = api.post(f"/v1/threads/{unkept}/fork", json={"seq": 1}).json()["id"]
        assert swept(database_url, timedelta(hours=2)) == 1
    assert [thread["id"] for thread in api.get("/v1/threads").json()["data"]] == [copy]


def swept(database_url: str, later: timedelta) -> int:
    """How many threads a sweep deletes."""

    async def run() -> int:
        runtime = open_runtime(Settings(), OpenDatabase(database_url, embedded=False, described=""))
        try:
            return (await sweep(runtime, datetime.now(UTC) + later))["threads"]
        finally:
            await runtime.close()

    return asyncio.run(run())


def test_truncation(client: OpenAI, provider: ScriptedProvider) -> None:
    """Too much is refused, and nothing of it stays; with `auto` the oldest is left out."""
    model = "claude-opus-4-5"  # takes 200,000 tokens
    made = client.conversations.create()
    client.responses.create(model=model, input="The first word is spade.", conversation=made.id)
    for _ in range(2):
        long: Any = {"type": "message", "role": "user", "content": "many words " * 75_000}
        client.conversations.items.create(made.id, items=[long])
    kept = len(items_of(client, made.id))
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=model, input="What?", conversation=made.id)
    assert caught.value.code == "context_length_exceeded"
    assert len(items_of(client, made.id)) == kept
    cut = client.responses.create(model=model, input="What?", conversation=made.id, truncation="auto")
    assert (cut.status, cut.truncation) == ("completed", "auto")
    recalled, question = said(provider)
    assert "The first word is spade." in recalled[1]
    assert question == ("user", "What?")


def test_the_model_is_told_what_the_caller_asks(client: OpenAI, provider: ScriptedProvider) -> None:
    schema: Any = {"type": "json_schema", "name": "answer", "schema": {"type": "object"}, "strict": True}
    client.responses.create(
        model="gpt-5.4",
        input=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello?"}],
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=77,
        text={"format": schema},
        tools=[LOOK],
        parallel_tool_calls=False,
        tool_choice={"type": "function", "name": "look"},
        reasoning={"effort": "low"},
    )
    body = provider.asked[-1].body
    assert (body["temperature"], body["top_p"], body["max_completion_tokens"]) == (0.5, 0.9, 77)
    assert body["response_format"]["json_schema"] == {"name": "answer", "schema": {"type": "object"}, "strict": True}
    assert (body["parallel_tool_calls"], body["reasoning_effort"]) == (False, "low")
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert said(provider)[0] == ("user", "<developer>\nBe brief.\n</developer>")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"background": True}, "background"),
        ({"prompt": {"id": "p"}}, "prompt templates"),
        ({"tools": [{"type": "web_search"}]}, "web_search"),
        ({"conversation": "conv_1", "previous_response_id": "resp_1"}, "cannot both be given"),
        ({"truncation": "middle"}, "truncation"),
        ({"input": [{"type": "computer_call", "id": "c"}]}, "computer_call"),
        ({"model": "claude-sonnet-5", "text": {"format": {"type": "json_object"}}}, "know no such format"),
        ({"tools": [LOOK], "tool_choice": "perhaps"}, "'none', 'auto' or 'required'"),
        ({"tools": [LOOK], "tool_choice": {"type": "function", "function": {"name": "look"}}}, "with its name"),
        ({"tools": [LOOK], "tool_choice": {"type": "function", "name": "hear"}}, "no function 'hear'"),
        ({"input": 5}, "`input`: must be a string or a list"),
        ({"input": []}, "`input` must end with"),
    ],
)
def test_what_is_refused(client: OpenAI, api: httpx2.Client, fields: Any, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says):
        client.responses.create(**{"model": MODELS[0], "input": "Hello?", **fields})
    assert api.get("/v1/threads").json()["data"] == []


def test_compaction_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="not supported"):
        client.responses.compact(model=MODELS[0])


def test_a_failed_response_says_why(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(status(401))
    made = client.responses.create(model=MODELS[0], input="Hello?")
    assert (made.status, made.output) == ("failed", [])
    assert made.error
    assert made.error.code == "server_error"


def test_cut_short(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(ok("It all began", stop_reason="max_tokens"))
    made = client.responses.create(model=MODELS[0], input="Tell.", max_output_tokens=16)
    assert made.status == "incomplete"
    assert made.incomplete_details
    assert made.incomplete_details.reason == "max_output_tokens"
    assert made.output[0].status == "incomplete"  # type: ignore[union-attr]


def test_deleting_responses(client: OpenAI, api: httpx2.Client) -> None:
    first = client.responses.create(model=MODELS[0], input="One")
    second = client.responses.create(model=MODELS[0], input="Two", previous_response_id=first.id)
    for made in (first, second):
        client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(made.id)
    assert api.get("/v1/threads").json()["data"] == []


def test_a_deleted_response_takes_its_messages_along(client: OpenAI, api: httpx2.Client) -> None:
    """Unless others go on from it; in a conversation they are its items."""
    conversation = client.conversations.create()
    kept = client.responses.create(model=MODELS[0], input="Item", conversation=conversation.id)
    client.responses.delete(kept.id)
    assert len(items_of(client, conversation.id)) == 2
    first = client.responses.create(model=MODELS[0], input="One")
    second = client.responses.create(model=MODELS[0], input="Two", previous_response_id=first.id)
    third = client.responses.create(model=MODELS[0], input="Three", previous_response_id=second.id)
    (thread,) = [t["id"] for t in api.get("/v1/threads").json()["data"] if t["id"] != conversation.id]
    for deleted, left in ((second, 6), (third, 4)):
        client.responses.delete(deleted.id)
        assert len(api.get(f"/v1/threads/{thread}/messages").json()["data"]) == left
    assert client.responses.create(model=MODELS[0], input="Other", previous_response_id=first.id).output_text


def test_a_repeated_request_is_answered_once(service: Service, api_key: str, provider: ScriptedProvider) -> None:
    """At the same time, later, and as a stream; with another body it is refused."""
    provider.respond = lambda asked: ok("It is I.", delay=0.05)
    same: Any = {"model": MODELS[0], "input": "Who?", "extra_headers": {"idempotency-key": "key"}}
    with OpenAI(base_url=f"{service.url}/openai/v1", api_key=api_key) as client, ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: client.responses.create(**same), range(4)))
        made.append(client.responses.create(**same))
        assert {(one.id, one.output_text) for one in made} == {(made[0].id, "It is I.")}
        streamed: Any = {**same, "stream": True, "extra_headers": {"idempotency-key": "other"}}
        told = [[event.to_dict() for event in client.responses.create(**streamed)] for _ in range(2)]
        assert told[0] == told[1]
        assert len(provider.asked) == 2
        error = refused(lambda: client.responses.create(**{**same, "input": "Where?"}))
        assert (error.status_code, error.code) == (400, "idempotency_conflict")
        client.responses.delete(made[0].id)
        assert refused(lambda: client.responses.create(**same)).status_code == 404
        assert len(provider.asked) == 2


def test_a_stream_of_what_was_deleted_ends(client: OpenAI, provider: ScriptedProvider) -> None:
    provider.script(stall(after=1))
    conversation = client.conversations.create()
    types = []
    for event in client.responses.create(model=MODELS[0], input="Hm?", conversation=conversation.id, stream=True):
        types.append(event.type)
        if event.type == "response.output_text.delta":
            client.conversations.delete(conversation.id)
    assert types[-2:] == ["response.output_text.delta", "error"]


def test_input_tokens(client: OpenAI, api: httpx2.Client, provider: ScriptedProvider) -> None:
    provider.script(ok("word " * 500))
    first = client.responses.create(model=MODELS[0], input="Hello?")
    alone = client.responses.input_tokens.count(model=MODELS[0], input="How many?").input_tokens
    behind = client.responses.input_tokens.count(
        model=MODELS[0], input="How many?", previous_response_id=first.id
    ).input_tokens
    assert 0 < alone < 100 < behind < 1_500
    assert client.responses.input_tokens.count().input_tokens == 0
    assert client.responses.input_tokens.count(instructions="Be brief.").input_tokens > 0
    assert len(provider.asked) == 1
    assert len(api.get("/v1/threads").json()["data"]) == 1


def test_nobody_else_sees_it(client: OpenAI, other_client: OpenAI) -> None:
    made = client.conversations.create()
    first = client.responses.create(model=MODELS[0], input="Mine.", conversation=made.id)
    for ask in (
        lambda: other_client.responses.retrieve(first.id),
        lambda: other_client.responses.delete(first.id),
        lambda: other_client.responses.cancel(first.id),
        lambda: other_client.responses.input_items.list(first.id),
        lambda: other_client.responses.create(model=MODELS[0], input="x", previous_response_id=first.id),
        lambda: other_client.responses.create(model=MODELS[0], input="x", conversation=made.id),
        lambda: other_client.responses.input_tokens.count(conversation=made.id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
