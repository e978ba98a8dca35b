"""Messages, turns, and the rules that keep tool calls and their results together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce
from typing import Any, Literal

from memory_service.core.tokens import TokenCounts
from memory_service.errors import InvalidMessage

Role = Literal["user", "assistant"]
Block = Mapping[str, Any]

THINKING_TYPES = frozenset({"thinking", "redacted_thinking"})
# Text that stands in for a result nobody recorded, so that an abandoned tool call never makes a thread unusable.
MISSING_RESULT = "No result was recorded for this tool call."
# Providers want a user message first; some products greet first.
OPENED_BY_ASSISTANT = "(The assistant opened this conversation.)"


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of a thread. `counts` leaves thinking out; `thinking_tokens` counts it (o200k_base)."""

    seq: int
    id: str
    role: Role
    content: tuple[Block, ...]
    counts: TokenCounts
    created_at: datetime
    thinking_tokens: int = 0

    @property
    def text(self) -> str:
        """What a person would read of it: text blocks and the text of tool results, in order."""
        return "\n".join(block_text(block) for block in self.content if block_text(block))


@dataclass(frozen=True, slots=True)
class Turn:
    """A user message and all that follows until the next one: the unit of truncation."""

    messages: tuple[Message, ...]

    @property
    def first_seq(self) -> int:
        return self.messages[0].seq

    @property
    def last_seq(self) -> int:
        return self.messages[-1].seq

    @property
    def counts(self) -> TokenCounts:
        return reduce(TokenCounts.__add__, (message.counts for message in self.messages))


@dataclass(frozen=True, slots=True)
class Tail:
    """How a thread ends, as far as tool calls go: its last role, and the calls that may still be answered."""

    last_role: str | None = None
    open_tool_use_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Repair:
    """Something a prompt says that the thread does not, so that a provider accepts it."""

    seq: int
    reason: Literal["missing_tool_result", "opened_by_assistant"]
    tool_use_id: str | None = None


def block_text(block: Block) -> str:
    """The readable text of a content block; empty for images, thinking and unknown types."""
    match block.get("type"):
        case "text":
            return str(block.get("text", ""))
        case "tool_result":
            content = block.get("content", "")
            if isinstance(content, str):
                return content
            return "\n".join(block_text(part) for part in content if isinstance(part, Mapping))
        case "document":
            source = block.get("source")
            if isinstance(source, Mapping) and source.get("type") == "text":
                return str(source.get("data", ""))
    return ""


def is_tool_result(block: Block) -> bool:
    return block.get("type") == "tool_result"


def tool_use_ids(content: Iterable[Block]) -> list[str]:
    return [block["id"] for block in content if block.get("type") == "tool_use"]


def tool_result_ids(content: Iterable[Block]) -> list[str]:
    return [block["tool_use_id"] for block in content if is_tool_result(block)]


def opens_turn(role: str, content: Iterable[Block]) -> bool:
    """A user message opens a turn unless it answers tool calls of the turn that is under way."""
    return role == "user" and not any(is_tool_result(block) for block in content)


def group_turns(messages: Sequence[Message]) -> list[Turn]:
    """Split messages into turns. What stands before the first user message joins the first turn."""
    turns: list[list[Message]] = []
    for message in messages:
        heads_nothing = not turns or not any(opens_turn(m.role, m.content) for m in turns[-1])
        if opens_turn(message.role, message.content) and not (turns and heads_nothing):
            turns.append([message])
        elif turns:
            turns[-1].append(message)
        else:
            turns.append([message])
    return [Turn(tuple(group)) for group in turns]


def extend_tail(tail: Tail, role: str, content: Sequence[Block], field: str) -> Tail:
    """The tail after one more message.

    A tool result must answer an open tool call, once, and stand before other content. A user message with anything else
    in it closes the calls that are still open (a prompt then says that no result was recorded).

    Raises InvalidMessage naming `field` and the remedy.
    """
    if role == "assistant":
        carried = tail.open_tool_use_ids if tail.last_role == "assistant" else ()
        uses = [*carried, *tool_use_ids(content)]
        if repeated := _first_repeated(uses):
            raise InvalidMessage(
                f"`{field}` has two tool_use blocks with id {repeated!r}; give each call an id of its own.",
                code="duplicate_tool_use",
                field=field,
            )
        return Tail(role, tuple(uses))
    results = tool_result_ids(content)
    if results and any(is_tool_result(block) for block in content[len(results) :]):
        raise InvalidMessage(
            f"`{field}` has a tool_result after other content; put all tool_result blocks first.", field=field
        )
    if repeated := _first_repeated(results):
        raise InvalidMessage(
            f"`{field}` answers tool_use {repeated!r} twice; send one tool_result for each call.",
            code="duplicate_tool_result",
            field=field,
        )
    if orphans := [id_ for id_ in results if id_ not in tail.open_tool_use_ids]:
        open_ids = ", ".join(map(repr, tail.open_tool_use_ids)) or "none"
        raise InvalidMessage(
            f"`{field}` has a tool_result for {orphans[0]!r}, which answers no open tool_use (open: {open_ids}). "
            "Append the assistant message with that tool_use first, and answer each call once.",
            code="orphaned_tool_result",
            field=field,
        )
    if len(results) < len(content):
        return Tail(role)
    return Tail(role, tuple(id_ for id_ in tail.open_tool_use_ids if id_ not in results))


def repair(messages: Sequence[Message]) -> tuple[list[Message], list[Repair]]:
    """Make a window acceptable to a provider: a user message first, a result for every tool call that has a successor.

    The added blocks depend only on the messages, so they are the same in every prompt.
    """
    repaired = list(messages)
    repairs: list[Repair] = []
    if repaired and repaired[0].role == "assistant":
        first = repaired[0]
        opener = Message(
            first.seq,
            "",
            "user",
            ({"type": "text", "text": OPENED_BY_ASSISTANT},),
            TokenCounts(),
            first.created_at,
        )
        repaired.insert(0, opener)
        repairs.append(Repair(first.seq, "opened_by_assistant"))
    open_ids: list[str] = []
    last_index = len(repaired) - 1
    answer_index: int | None = None  # the user message that must hold the results of `open_ids`
    for index, message in enumerate(repaired):
        if message.role == "user":
            if open_ids and answer_index is None:
                answer_index = index
            answered = tool_result_ids(message.content)
            open_ids = [id_ for id_ in open_ids if id_ not in answered]
        ends_answers = index == last_index or repaired[index + 1].role == "assistant"
        if message.role == "user" and ends_answers and open_ids and answer_index is not None:
            target = repaired[answer_index]
            missing: tuple[Block, ...] = tuple(
                {"type": "tool_result", "tool_use_id": id_, "content": MISSING_RESULT, "is_error": True}
                for id_ in open_ids
            )
            results = len(tool_result_ids(target.content))
            content = (*target.content[:results], *missing, *target.content[results:])
            repaired[answer_index] = replace(target, content=content)
            repairs += [Repair(target.seq, "missing_tool_result", id_) for id_ in open_ids]
            open_ids = []
        if message.role == "assistant":
            if answer_index is not None:
                open_ids, answer_index = [], None
            open_ids += tool_use_ids(message.content)
    return repaired, repairs


def _first_repeated(ids: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for id_ in ids:
        if id_ in seen:
            return id_
        seen.add(id_)
    return None
