"""Counting a text: in parts, of which each is remembered, or as a whole."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from memory_service.providers.tokenizers import O200kCounter

# A vocabulary is 60 MB: once for all examples. One remembers what it counted, of the other the whole is asked.
COUNTER, TOKENIZER = O200kCounter(), O200kCounter()

_PIECES = [
    "\n<",
    "\n",
    "\r\n",
    "<",
    ">",
    "/",
    " ",
    "  ",
    "\t",
    "'s",
    "Word",
    "a",
    "7",
    "1234",
    "…",
    "你好",
    "Привет",
    "\u3000",
    "🙂",
]


@given(st.lists(st.sampled_from(_PIECES)).map("".join))
@example("<message>\nthe code:\n\n  <br>\n</message>\n<message>\n")
@example("\n<" * 1_000)
def test_the_parts_of_a_text_add_up_to_what_the_tokenizer_finds_in_all_of_it(text: str) -> None:
    counts = COUNTER.count(text)
    assert counts.latin + counts.other == len(TOKENIZER._encoding.encode_ordinary(text))
    assert counts.text_bytes == len(text.encode())
