"""Mending is deterministic, complete, and never changes what stands before."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from memory_service.core.counting import counted_text
from memory_service.core.images import image_size, media_tokens
from memory_service.core.messages import Message, group_turns, mend, repair
from memory_service.core.tokens import TokenCounts
from tests.property.conftest import examples
from tests.property.operations import Operation, Play, Setting, operations, settings_of_threads


def _messages(setting: Setting, steps: list[Operation]) -> list[Message]:
    play = Play(setting)
    for _ in play.run([step for step in steps if step[0] not in ("prompt", "context")]):
        pass
    return play.thread.messages


@settings(max_examples=examples(200))
@given(settings_of_threads, operations)
def test_repair_is_idempotent_and_only_appends(setting: Setting, steps: list[Operation]) -> None:
    messages = _messages(setting, steps)
    repaired, repairs = repair(messages)
    assert (repaired, repairs) == repair(messages)
    assert repair(repaired) == (repaired, [])
    assert len(repaired) == len(messages) + bool(messages and messages[0].role == "assistant")
    for end in range(len(messages)):
        # A run of user messages at the end may still get answers; what stands before it is closed.
        closed = end
        while closed and messages[closed - 1].role == "user":
            closed -= 1
        shorter = repair(messages[:end])[0]
        assert repaired[: len(shorter) - (end - closed)] == shorter[: len(shorter) - (end - closed)]
        if messages[end].role == "assistant":
            assert repaired[: len(shorter)] == shorter


@settings(max_examples=examples(200))
@given(settings_of_threads, operations)
def test_turns_hold_every_message_once_mended_or_not(setting: Setting, steps: list[Operation]) -> None:
    messages = _messages(setting, steps)
    turns = group_turns(messages)
    assert [m for turn in turns for m in turn.messages] == messages
    mended, repairs = mend(turns)
    assert [turn.last_seq for turn in mended] == [turn.last_seq for turn in turns]
    assert [m for turn in mended for m in turn.messages] == repair(messages)[0]
    added = TokenCounts.total([turn.counts for turn in mended]).text_bytes
    added += TokenCounts.total([turn.counts for turn in mended]).latin
    before = TokenCounts.total([turn.counts for turn in turns])
    assert (added > before.text_bytes + before.latin) == bool(repairs)


HEADS = [
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"RIFF0000WEBPVP8X",
    b"RIFF0000WEBPVP8L",
    b"RIFF0000WEBPVP8 ",
    b"\xff\xd8",
    b"\xff\xd8\xff\xe0\x00\x02\xff",
    b"",
]


@settings(max_examples=examples(300))
@given(st.sampled_from(HEADS), st.binary(max_size=60))
def test_no_bytes_break_the_reading_of_an_image(head: bytes, rest: bytes) -> None:
    size = image_size(head + rest)
    assert size is None or min(size) >= 0
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(head + rest).decode()}
    assert media_tokens({"type": "image", "source": source}) >= 0


@settings(max_examples=examples(100))
@given(st.text(max_size=80), st.sampled_from(["image", "document", "text"]), st.sampled_from(["base64", "url", "text"]))
def test_no_text_breaks_it_either(data: str, kind: str, source: str) -> None:
    assert media_tokens({"type": kind, "source": {"type": source, "data": data}}) >= 0


def _block(kind: str, parts: object, fields: dict[str, object]) -> dict[str, object]:
    """A block of any type, right or wrong, with text in one of its fields and blocks in others."""
    media = kind in ("image", "document") and parts == []
    source = {"type": "base64", "data": ""} if media else {"type": "content", "content": parts}
    return {**fields, "type": kind, "text": "", "content": parts, "source": source, "input": {"name": ""}}


_kinds = st.sampled_from(["text", "tool_use", "tool_result", "image", "document", "search_result", "novelty"])
_keys = st.sampled_from(["title", "context", "citations", "name", "is_error", "data", "of", "source", "media_type"])
_values = st.recursive(
    st.sampled_from(["", 7, None, True]),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_keys, inner, max_size=3)),
    max_leaves=6,
)
_fields = st.dictionaries(_keys, _values, max_size=3)
_blocks = st.recursive(
    st.builds(_block, _kinds, st.just([]), _fields),
    lambda inner: st.builds(
        _block, _kinds, st.one_of(st.lists(st.one_of(inner, _values), max_size=3), _values), _fields
    ),
    max_leaves=8,
)


def _numbered(value: object, numbers: Iterator[int], key: str = "") -> object:
    """The same with another text in each place, but for types, and the bytes of media."""
    if isinstance(value, dict):
        encoded = value.get("type") in ("image", "document") and value.get("source", {}).get("type") == "base64"
        return {
            name: held if encoded and name == "source" else _numbered(held, numbers, name)
            for name, held in value.items()
        }
    if isinstance(value, list):
        return [_numbered(held, numbers) for held in value]
    return f"<{next(numbers)}>" if isinstance(value, str) and key != "type" else value


@settings(max_examples=examples(300))
@given(st.lists(_blocks, min_size=1, max_size=3))
def test_no_text_of_a_content_goes_uncounted(content: list[dict[str, object]]) -> None:
    numbers = count()
    numbered = [_numbered(block, numbers) for block in content]
    counted = counted_text(numbered)
    assert [n for n in range(next(numbers)) if f"<{n}>" not in counted] == []
