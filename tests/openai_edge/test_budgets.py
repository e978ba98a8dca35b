"""Truncation, and the bounds of a run: what the provider was asked decides."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import pytest
from openai import OpenAI
from openai.types.beta import Thread
from openai.types.beta.threads import Run

from tests.openai_edge.conftest import DEPRECATED_API
from tests.providers.scripted import ScriptedProvider, blocks, ok, tool_use

pytestmark = DEPRECATED_API
FORMS = {"anthropic": "claude-sonnet-5", "openai": "gpt-5.4"}
WORDS = "The tide comes in over the flats and the boats rise one after the other. " * 4
LOOK: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


@pytest.fixture(params=FORMS)
def model(request: pytest.FixtureRequest) -> str:
    return FORMS[request.param]


def long_thread(client: OpenAI, turns: int = 20) -> Thread:
    given: list[Any] = []
    for i in range(turns):
        given += [
            {"role": "user", "content": f"Question {i}. {WORDS}"},
            {"role": "assistant", "content": f"Answer {i}."},
        ]
    return client.beta.threads.create(messages=[*given, {"role": "user", "content": "The last question?"}])


def polled(client: OpenAI, thread: Thread, model: str, **fields: Any) -> Run:
    assistant = client.beta.assistants.create(model=model, tools=fields.pop("has", []))
    return client.beta.threads.runs.create_and_poll(
        thread_id=thread.id, assistant_id=assistant.id, poll_interval_ms=20, **fields
    )


def sent(provider: ScriptedProvider) -> str:
    return json.dumps(provider.asked[-1].body["messages"])


def prompt_tokens(api: httpx2.Client, run: Run) -> list[int]:
    """What was counted for each prompt of a run."""
    path = f"/v1/threads/{run.thread_id}"
    ids = api.get(f"{path}/runs/{run.id}").json()["prompt_ids"]
    return [api.get(f"{path}/prompts/{id_}").json()["tokens"]["total"] for id_ in ids]


def test_last_messages(client: OpenAI, provider: ScriptedProvider, model: str) -> None:
    thread = long_thread(client)
    strategy: Any = {"type": "last_messages", "last_messages": 3}
    run = polled(client, thread, model, truncation_strategy=strategy)
    assert run.truncation_strategy
    assert run.truncation_strategy.to_dict() == strategy
    assert "The last question?" in sent(provider)
    assert "Answer 19." in sent(provider)
    assert '"Answer 18."' not in sent(provider)


def test_max_prompt_tokens_truncates(
    client: OpenAI, api: httpx2.Client, provider: ScriptedProvider, model: str
) -> None:
    thread = long_thread(client)
    whole = polled(client, thread, model)
    assert "Question 0." in sent(provider)
    client.beta.threads.messages.create(thread.id, role="user", content="The very last question?")
    run = polled(client, thread, model, max_prompt_tokens=500)
    assert (run.status, run.max_prompt_tokens) == ("completed", 500)
    assert "The very last question?" in sent(provider)
    assert prompt_tokens(api, whole)[0] > 1_500
    assert 0 < prompt_tokens(api, run)[0] <= 500


def test_max_prompt_tokens_counts_over_the_run(client: OpenAI, provider: ScriptedProvider) -> None:
    used = {"prompt_tokens": 600, "completion_tokens": 5, "total_tokens": 605}
    provider.script(tool_use("look", {}, usage=used), ok("never asked"))
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "Hello?"}])
    run = polled(client, thread, FORMS["openai"], has=[LOOK], max_prompt_tokens=610)
    assert run.status == "requires_action"
    ended = client.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id,
        thread_id=thread.id,
        tool_outputs=[{"tool_call_id": "toolu_1", "output": "nothing"}],
        poll_interval_ms=20,
    )
    assert ended.incomplete_details
    assert (ended.status, ended.incomplete_details.reason) == ("incomplete", "max_prompt_tokens")
    assert len(provider.asked) == 1
    assert ended.usage
    assert ended.usage.prompt_tokens == 600


def test_a_question_larger_than_the_bound(client: OpenAI, provider: ScriptedProvider) -> None:
    thread = client.beta.threads.create(messages=[{"role": "user", "content": WORDS * 20}])
    run = polled(client, thread, FORMS["openai"], max_prompt_tokens=256)
    assert run.incomplete_details
    assert (run.status, run.incomplete_details.reason) == ("incomplete", "max_prompt_tokens")
    assert provider.asked == []


def test_a_bound_larger_than_the_model(client: OpenAI, provider: ScriptedProvider) -> None:
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "Hello?"}])
    run = polled(client, thread, FORMS["openai"], max_prompt_tokens=90_000_000, max_completion_tokens=90_000_000)
    assert run.status == "completed", run


def test_max_completion_tokens(client: OpenAI, provider: ScriptedProvider, model: str) -> None:
    provider.script(ok("One two", stop_reason="max_tokens"))
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "Count."}])
    run = polled(client, thread, model, max_completion_tokens=300)
    body = provider.asked[-1].body
    assert (body.get("max_tokens") or body["max_completion_tokens"]) == 300
    assert run.incomplete_details
    assert (run.status, run.incomplete_details.reason) == ("incomplete", "max_completion_tokens")
    (message, _) = client.beta.threads.messages.list(thread.id).data
    assert message.incomplete_details
    assert (message.status, message.incomplete_details.reason) == ("incomplete", "max_tokens")


def test_max_completion_tokens_counts_over_the_run(client: OpenAI, provider: ScriptedProvider) -> None:
    used = {"prompt_tokens": 10, "completion_tokens": 200, "total_tokens": 210}
    provider.script(tool_use("look", {}, usage=used), ok("Done."))
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "Count."}])
    run = polled(client, thread, FORMS["openai"], has=[LOOK], max_completion_tokens=300)
    client.beta.threads.runs.submit_tool_outputs_and_poll(
        run_id=run.id,
        thread_id=thread.id,
        tool_outputs=[{"tool_call_id": "toolu_1", "output": "x"}],
        poll_interval_ms=20,
    )
    assert [asked.body["max_completion_tokens"] for asked in provider.asked] == [300, 100]


@pytest.mark.parametrize(
    ("form", "reported"),
    [
        (
            "anthropic",
            {"input_tokens": 20, "cache_read_input_tokens": 70, "cache_creation_input_tokens": 10, "output_tokens": 7},
        ),
        (
            "openai",
            {
                "prompt_tokens": 100,
                "completion_tokens": 7,
                "total_tokens": 107,
                "prompt_tokens_details": {"cached_tokens": 70},
            },
        ),
    ],
)
def test_usage_with_what_came_from_the_cache(
    client: OpenAI, provider: ScriptedProvider, form: str, reported: dict[str, Any]
) -> None:
    provider.script(blocks({"type": "text", "text": "Hello there."}, usage=reported))
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "Hello?"}])
    run = polled(client, thread, FORMS[form])
    assert run.usage
    assert run.usage.to_dict() == {
        "prompt_tokens": 100,
        "completion_tokens": 7,
        "total_tokens": 107,
        "prompt_token_details": {"cached_tokens": 70},
    }
