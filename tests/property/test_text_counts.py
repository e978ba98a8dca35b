"""Counting a text: in parts, of which each is remembered, or as a whole; or by its words, for as much as it must be."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from memory_service.core.quoting import Candidate, Quote, pack
from memory_service.core.recall import Hit
from memory_service.core.tokens import Scale
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

SCALES = [
    Scale((4.0, 4.0, *weights, 1.0)) for weights in ((1.0, 1.0, 0.0), (1.2, 1.1, 0.1), (1.0, 2.0, 0.0), (0.1, 0.1, 1.0))
]


@given(st.lists(st.sampled_from(_PIECES) | st.characters()).map("".join))
@example("<message>\nthe code:\n\n  <br>\n</message>\n<message>\n")
@example("\n<" * 1_000)
@example(" नमस्ते ไทย\x1ca\x85b _c ①x ²y")
def test_the_parts_of_a_text_add_up_to_what_the_tokenizer_finds_in_all_of_it(text: str) -> None:
    counts = COUNTER.count(text)
    for scale in SCALES:
        assert scale.at_least(text) <= scale.ceil(counts)
    assert counts.latin + counts.other == len(TOKENIZER._encoding.encode_ordinary(text))
    assert counts.text_bytes == len(text.encode())


@given(
    st.lists(st.lists(st.sampled_from([*_PIECES, "lantern", " the"]), max_size=40).map("".join), max_size=12),
    st.integers(0, 400),
)
def test_what_is_passed_over_uncounted_would_not_have_fitted(texts: list[str], limit: int) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    found = [
        Candidate(Hit(seq, seq, 1, 1.0), Quote.of(f"msg_{seq}", ("user", "assistant")[seq % 2], text, seq % 3 == 0, at))
        for seq, text in enumerate(texts)
    ]
    for scale in SCALES:

        def tokens_of(text: str, scale: Scale = scale) -> int:
            return scale.ceil(COUNTER.count(text))

        assert pack(found, limit, tokens_of, at_least=scale.at_least) == pack(found, limit, tokens_of)
