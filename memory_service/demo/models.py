"""What answers in the demo: a real model server, or an echo that predicts."""

from __future__ import annotations

from typing import Any, Protocol

from memory_service.demo.conversation import Conversation
from memory_service.demo.engine import Engine

_BYTES_PER_TOKEN = 4.4
_SMALLEST_BUDGET_BYTES = 4_096
_LARGEST_BUDGET_BYTES = 24_576
_OVERHEAD_BYTES_PER_MESSAGE = 16


class PlayedModel(Protocol):
    """`measured`: whether usage comes from an engine, or is predicted."""

    provider: str
    name: str
    measured: bool

    def call(self, prompt: Any) -> Any:
        """Answer a prompt; returns the usage."""
        ...

    def budget_for(self, conversation: Conversation, share: float) -> int:
        """A prompt budget, in this model's tokens, of about that share of the conversation."""
        ...


class EngineModel:
    """The generated model on llama.cpp, called with the official SDK. Its tokens are bytes."""

    provider = "anthropic"
    measured = True

    def __init__(self, engine: Engine) -> None:
        from anthropic import Anthropic

        self.name = engine.model_name
        self._client = Anthropic(base_url=engine.base_url, api_key="unused")

    def call(self, prompt: Any) -> Any:
        return self._client.messages.create(**prompt.request).usage

    def budget_for(self, conversation: Conversation, share: float) -> int:
        return _budget_bytes(conversation, share)


class EchoModel:
    """No model at all: reports what the service predicted."""

    provider = "echo"
    name = "echo"
    measured = False

    def call(self, prompt: Any) -> Any:
        prediction = prompt.prediction
        return {
            "input_tokens": prediction.uncached_tokens,
            "cache_read_input_tokens": prediction.cache_read_tokens,
            "cache_creation_input_tokens": prediction.cache_write_tokens,
            "output_tokens": 0,
        }

    def budget_for(self, conversation: Conversation, share: float) -> int:
        return int(_budget_bytes(conversation, share) / _BYTES_PER_TOKEN)


def _budget_bytes(conversation: Conversation, share: float) -> int:
    """A share of the conversation, but never less than its largest turn needs beside the system part."""
    turns: list[int] = []
    for line in conversation.lines:
        size = _bytes(line.content) + _OVERHEAD_BYTES_PER_MESSAGE
        if not turns or (line.role == "user" and not line.answers_tools):
            turns.append(0)
        turns[-1] += size
    wanted = min(_LARGEST_BUDGET_BYTES, max(_SMALLEST_BUDGET_BYTES, int(sum(turns) * share)))
    needed = _bytes(conversation.system or "") + 2 * max(turns, default=0)
    return max(wanted, needed)


def _bytes(content: str | list[dict[str, Any]]) -> int:
    return len((content if isinstance(content, str) else str(content)).encode())
