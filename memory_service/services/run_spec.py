"""What a run was asked for, as it is kept with the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memory_service.core.canonical import dumps, loads
from memory_service.core.plan import RecallSpec
from memory_service.core.runs import RunBudget
from memory_service.core.truncation import TruncationStrategy
from memory_service.services.planning import PromptSpec

DEFAULT_TIMEOUT_SECONDS = 600
#: How long a run waits for the outputs of its tools.
DEFAULT_TOOL_TIMEOUT_SECONDS = 600


@dataclass(frozen=True, slots=True)
class RunSpec:
    """`parameters` are added to each request as they are. `timeout_seconds` bounds the time in which the run works.

    `leaves_calls`: tool calls are answered by a message after the run, which is completed by them. `openai` is what only
    OpenAI's objects show of it.
    """

    prompt: PromptSpec
    parameters: Mapping[str, Any] = field(default_factory=dict)
    budget: RunBudget = RunBudget()
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    tool_timeout_seconds: float = DEFAULT_TOOL_TIMEOUT_SECONDS
    leaves_calls: bool = False
    openai: Mapping[str, Any] | None = None

    def to_json(self) -> str:
        return dumps(self)

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        kept = loads(text)
        return cls(
            prompt=_prompt_spec(kept["prompt"]),
            parameters=kept["parameters"],
            budget=RunBudget(**kept["budget"]),
            timeout_seconds=kept["timeout_seconds"],
            tool_timeout_seconds=kept["tool_timeout_seconds"],
            leaves_calls=kept.get("leaves_calls", False),
            openai=kept.get("openai"),
        )


def _prompt_spec(kept: Mapping[str, Any]) -> PromptSpec:
    strategy, recall, tools = kept["strategy"], kept["recall"], kept["tools"]
    return PromptSpec(
        **{
            **kept,
            "strategy": TruncationStrategy(**strategy) if strategy else None,
            "recall": RecallSpec(**recall) if recall else None,
            "context": tuple(kept["context"]),
            "tools": None if tools is None else tuple(tools),
        }
    )
