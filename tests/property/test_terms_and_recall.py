"""Terms and passages hold for any text, and ranking is BM25 as anybody would write it."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_service.core import bm25, recall
from memory_service.core.corpus import Corpus, count_documents
from memory_service.core.quoting import Candidate, Quotable, Quote, escape, pack, render_block
from memory_service.core.recall import Hit, index_entry, moved_entry, rank
from memory_service.core.terms import PASSAGE_CHARACTERS, passages_of, terms_of
from memory_service.core.whose import USER
from tests.property.conftest import examples
from tests.property.operations import WORDS

texts = st.one_of(
    st.text(max_size=200),
    st.lists(st.sampled_from([*WORDS, ". ", "\n", " " * 50, "가" * 500, "x" * 2_000, "👩‍👩‍👧" * 90]), max_size=60).map(
        "".join
    ),
    st.lists(st.sampled_from(WORDS), max_size=500).map(" ".join),
)


def quoted(text: str, passage: int) -> str:
    return Quotable("msg_1", "user", text, datetime(2026, 1, 1, tzinfo=UTC)).quote(passage).text


@settings(max_examples=examples(300))
@given(texts)
def test_passages_cover_a_text(text: str) -> None:
    passages = passages_of(text)
    assert "".join("".join(passages).split()) == "".join(text.split())
    assert all(passage.strip() and len(passage) <= PASSAGE_CHARACTERS for passage in passages)


@settings(max_examples=examples(300))
@given(texts)
def test_terms_are_negative_32_bit_numbers(text: str) -> None:
    terms = terms_of(text)
    assert all(-(2**31) <= term < 0 for term in terms)
    assert terms == terms_of(text)
    assert terms_of(text.upper().lower()) == terms_of(text.upper().lower().upper().lower())


@settings(max_examples=examples(200))
@given(texts, st.integers(1, 2**31 - 1))
def test_an_index_entry_says_which_passage_is_where(text: str, seq: int) -> None:
    numbers = np.frombuffer(index_entry(seq, "user", text), dtype="<i4").tolist()
    expected: list[int] = []
    for number, passage in enumerate(passages_of(text), start=1):
        expected += [0, seq, USER << 24 | number, *terms_of(passage)]
        assert quoted(text, number) == passage
    assert numbers == expected
    assert count_documents(index_entry(seq, "user", text)) == len(passages_of(text))


@settings(max_examples=examples(200))
@given(texts, st.integers(1, 2**31 - 1))
def test_an_entry_moves_to_another_seq(text: str, seq: int) -> None:
    assert moved_entry(index_entry(1, "user", text), seq) == index_entry(seq, "user", text)


def _naive_rank(corpus: list[str], query: list[int], limit: int) -> list[tuple[int, float]]:
    """(index of the document, score) by the formulas of core/recall.py; a neighbour only behind its best match."""
    documents = [terms_of(passage) for text in corpus for passage in passages_of(text)]
    wanted, count = set(query), len(documents)
    if not documents:
        return []
    middles = [sum(map(len, documents[:i])) + len(documents[i]) / 2 for i in range(count)]

    def near(i: int) -> dict[int, float]:
        """Weights of the documents that document i is seen with."""
        places = range(max(0, i - 4), min(count, i + 5))
        return {
            j: min(0.5 ** abs(i - j), math.exp(-abs(middles[i] - middles[j]) / 40)) if i != j else 1 for j in places
        }

    def bm25(frequencies: list[dict[int, float]], lengths: list[float]) -> list[float]:
        mean = max(sum(lengths) / count, 1.0)
        scores = []
        for frequency, length in zip(frequencies, lengths, strict=True):
            score, norm = 0.0, 1.2 * (1 - 0.75 + 0.75 * length / mean)
            for term in wanted & frequency.keys():
                holders = sum(term in document for document in documents)
                idf = math.log(1 + (count - holders + 0.5) / (holders + 0.5))
                score += idf * frequency[term] * 2.2 / (frequency[term] + norm)
            scores.append(score)
        return scores

    def z(scores: list[float]) -> list[float]:
        mean = sum(scores) / len(scores)
        spread = math.sqrt(sum((s - mean) ** 2 for s in scores) / len(scores))
        return [(s - mean) / spread if spread > 1e-12 else 0.0 for s in scores]

    spread: list[dict[int, float]] = [{} for _ in documents]
    for i in range(count):
        for j, weight in near(i).items():
            for term in documents[j]:
                spread[i][term] = spread[i].get(term, 0.0) + weight
    own = bm25([dict(Counter(document)) for document in documents], [float(len(document)) for document in documents])
    around = bm25(spread, [sum(weight * len(documents[j]) for j, weight in near(i).items()) for i in range(count)])
    fused = [a + max(b - 5, 0) for a, b in zip(z(around), z(own), strict=True)]
    found = [i for i in range(count) if own[i] > 0 or around[i] > 0]
    for i in found:
        if own[i] == 0:
            fused[i] = min(fused[i], max(fused[j] for j in near(i) if own[j] > 0))
    return [(i, fused[i]) for i in sorted(found, key=lambda i: (-fused[i], own[i] == 0, i))[:limit]]


corpora = st.lists(st.lists(st.sampled_from(WORDS), max_size=30).map(" ".join), max_size=40)


@settings(max_examples=examples(200))
@given(corpora, st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), st.integers(1, 20))
def test_rank_is_bm25_on_passages_and_their_neighbours(corpus: list[str], query: str, limit: int) -> None:
    index = b"".join(index_entry(seq, "user", text) for seq, text in enumerate(corpus, start=1))
    expected = _naive_rank(corpus, terms_of(query), limit)
    hits = rank(index, query, limit)
    assert [hit.fused for hit in hits] == pytest.approx([score for _, score in expected], abs=2e-4)
    scores = [score for _, score in expected]
    apart = all(abs(a - b) > 1e-6 for a, b in pairwise(scores))
    if apart and len(expected) < limit:
        assert [hit.document for hit in hits] == [document for document, _ in expected]
    assert hits == rank(index, query, limit)
    wanted = set(terms_of(query))
    for position, hit in enumerate(hits):
        shares_a_word = bool(wanted & set(terms_of(quoted(corpus[hit.seq - 1], hit.passage))))
        assert (hit.words > 0, bool(hit.partners)) == (shares_a_word, not shares_a_word)
        assert not hit.partners or hit.partners & {before.document for before in hits[:position]}


@settings(max_examples=examples(100))
@given(corpora, st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join), st.integers(1, 9), st.data())
def test_words_weigh_the_same_however_many_are_worked_on_at_a_time(
    corpus: list[str], query: str, at_once: int, data: st.DataObject
) -> None:
    """And a corpus that was cut is one that never was longer."""
    entries = [index_entry(seq, "user", text) for seq, text in enumerate(corpus, start=1)]
    whole = Corpus.of(b"".join(entries))
    before_seq = data.draw(st.integers(1, len(corpus) + 1))
    cut, part = whole.before(before_seq), Corpus.of(b"".join(entries[: before_seq - 1]))
    weighed = recall.weigh_words(part, query)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bm25, "_AT_ONCE", at_once)
        for other in (recall.weigh_words(part, query), recall.weigh_words(cut, query)):
            assert (other.own.tobytes(), other.around.tobytes()) == (weighed.own.tobytes(), weighed.around.tobytes())
    assert rank(part.numbers.tobytes(), query, 9) == recall.best(recall.weigh_words(cut, query), 9)


def test_a_neighbour_is_shown_only_beside_what_matched() -> None:
    """Also when what matched is too long for the block, where the neighbour alone would fit."""
    corpus = ["Nothing new.", "Nice! " * 3, "The lantern is in the harbour. " + "It was far. " * 40, "Great.", "Bye."]
    index = b"".join(index_entry(seq, "user", text) for seq, text in enumerate(corpus, start=1))
    hits = rank(index, "Where is the lantern?", 10)
    assert [hit.seq for hit in hits] == [3, 4, 2, 5, 1]
    assert [bool(hit.words) for hit in hits] == [True, False, False, False, False]
    assert hits[1].why == {"words": 0.0, "neighbours": hits[1].neighbours, "vector": None}
    found = [
        Candidate(hit, Quote.of(f"msg_{hit.seq}", "user", corpus[hit.seq - 1], False, datetime(2026, 1, 1, tzinfo=UTC)))
        for hit in hits
    ]
    assert [p.candidate.hit.seq for p in pack(found, 5_000, len)] == [3, 4, 2, 5, 1]
    assert pack(found, 500, len) == []


@pytest.mark.parametrize("seq", [1, 2**31 - 1])
def test_rank_at_the_edges_of_32_bits(seq: int) -> None:
    numbers = np.array([0, seq, 1, -(2**31), -1, 0, seq, 2**31 - 1, -1], dtype="<i4")
    hits = rank(numbers.tobytes(), "nothing of it", 5)
    assert hits == []
    index = index_entry(seq, "user", "a lantern") + index_entry(seq, "user", "a harbour")
    assert [(hit.seq, hit.passage, hit.document) for hit in rank(index, "lantern", 1)] == [(seq, 1, 0)]


def test_rank_of_nothing() -> None:
    assert rank(b"", "lantern", 5) == []
    assert rank(index_entry(1, "user", "lantern"), "", 5) == []
    assert rank(index_entry(1, "user", "!?"), "lantern", 5) == []
    assert count_documents(b"") == 0


def test_a_long_query_costs_no_more_than_its_rarest_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each term takes a look at all that hold it and stand near, and a query may be as long as a message."""
    index = b"".join(index_entry(seq, "user", f"word{seq} common") for seq in range(1, 400))
    looks: list[int] = []
    real = bm25._spread_few
    monkeypatch.setattr(bm25, "_spread_few", lambda few, *rest: looks.append(len(few.term)) or real(few, *rest))
    hits = rank(index, "common " + " ".join(f"word{i}" for i in range(1, 5_000)), 500)
    assert sum(looks) == 64
    assert sum(hit.words > 0 for hit in hits) == 64


