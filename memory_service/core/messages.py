"""Messages, turns, and the rules that keep tool calls and their results together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import groupby, takewhile
from typing import Any, Literal, NamedTuple

from memory_service.core.canonical import dumps
from memory_service.core.tokens import TokenCounts
from memory_service.errors import InvalidMessage

Role = Literal["user", "assistant"]
Block = Mapping[str, Any]

_OUTLINED = ("type", "id", "tool_use_id")
THINKING_TYPES = frozenset({"thinking", "redacted_thinking"})
# Text that stands in for a result nobody recorded, so that an abandoned tool call never makes a thread unusable.
MISSING_RESULT = "No result was recorded for this tool call."
_MISSING_RESULT_TOKENS = 9
# Providers want a user message first; some products greet first.
OPENED_BY_ASSISTANT = "(The assistant opened this conversation.)"
_OPENED_BY_ASSISTANT_COUNTS = TokenCounts(messages=1, latin=6, text_bytes=41)


class Piece(NamedTuple):
    """A content block in its place in a prompt. `kind` is its type, `json` its canonical text."""

    role: str
    seq: int
    kind: str
    block: Block
    json: str
    volatile: bool = False


@dataclass(frozen=True)
class Message:
    """One entry of a thread. `counts` leaves thinking out; `thinking_tokens` counts it (o200k_base).

    A message is in many prompts, so what is asked of it each time is found out once.
    """

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
        return "\n".join(filter(None, map(block_text, self.content)))

    @property
    def counts_with_thinking(self) -> TokenCounts:
        thinking = self.thinking_tokens
        return self.counts + TokenCounts(latin=thinking, text_bytes=4 * thinking) if thinking else self.counts

    @cached_property
    def pieces(self) -> tuple[Piece, ...]:
        """All of it; `said` without what was thought."""
        return tuple(Piece(self.role, self.seq, block.get("type", ""), block, dumps(block)) for block in self.content)

    @cached_property
    def said(self) -> tuple[Piece, ...]:
        return tuple(piece for piece in self.pieces if piece.kind not in THINKING_TYPES)

    @cached_property
    def opens_turn(self) -> bool:
        return opens_turn(self.role, self.content)

    @cached_property
    def tool_use_ids(self) -> list[str]:
        return tool_use_ids(self.content)

    @cached_property
    def tool_result_ids(self) -> list[str]:
        return tool_result_ids(self.content)


@dataclass(frozen=True)
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
    def question(self) -> str:
        """What the user says in it, tool results left out."""
        return "\n".join(block_text(b) for b in self.messages[0].content if not is_tool_result(b) and block_text(b))

    @cached_property
    def counts(self) -> TokenCounts:
        return TokenCounts.total([message.counts for message in self.messages])

    @property
    def counts_with_thinking(self) -> TokenCounts:
        return TokenCounts.total([message.counts_with_thinking for message in self.messages])


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
            return _parts_text(block.get("content", ""))
        case "search_result":
            return "\n".join(filter(None, [str(block.get("title") or ""), _parts_text(block.get("content", ""))]))
        case "document":
            source = block.get("source")
            if isinstance(source, Mapping) and source.get("type") in ("text", "content"):
                return _parts_text(source.get("data" if source["type"] == "text" else "content", ""))
    return ""


def _parts_text(content: Any) -> str:
    if isinstance(content, list | tuple):
        return "\n".join(block_text(part) for part in content if isinstance(part, Mapping))
    return str(content)


def content_text(content: Iterable[Block]) -> str:
    """The readable text of a message: what recall indexes and embeds."""
    return "\n".join(filter(None, map(block_text, content)))


def is_tool_result(block: Block) -> bool:
    return block.get("type") == "tool_result"


def tool_use_ids(content: Iterable[Block]) -> list[str]:
    return [block["id"] for block in content if block.get("type") == "tool_use"]


def tool_result_ids(content: Iterable[Block]) -> list[str]:
    return [block["tool_use_id"] for block in content if is_tool_result(block)]


def outline(content: Iterable[Block]) -> tuple[Block, ...]:
    """All that `extend_tail` and `tool_use_ids` ask of a content: its blocks without what they hold."""
    return tuple({key: block[key] for key in _OUTLINED if key in block} for block in content)


def opens_turn(role: str, content: Iterable[Block]) -> bool:
    """A user message opens a turn unless it answers tool calls of the turn that is under way."""
    return role == "user" and not any(is_tool_result(block) for block in content)


def group_turns(messages: Sequence[Message]) -> list[Turn]:
    """Split messages into turns. What stands before the first user message is a turn of its own."""
    turns: list[list[Message]] = []
    for message in messages:
        if not turns or message.opens_turn:
            turns.append([message])
        else:
            turns[-1].append(message)
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


def mend(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], tuple[Repair, ...]]:
    """`repair` for turns, which stay the turns they were."""
    first = turns[0].messages[0].role if turns else "user"
    calling = [message for turn in turns for message in turn.messages if message.tool_use_ids]
    if first == "user" and not calling:
        return tuple(turns), ()  # as most are
    messages, repairs = repair([message for turn in turns for message in turn.messages])
    if not repairs:
        return tuple(turns), ()
    mended: list[Turn] = []
    for turn in reversed(turns):
        size = len(turn.messages) if len(mended) < len(turns) - 1 else len(messages)
        mended.insert(0, Turn(tuple(messages[-size:])))
        del messages[-size:]
    return tuple(mended), tuple(repairs)


def repair(messages: Sequence[Message]) -> tuple[list[Message], list[Repair]]:
    """Make a window acceptable to a provider: a user message first, a result for every tool call that has a successor.

    What is added depends only on the messages, so that it is the same in every prompt, and is counted.
    """
    repaired: list[Message] = []
    repairs: list[Repair] = []
    if messages and messages[0].role == "assistant":
        repaired.append(_opener(messages[0]))
        repairs.append(Repair(messages[0].seq, "opened_by_assistant"))
    for role, group in groupby(messages, key=lambda message: message.role):
        run = list(group)
        if role == "user" and (missing := _unanswered(repaired, run)):
            repairs += [Repair(run[0].seq, "missing_tool_result", id_) for id_ in missing]
            run[0] = _with_missing_results(run[0], missing)
        repaired += run
    return repaired, repairs


def _opener(first: Message) -> Message:
    content = ({"type": "text", "text": OPENED_BY_ASSISTANT},)
    return Message(first.seq, "", "user", content, _OPENED_BY_ASSISTANT_COUNTS, first.created_at)


def _unanswered(before: Sequence[Message], answers: Sequence[Message]) -> list[str]:
    """The tool calls of the assistant's messages at the end of `before` that have no result in `answers`."""
    calls: list[str] = []
    for message in takewhile(lambda message: message.role == "assistant", reversed(before)):
        calls[:0] = message.tool_use_ids
    answered = {id_ for message in answers for id_ in message.tool_result_ids} if calls else ()
    return [id_ for id_ in calls if id_ not in answered]


def _with_missing_results(message: Message, tool_use_ids: Sequence[str]) -> Message:
    """Results stand before other content, behind those that are there."""
    missing = [
        {"type": "tool_result", "tool_use_id": id_, "content": MISSING_RESULT, "is_error": True} for id_ in tool_use_ids
    ]
    results = sum(map(is_tool_result, message.content))
    return replace(
        message,
        content=(*message.content[:results], *missing, *message.content[results:]),
        counts=TokenCounts.total([message.counts, *map(_missing_result_counts, tool_use_ids)]),
    )


def _missing_result_counts(tool_use_id: str) -> TokenCounts:
    """At most, since ids are not counted here: a token for each byte of the id."""
    id_bytes = len(tool_use_id.encode())
    return TokenCounts(latin=_MISSING_RESULT_TOKENS + id_bytes, text_bytes=len(MISSING_RESULT) + id_bytes + 1)


def _first_repeated(ids: Sequence[str]) -> str | None:
    seen: set[str] = set()
    for id_ in ids:
        if id_ in seen:
            return id_
        seen.add(id_)
    return None
