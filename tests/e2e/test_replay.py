"""A real conversation, a real model server, the official SDK: does the product do what it is for?"""

from __future__ import annotations

from dataclasses import dataclass, field

import anthropic
import pytest
from memory_client import MemoryClient

from memory_service.demo.conversation import Line
from memory_service.demo.engine import Engine
from memory_service.demo.sources import load_conversation
from tests.conftest import Service, evaluation_data

MAX_PROMPT_TOKENS = 24_576
RECALL_TOKENS = 1_500
CALIBRATION = 20


@dataclass
class Replay:
    """What llama.cpp counted, one entry a prompt, and what the service had estimated."""

    counted: list[int] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    estimated: list[int] = field(default_factory=list)
    predicted_read: list[int] = field(default_factory=list)
    recalled: int = 0


@pytest.mark.slow
def test_locomo_conversation_stays_in_budget_with_a_warm_prefix(service: Service, api_key: str) -> None:
    if not Engine.available():
        pytest.skip("xllamacpp is not installed; `make engine` installs it where a wheel exists")
    conversation = load_conversation(evaluation_data() / "locomo" / "locomo_dev6.json", pick="conv-26")
    with (
        Engine() as engine,
        MemoryClient(service.url, api_key) as client,
        anthropic.Anthropic(base_url=engine.base_url, api_key="unused", max_retries=0) as model,
    ):
        replay = _replay(conversation.lines, client, model, engine.model_name)

    assert len(replay.counted) > 150
    after = replay.counted[CALIBRATION:]
    assert max(after) <= MAX_PROMPT_TOKENS, "over the budget as the engine counts"
    assert max(after) > 0.9 * MAX_PROMPT_TOKENS, "the budget is hardly used: the estimate is far too careful"
    share = sum(replay.read) / sum(replay.counted)
    assert share >= 0.85, f"only {share:.1%} read from the engine's prompt cache"
    assert replay.recalled > 100
    # Before calibration the estimate may be wrong, after it hardly.
    errors = [abs(e - c) / c for e, c in zip(replay.estimated[CALIBRATION:], after, strict=True)]
    assert sum(errors) / len(errors) < 0.05
    predicted = sum(replay.predicted_read) / sum(replay.read)
    assert 0.98 < predicted < 1.02, f"the prediction is off: {predicted:.2f} of what the engine read"


def _replay(lines: list[Line], client: MemoryClient, model: anthropic.Anthropic, name: str) -> Replay:
    replay = Replay()
    thread = client.threads.create(instructions="You are a friend who remembers everything.")
    pending: list[dict[str, object]] = []
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        if line.role == "assistant":
            pending.append({"role": "assistant", "content": line.content})
            continue
        if pending:
            client.threads.messages.append(thread.id, messages=pending)
            pending = []
        if following is not None and following.role == "user":
            pending.append({"role": "user", "content": line.content})
            continue
        prompt = client.threads.prompts.build(
            thread.id,
            provider="anthropic",
            model=name,
            max_prompt_tokens=MAX_PROMPT_TOKENS,
            max_output_tokens=4,
            recall={"max_tokens": RECALL_TOKENS},
            message=line.content,
        )
        usage = model.messages.create(**prompt.request).usage
        client.threads.prompts.report_usage(thread.id, prompt.id, usage=usage)
        read = usage.cache_read_input_tokens or 0
        replay.read.append(read)
        replay.counted.append(usage.input_tokens + read)
        replay.estimated.append(prompt.tokens.total)
        replay.predicted_read.append(prompt.prediction.cache_read_tokens)
        replay.recalled += len(prompt.recalled)
    return replay
