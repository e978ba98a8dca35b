"""Objects as the server sends them."""

from __future__ import annotations

from typing import Any

from .peer import Answer

TIME = "2026-03-01T12:30:00.250Z"


def thread(id: str = "thread_1", **fields: Any) -> dict[str, Any]:
    return {"id": id, "object": "thread", "created_at": TIME, **fields}


def message(seq: int = 1, role: str = "user", text: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {
        "id": f"msg_{seq}",
        "object": "message",
        "thread_id": "thread_1",
        "seq": seq,
        "role": role,
        "content": [{"type": "text", "text": text}],
        "status": "completed",
        "token_count": 3,
        "run_id": None,
        "metadata": {},
        "created_at": TIME,
        **fields,
    }


def page(*data: dict[str, Any], has_more: bool = False) -> Answer:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return Answer({"object": "list", "data": list(data), "first_id": first, "last_id": last, "has_more": has_more})


def hit(seq: int = 1) -> dict[str, Any]:
    return {
        "message_id": f"msg_{seq}",
        "thread_id": "thread_1",
        "seq": seq,
        "role": "user",
        "score": 0.5,
        "why": {"words": 0.4, "vector": 0.1},
        "excerpt": "Hello",
        "message": message(seq),
    }


PROMPT: dict[str, Any] = {
    "id": "prompt_1",
    "thread_id": "thread_1",
    "request": {
        "model": "claude-sonnet-5-5",
        "max_tokens": 100,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    },
    "tokens": {
        "system": 10, "tools": 0, "summary": 0, "window": 5, "recall": 7,
        "volatile": 2, "total": 24, "limit": 1000, "documents_of_tomorrow": 0,
    },
    "prediction": {
        "cache_read_tokens": 10, "cache_write_tokens": 5, "uncached_tokens": 9,
        "cost_usd": "0.00012", "cost_usd_uncached": None,
    },
    "breakpoints": [{"position": "system.0", "ttl": "5m", "tokens_before": 10}],
    "window": {"first_seq": 3, "last_seq": 9, "trimmed": True, "reason": "over_ceiling"},
    "recalled": [
        {"message_id": "msg_1", "seq": 1, "score": 0.8, "why": {"words": 0.8}, "excerpt": True, "tokens": 7}
    ],
    "omitted": [{"first_seq": 1, "last_seq": 2, "reason": "outside_window"}],
    "breaks": [{"reason": "trimmed", "at_seq": 3}],
    "prefix_digest": "abc",
}  # fmt: skip
