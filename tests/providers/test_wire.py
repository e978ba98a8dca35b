"""Server-sent events, however they are cut into pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_service.core.canonical import check_text
from memory_service.errors import InvalidInput
from memory_service.providers.chat.wire import Malformed, SseReader, cleaned, read_object

STREAM = (
    ': a comment\n\nevent: one\ndata: {"text":"a\u2028b\x85c"}\n\n'
    'data:{"of":\ndata:"several lines"}\r\n\r\nid: 7\nretry: 5\n\ndata: \n\ndata: 한국어\n\ndata: cut off'
).encode()
EVENTS = [b'{"text":"a\xe2\x80\xa8b\xc2\x85c"}', b'{"of":\n"several lines"}', b"", "한국어".encode()]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_where_the_stream_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    reader = SseReader()
    heard = [event for start, end in pairwise(edges) for event in reader.feed(STREAM[start:end])]
    assert heard == EVENTS


def test_byte_by_byte() -> None:
    reader = SseReader()
    assert [event for byte in STREAM for event in reader.feed(bytes([byte]))] == EVENTS


TEXTS = st.text(st.characters(exclude_categories=()))


@given(st.recursive(TEXTS | st.none(), lambda held: st.lists(held) | st.dictionaries(TEXTS, held)))
def test_what_can_be_kept_is_left_alone(value: object) -> None:
    check_text(cleaned(value), "")
    try:
        check_text(value, "")
    except InvalidInput:
        assert cleaned(value) != value
    else:
        assert cleaned(value) is value


@pytest.mark.parametrize("text", [b"", b"[]", b"5", b"{", b"NaN", b"\xff", b'{"a":' * 200, b"[" * 100_000])
def test_what_is_no_object(text: bytes) -> None:
    with pytest.raises(Malformed):
        read_object(text)
