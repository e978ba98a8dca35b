"""Long conversations by runs, with a real model server behind the official SDKs of both protocols."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import httpx2
import openai
import pytest

from memory_service.demo.engine import Engine
from memory_service.demo.sources import load_conversation
from tests.conftest import Service, evaluation_data
from tests.providers.scripted import Asked, Behaviour, ScriptedProvider, scripted, tool_use
from tests.runs.conftest import Runs

ROUND_TRIPS = 15
MAX_PROMPT_TOKENS = 24_576
TOOLS = [
    {
        "name": "look",
        "description": "Look.",
        "input_schema": {"type": "object", "properties": {"where": {"enum": ["shed", "boat"]}}, "required": ["where"]},
    }
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if not Engine.available():
        pytest.skip("xllamacpp is not installed; `make engine` installs it where a wheel exists")
    with Engine() as running:
        yield running


@pytest.fixture(scope="module")
def calling(engine: Engine) -> Iterator[ScriptedProvider]:
    """In front of the engine, whose model cannot call tools: what it is asked and counts is the engine's, its replies are
    calls."""
    with scripted() as provider, httpx2.Client(base_url=engine.base_url, timeout=120) as real:

        def respond(asked: Asked) -> Behaviour:
            counted = real.post(asked.path, json={**asked.body, "stream": False, "stream_options": None}).json()
            return tool_use("look", {"where": "shed"}, call_id=f"call_{len(provider.asked)}", usage=counted["usage"])

        provider.respond = respond
        yield provider


@pytest.fixture(scope="module", params=["engine", "calling"])
def served(database_url: str, request: pytest.FixtureRequest) -> Iterator[Service]:
    behind = request.getfixturevalue(request.param)
    url = behind.base_url if isinstance(behind, Engine) else behind.url
    env = {
        "MEMORY_DATABASE_URL": database_url,
        "MEMORY_COUNT_TOKENS": "off",
        "ANTHROPIC_API_KEY": "unused",
        "ANTHROPIC_BASE_URL": url,
        "OPENAI_API_KEY": "unused",
        "OPENAI_BASE_URL": f"{url}/v1",
    }
    service = Service.start(env=env)
    yield service
    service.stop()


@pytest.fixture
def client(served: Service, api_key: str) -> Iterator[httpx2.Client]:
    headers = {"authorization": f"Bearer {api_key}"}
    with httpx2.Client(base_url=served.url, headers=headers, timeout=120) as opened:
        yield opened


@pytest.mark.parametrize("served", ["engine"], indirect=True)
@pytest.mark.parametrize("turns", [50, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", ["anthropic", "openai"])
def test_a_long_conversation(client: httpx2.Client, engine: Engine, form: str, turns: int) -> None:
    conversation = load_conversation(evaluation_data() / "locomo" / "locomo_dev6.json", pick="conv-26")
    said = [line.content for line in conversation.lines]
    thread = Runs(client, engine.model_name)
    options = {"provider": form, "max_prompt_tokens": MAX_PROMPT_TOKENS, "max_output_tokens": 8}
    refused = []
    for turn, text in enumerate(islice(said, turns)):
        if turn % 2:
            run = thread.run(text, wait=True, **options)
        else:
            with thread.stream(text, **options) as stream:
                run = list(stream)[-1][2]["run"]
        if run["status"] not in ("completed", "incomplete"):
            refused.append(run["last_error"])
    assert refused == []
    used = thread.ask("GET", "/v1/usage")["totals"]
    assert used["calls"] == turns
    share = used["cache_read_share"]
    assert share >= 0.85, f"only {share:.1%} read from the engine's prompt cache"


@pytest.mark.parametrize("served", ["engine"], indirect=True)
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning", "ignore:The Assistants API:DeprecationWarning")
def test_cached_tokens_through_openais_api(served: Service, api_key: str, engine: Engine) -> None:
    """They are the engine's own count."""
    with openai.OpenAI(base_url=f"{served.url}/openai/v1", api_key=api_key) as client:
        assistant = client.beta.assistants.create(model=engine.model_name, instructions="Remember all. " * 20)
        thread = client.beta.threads.create()
        cached: list[float] = []
        for turn in range(8):
            asked = {"role": "user", "content": f"And what came after chapter {turn}? " * 5}
            run = client.beta.threads.runs.create_and_poll(
                thread_id=thread.id,
                assistant_id=assistant.id,
                additional_messages=[asked],  # type: ignore[list-item]
                max_completion_tokens=256,
            )
            assert run.usage
            details = (run.usage.model_extra or {})["prompt_token_details"]
            cached.append(details["cached_tokens"] / run.usage.prompt_tokens)
    # A first token that opens every prompt may be left in the engine's slot by a conversation before this one.
    assert cached[0] < 0.01, cached
    assert min(cached[2:]) > 0.5, cached


@pytest.mark.parametrize("served", ["calling"], indirect=True)
@pytest.mark.parametrize("form", ["anthropic", "openai"])
def test_a_tool_loop(client: httpx2.Client, engine: Engine, form: str) -> None:
    thread = Runs(client, engine.model_name)
    options = {"provider": form, "max_prompt_tokens": MAX_PROMPT_TOKENS, "tools": TOOLS}
    run = thread.run("Look everywhere. " * 20, wait=True, **options)
    for number in range(ROUND_TRIPS):
        (call,) = run["required_action"]["tool_calls"]
        run = thread.answer(run, {call["id"]: f"Nothing there, {number}."}, wait=True)
    assert run["usage"]["calls"] == ROUND_TRIPS + 1
    thread.cancel(run)
    inside = thread.ask("GET", f"{thread.path}/prompts?limit={ROUND_TRIPS}")["data"]
    read = sum(prompt["reported"]["cache_read_tokens"] for prompt in inside)
    share = read / sum(
        prompt["reported"]["uncached_tokens"] + prompt["reported"]["cache_read_tokens"] for prompt in inside
    )
    assert share >= 0.85, f"only {share:.1%} read inside the loop"
