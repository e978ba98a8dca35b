"""Runs and what is heard of them, as frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ._decode import Model
from .objects import CachePrediction, Message, PrefixBreak, PromptTokens, Window

STOPPED = frozenset({"requires_action", "completed", "incomplete", "failed", "cancelled", "expired"})
"""In these a run goes on only when its caller does something, if ever."""


@dataclass(frozen=True, kw_only=True)
class ToolCall(Model):
    id: str
    """`tool_use_id` of its output."""
    name: str
    input: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RequiredAction(Model):
    """The calls whose outputs the run waits for; they are sent together."""

    type: str
    tool_calls: list[ToolCall] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class LastError(Model):
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunUsage(Model):
    """What all calls of the run used, by the provider's count. `seconds` leaves out the waiting for tools."""

    calls: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    uncached_tokens: int = 0
    prompt_tokens: int = 0
    """The three together."""
    output_tokens: int = 0
    cost_usd: float | None = None
    """Replies included; None when a price is not known."""
    saved_usd: float | None = None
    """What the prompt cache saved of it; below 0 while it costs more to write than it saved."""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Run(Model):
    """`reply` is the newest message that the run wrote; it is not there in lists."""

    id: str
    thread_id: str
    status: str
    created_at: datetime
    provider: str | None = None
    model: str | None = None
    required_action: RequiredAction | None = None
    last_error: LastError | None = None
    incomplete_reason: str | None = None
    usage: RunUsage = field(default_factory=lambda: RunUsage(raw={}))
    reply: Message | None = None
    message_ids: list[str] = field(default_factory=list)
    prompt_ids: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    started_at: datetime | None = None
    expires_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def text(self) -> str:
        """The text of its reply."""
        blocks = self.reply.content if self.reply else []
        return "".join(block["text"] for block in blocks if block.get("type") == "text")

    @property
    def tool_calls(self) -> list[ToolCall]:
        """What it waits for."""
        return self.required_action.tool_calls if self.required_action else []


@dataclass(frozen=True, kw_only=True)
class _Event(Model):
    event: str
    seq: int | None = None
    """Behind which a stream is taken up again: `resume(…, after=event.seq)`."""


@dataclass(frozen=True, kw_only=True)
class RunCreated(_Event):
    run: Run


@dataclass(frozen=True, kw_only=True)
class PromptBuilt(_Event):
    """`prompts.get(thread_id, prompt_id)` has the whole explanation."""

    prompt_id: str
    tokens: PromptTokens = field(default_factory=lambda: PromptTokens(raw={}))
    prediction: CachePrediction = field(default_factory=lambda: CachePrediction(raw={}))
    window: Window = field(default_factory=lambda: Window(raw={}))
    breaks: list[PrefixBreak] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class MessageDelta(_Event):
    """A piece of block `index`: `type` is `text`, `thinking`, `tool_input`, or `tool_use`, which has `id` and `name`."""

    message_id: str
    index: int
    type: str
    text: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class MessageCompleted(_Event):
    """A message as it is kept; None if it was deleted since."""

    message: Message | None = None


@dataclass(frozen=True, kw_only=True)
class RunStopped(_Event):
    """`run.requires_action`, `run.completed`, `run.incomplete`, `run.failed`, `run.cancelled` or `run.expired`."""

    run: Run


RunEvent = RunCreated | PromptBuilt | MessageDelta | MessageCompleted | RunStopped

_KINDS: Mapping[str, type[RunEvent]] = {
    "run.created": RunCreated,
    "prompt.built": PromptBuilt,
    "message.delta": MessageDelta,
    "message.completed": MessageCompleted,
    **{f"run.{status}": RunStopped for status in STOPPED},
}


def run_event(name: str, seq: int | None, data: Any) -> RunEvent | None:
    """None for a kind that this version of the client does not know. Raises ValueError where it does not fit."""
    kind = _KINDS.get(name)
    if kind is None:
        return None
    if not isinstance(data, dict):
        raise ValueError(f"{name}: expected an object, got {type(data).__name__}")
    return kind.from_json({**data, "event": name, "seq": seq})


@dataclass(frozen=True)
class ChatReply:
    """What a run answered. `incomplete_reason` says why it is cut, None if it is whole."""

    run: Run

    @property
    def text(self) -> str:
        return self.run.text

    @property
    def message(self) -> Message | None:
        """As it is kept in the thread; None when the run ended before the model said anything."""
        return self.run.reply

    @property
    def usage(self) -> RunUsage:
        return self.run.usage

    @property
    def incomplete_reason(self) -> str | None:
        return self.run.incomplete_reason

    def __str__(self) -> str:
        return self.text
