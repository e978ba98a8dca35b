"""Messages for tests, in one line each."""

from __future__ import annotations

from datetime import UTC, datetime

from memory_service.core.messages import Block, Message
from memory_service.core.tokens import TokenCounts


def text(value: str) -> Block:
    return {"type": "text", "text": value}


def call(id_: str) -> Block:
    return {"type": "tool_use", "id": id_, "name": "look_up", "input": {}}


def result(id_: str, content: str = "found") -> Block:
    return {"type": "tool_result", "tool_use_id": id_, "content": content}


def thought(value: str = "hm") -> Block:
    return {"type": "thinking", "thinking": value, "signature": "s"}


def user(seq: int, *blocks: Block | str, tokens: int = 10) -> Message:
    return _message(seq, "user", blocks, tokens)


def assistant(seq: int, *blocks: Block | str, tokens: int = 10) -> Message:
    return _message(seq, "assistant", blocks, tokens)


def _message(seq: int, role: str, blocks: tuple[Block | str, ...], tokens: int) -> Message:
    return Message(
        seq=seq,
        id=f"msg_{seq}",
        role="assistant" if role == "assistant" else "user",
        content=tuple(text(b) if isinstance(b, str) else b for b in blocks),
        counts=TokenCounts(messages=1, latin=tokens, text_bytes=4 * tokens),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
