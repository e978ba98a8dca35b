"""What answers in the demo: a real model server, or an echo that predicts."""

from __future__ import annotations

from typing import Any, Protocol

from memory_service.demo.conversation import Conversation, Line
from memory_service.demo.engine import Engine

_BYTES_PER_TOKEN = 4.4
_SMALLEST_ENGINE_BUDGET = 4_096
_LARGEST_ENGINE_BUDGET = 24_576
_SMALLEST_ECHO_BUDGET = 1_024
_LARGEST_ECHO_BUDGET = 32_000


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
        wanted = int(_bytes(conversation) * share)
        return min(_LARGEST_ENGINE_BUDGET, max(_SMALLEST_ENGINE_BUDGET, wanted))


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
        wanted = int(_bytes(conversation) / _BYTES_PER_TOKEN * share)
        return min(_LARGEST_ECHO_BUDGET, max(_SMALLEST_ECHO_BUDGET, wanted))


def _bytes(conversation: Conversation) -> int:
    return sum(len(_text(line).encode()) for line in conversation.lines)


def _text(line: Line) -> str:
    return line.content if isinstance(line.content, str) else str(line.content)