def test_threads_are_no_neighbours() -> None:
    one, two = (
        index_entry(1, "user", "Hello.") + index_entry(2, "user", "A lantern."),
        index_entry(1, "user", "Great.") + index_entry(2, "user", "Bye."),
    )
    assert [hit.document for hit in rank(one + two, "lantern", 9)] == [1, 0]


candidates = st.lists(
    st.builds(
        lambda seq, passage, text, excerpt: Candidate(
            Hit(0, seq, passage, 1.0), Quote.of(f"msg_{seq}", "user", text, excerpt, datetime(2026, 1, 1, tzinfo=UTC))
        ),
        st.integers(1, 50),
        st.integers(1, 3),
        st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join),
        st.booleans(),
    ),
    max_size=20,
)


@settings(max_examples=examples(200))
@given(candidates, st.integers(0, 2_000))
def test_packed_messages_fit_and_cannot_end_their_block(found: list[Candidate], limit: int) -> None:
    packed = pack(found, limit, len)
    block = render_block(p.candidate for p in packed)
    assert len(block) <= limit
    assert block.count("<recalled_messages>") == block.count("</recalled_messages>") == bool(packed)
    assert block.count("<message ") == block.count("</message>") == len(packed)
    assert render_block(p.candidate for p in reversed(packed)) == block or len({p.candidate.hit for p in packed}) < len(
        packed
    )


