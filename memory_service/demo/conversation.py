"""What is played: the messages of one conversation, in order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Role = Literal["user", "assistant"]
Block = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One message. `content` is text or Anthropic content blocks.

    `expects` holds exact substrings of older messages that a good prompt for this message brings back.
    """

    role: Role
    content: str | list[Block]
    created_at: datetime | None = None
    expects: tuple[str, ...] = ()

    @property
    def answers_tools(self) -> bool:
        """Whether it goes on with a tool loop instead of asking something new."""
        return not isinstance(self.content, str) and any(block.get("type") == "tool_result" for block in self.content)


@dataclass(frozen=True, slots=True)
class Conversation:
    """`system` is the conversation's own; `shared`, system texts it has from an assistant. `documents` follow `system`."""

    title: str
    system: str | None
    lines: list[Line]
    tools: tuple[Block, ...] = ()
    shared: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
