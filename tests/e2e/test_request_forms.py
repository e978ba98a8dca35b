"""Both request forms, taken by the official SDKs and by a real server: conversations, and tool loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from memory_client import MemoryClient, Prompt

from memory_service.demo.engine import Engine
from tests.conftest import Service

TOOL = {
    "name": "weather",
    "description": "The weather of a place.",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
}
INSTRUCTIONS = "You are a travel assistant. " * 20


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    if not Engine.available():
        pytest.skip("xllamacpp is not installed; `make engine` installs it where a wheel exists")
    with Engine() as running:
        yield running


@pytest.fixture
def memory(service: Service, api_key: str) -> Iterator[MemoryClient]:
    with MemoryClient(service.url, api_key) as client:
        yield client


class Model:
    """Calls the engine in one form, and says how many prompt tokens it counted and read from its prompt cache."""

    def __init__(self, provider: str, engine: Engine) -> None:
        self.provider = provider
        self.name = engine.model_name
        self.anthropic = anthropic.Anthropic(base_url=engine.base_url, api_key="unused", max_retries=0)
        self.openai = openai.OpenAI(base_url=f"{engine.base_url}/v1", api_key="unused", max_retries=0)

    def call(self, prompt: Prompt) -> tuple[dict[str, Any], int, int]:
        if self.provider == "anthropic":
            usage = self.anthropic.messages.create(**prompt.request).usage
            read = usage.cache_read_input_tokens or 0
            return usage.model_dump(exclude_none=True), usage.input_tokens + read, read
        counted = self.openai.chat.completions.create(**prompt.request).usage
        assert counted
        assert counted.prompt_tokens_details
        read = counted.prompt_tokens_details.cached_tokens or 0
        return counted.model_dump(exclude_none=True), counted.prompt_tokens, read


@pytest.fixture(params=["anthropic", "openai"])
def model(request: pytest.FixtureRequest, engine: Engine) -> Iterator[Model]:
    called = Model(request.param, engine)
    with called.anthropic, called.openai:
        yield called


def test_a_conversation_reads_what_the_last_prompt_wrote(memory: MemoryClient, model: Model) -> None:
    thread = memory.threads.create(instructions=INSTRUCTIONS, metadata={"form": model.provider})
    previous = 0
    for turn in range(6):
        prompt = memory.threads.prompts.build(
            thread.id,
            provider=model.provider,
            model=model.name,
            max_prompt_tokens=16_000,
            max_output_tokens=4,
            message=f"Question {turn}: what should I see in Lisbon on day {turn}? {'Tell me more. ' * 10}",
        )
        usage, counted, read = model.call(prompt)
        report = memory.threads.prompts.report_usage(
            thread.id,
            prompt.id,
            usage=usage,
            message={"role": "assistant", "content": f"On day {turn} see the river. " * 5},
        )
        assert report.raw["reported"]["cache_read_tokens"] == read
        assert read >= previous - 20, "the prompt before was not read again"
        previous = counted


def test_a_tool_loop_only_appends(memory: MemoryClient, model: Model) -> None:
    thread = memory.threads.create(instructions=INSTRUCTIONS, tools=[TOOL], metadata={"form": model.provider})
    memory.threads.messages.append(thread.id, "user", "What is the weather where I may go?")
    previous = 0
    for step in range(15):
        prompt = memory.threads.prompts.build(
            thread.id, provider=model.provider, model=model.name, max_prompt_tokens=30_000, max_output_tokens=4
        )
        usage, counted, read = model.call(prompt)
        memory.threads.prompts.report_usage(
            thread.id,
            prompt.id,
            usage=usage,
            message={
                "role": "assistant",
                "content": [
                    {"type": "text", "text": f"Step {step}."},
                    {"type": "tool_use", "id": f"call_{step}_a", "name": "weather", "input": {"place": f"city {step}"}},
                    {"type": "tool_use", "id": f"call_{step}_b", "name": "weather", "input": {"place": f"town {step}"}},
                ],
            },
        )
        results = [
            {"type": "tool_result", "tool_use_id": f"call_{step}_{call}", "content": f"sunny, {step + 10} degrees"}
            for call in "ab"
        ]
        memory.threads.messages.append(thread.id, "user", results)
        assert prompt.breaks == []
        assert len(prompt.breakpoints) <= 4
        assert read >= previous - 20, f"step {step} did not read the step before"
        previous = counted