@pytest.mark.parametrize("tag", ["recalled_messages", "message", "request_context", "RECALLED_MESSAGES", "Message x=1"])
def test_our_own_tags_are_escaped_and_nothing_else(tag: str) -> None:
    assert escape(f"<{tag}> </{tag}>") == f"&lt;{tag}> &lt;/{tag}>"
    assert escape("a < b, <div>, <messages>, List<message_id>") == "a < b, <div>, <messages>, List<message_id>"


def test_nothing_is_said_twice_and_a_few_words_are_not_believed() -> None:
    """Fillers such as "ok" are like everything a little; the same text teaches nothing the second time."""
    corpus = ["ok"] * 8 + ["The router in the hall stands behind the coats."] * 2 + ["fine"] * 8
    index = b"".join(index_entry(seq, "user", text) for seq, text in enumerate(corpus, start=1))
    similarity = np.array([0.2] * 8 + [0.25] * 2 + [0.05] * 8)
    hits = rank(index, "Where is the internet box?", 9, similarity)
    assert {hit.seq for hit in hits[:2]} == {9, 10}
    found = [
        Candidate(hit, Quote.of(f"msg_{hit.seq}", "user", corpus[hit.seq - 1], False, datetime(2026, 1, 1, tzinfo=UTC)))
        for hit in hits
    ]
    texts = [one.candidate.quote.text for one in pack(found, 5_000, len)]
    assert len(texts) == len(set(texts))


def test_one_hit_a_message() -> None:
    long = "\n".join(f"The lantern stands in room {room}. " + "And so on. " * 60 for room in range(9))
    index = index_entry(1, "user", long) + index_entry(2, "user", "No lantern here.") + index_entry(3, "user", "Bye.")
    words = recall.weigh_words(Corpus.of(index), "lantern")
    assert [hit.seq for hit in recall.best(words, 4)].count(1) > 1
    assert sorted(hit.seq for hit in recall.best(words, 2, one_a_message=True)) == [1, 2]


def test_threads_of_one_message_are_no_neighbours() -> None:
    """And each of them is a message of its own."""
    index = b"".join(
        index_entry(1, "user", text) for text in ("A lantern.", "The lantern glows.", "Nothing here.", "Bye.")
    )
    hits = recall.best(recall.weigh_words(Corpus.of(index), "lantern"), 9, one_a_message=True)
    assert [hit.document for hit in hits] == [0, 1]
