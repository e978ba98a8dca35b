"""Golden vectors: terms are stored with every message, so a change here silently loses what was indexed before."""

from __future__ import annotations

import pytest

from memory_service.core.recall import index_entry, rank
from memory_service.core.terms import PASSAGE_CHARACTERS, passages_of, terms_of
from tests.conftest import evaluation_data

GOLDEN: dict[str, list[int]] = {
    "I moved to Tallinn in 2024.": [-1866348409, -2107891608, -331983459],
    "Don't forget: the dentist's on Tuesday!": [-927019534, -1821358138, -1813885178],
    "고양이가 서울에서 생일": [
        -937274473,
        -486167821,
        -602244142,
        -1187657945,
        -1136572732,
        -204999786,
        -223888127,
        -2109965764,
        -143444763,
        -1377611466,
        -880716345,
        -1340648278,
        -279725923,
    ],
    "東京タワー": [-1601207507, -304497392, -403862547, -1380347578, -998330697, -1298312921],
    "café naïve résumé": [-414007990, -1621815906, -636518840],
    "C++ x=1.10 snake_case foo_bar": [
        -112844656,
        -215750276,
        -64810936,
        -559752674,
        -1366125471,
        -2013829381,
        -208889122,
        -1996459179,
    ],
    "ภาษาไทย": [-1505685622, -1791739458, -448696506, -398690764, -1182465422, -872350688, -444601918, -898574967],
    "Ünïcödé ẞtraße": [-245509068, -1079565934],
    "running runs ran": [-1349952705, -1349952705, -2128114582],
    "https://example.com/a?b=c": [-1056335271, -150407381, -1689700071, -1908338682, -112844656],
    "한국어와 English mixed 문장": [
        -1579369807,
        -1623756638,
        -718580791,
        -1909582481,
        -1066165099,
        -746783233,
        -1437575298,
        -1747538072,
        -1238796088,
        -378694401,
    ],
}


@pytest.mark.parametrize("text", GOLDEN)
def test_terms_never_change(text: str) -> None:
    assert terms_of(text) == GOLDEN[text]


def test_words_meet_their_other_forms() -> None:
    assert terms_of("The ferries were running") == terms_of("ferry runs")
    assert terms_of("Kim’s café") == terms_of("KIM'S CAFÉ") == terms_of("kim café")
    assert terms_of("ｆｕｌｌ　ｗｉｄｔｈ") == terms_of("full width")


def test_korean_is_indexed_by_bigrams_so_that_particles_do_not_matter() -> None:
    assert set(terms_of("고양이")) <= set(terms_of("우리 고양이가 잔다"))
    assert len(terms_of("고양이가")) == 5
    assert len(terms_of("물")) == 1
    assert set(terms_of("東京")) <= set(terms_of("東京タワーへ"))


def test_a_korean_word_is_found_by_its_first_syllable() -> None:
    assert set(terms_of("물")) <= set(terms_of("찬 물이 좋아"))
    assert not set(terms_of("물")) & set(terms_of("선물"))  # there it is no word of its own
    assert set(terms_of("고양이")) & set(terms_of("길고양이"))


def test_korean_paraphrases_are_found_by_words() -> None:
    lines = (evaluation_data() / "korean" / "paraKQC_dev700.txt").read_text(encoding="utf-8").splitlines()
    sentences = [line.split("\t")[2] for line in lines]
    index = b"".join(index_entry(seq, "user", sentence) for seq, sentence in enumerate(sentences[::10], start=1))
    paraphrases = [sentences[10 * number + 1 + number % 9] for number in range(700)]
    found = [next((hit.seq for hit in rank(index, query, 1)), None) for query in paraphrases]
    assert sum(seq == right for right, seq in enumerate(found, start=1)) / 700 >= 0.84  # .78 without the edges of words


def test_what_is_no_word_has_no_terms() -> None:
    assert terms_of("🙂 👩‍👩‍👧 … !?") == terms_of("the and of") == terms_of("") == []


def test_passages() -> None:
    assert passages_of("short. text.") == ["short. text."]
    assert passages_of("") == passages_of(" \n ") == []
    sentences = [f"This is sentence number {n}." for n in range(100)]
    passages = passages_of(" ".join(sentences))
    assert " ".join(passages) == " ".join(sentences)
    assert all(len(p) <= PASSAGE_CHARACTERS and p.endswith(".") for p in passages)
    assert [len(p) for p in passages_of("x" * 2_000)] == [900, 900, 200]
    assert [len(p) for p in passages_of("가나 " * 700)] == [899, 899, 299]


def test_a_text_of_ten_million_characters_without_a_sentence() -> None:
    """Cut in one pass: every character is copied once, not once a passage."""
    passages = passages_of("word " * 2_000_000)
    assert sum(map(len, passages)) + len(passages) == 10_000_000
