"""Text to index terms, and long text to passages. Deterministic: the same text gives the same terms for ever.

Words are stemmed (Snowball) and stop words left out. Scripts written without spaces, and Korean, whose particles stick
to the noun, are indexed by character bigrams, and by their first one and two characters with the edge of the word: a
Korean word says what it is about at its beginning, often with one syllable. A term is stored as a negative 32-bit number,
so that the non-negative numbers of a posting's header can never be taken for one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from zlib import crc32

import Stemmer

PASSAGE_CHARACTERS = 900

_stem = Stemmer.Stemmer("english", maxCacheSize=0).stemWord
# Hangul, kana, Han, Thai, Lao, Khmer, Burmese: no spaces between words, or particles that stick to them.
_BIGRAM_SCRIPTS = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_BIGRAM_SCRIPTS}]+|(?:(?![{_BIGRAM_SCRIPTS}])[^\W_])+(?:'(?:(?![{_BIGRAM_SCRIPTS}])[^\W_])+)?")
_BIGRAM_RUN = re.compile(rf"[{_BIGRAM_SCRIPTS}]")
_WORD_START = "^"  # no letter, so never part of a token
_SENTENCE_END = re.compile(r"(?<=[.!?。！？…])\s+|\n+")

_STOP_WORDS = frozenset(
    """
    a about after again all also am an and any are aren't as at be because been before being but by can can't
    could couldn't did didn't do does doesn't doing don't down each few for from further get got had hadn't
    has hasn't have haven't having he he's her here hers him his how i i'd i'll i'm i've if in into is isn't
    it it's its just let's like me more most my no nor not now of off on once only or other our ours out over
    own please really same she she's should shouldn't so some such tell than that that's the their theirs them
    then there there's these they they'd they'll they're they've this those through to too under until up us
    very was wasn't we we'd we'll we're we've were weren't what what's when where which while who whom why
    will with won't would wouldn't yes you you'd you'll you're you've your yours
    """.split()
)


def terms_of(text: str) -> list[int]:
    """The index terms of a text in order, repeated as often as they occur."""
    terms: list[int] = []
    for token in _TOKEN.findall(unicodedata.normalize("NFKC", text).lower().replace("’", "'")):
        if _BIGRAM_RUN.match(token):
            edged = _WORD_START + token
            terms += [_number(edged[i : i + 2]) for i in range(len(token))]
            if len(token) > 1:
                terms.append(_number(edged[:3]))
        elif token not in _STOP_WORDS:
            terms.append(_word_number(token))
    return terms


def passages_of(text: str) -> list[str]:
    """Split a long text at paragraph or sentence ends into passages of at most PASSAGE_CHARACTERS characters."""
    if len(text) <= PASSAGE_CHARACTERS:
        return [text] if text.strip() else []
    passages: list[str] = []
    current = ""
    for sentence in _sentences(text):
        for piece in _pieces(sentence):
            if current and len(current) + 1 + len(piece) > PASSAGE_CHARACTERS:
                passages.append(current)
                current = piece
            else:
                current = f"{current} {piece}" if current else piece
    if current:
        passages.append(current)
    return passages


def _sentences(text: str) -> Iterator[str]:
    """One by one: to split a book at once would let no other thread run meanwhile."""
    start = 0
    for end in _SENTENCE_END.finditer(text):
        yield text[start : end.start()]
        start = end.end()
    yield text[start:]


def _pieces(sentence: str) -> list[str]:
    """A sentence longer than a passage is cut at spaces where it has any."""
    text = sentence.strip()
    pieces: list[str] = []
    start = 0
    while len(text) - start > PASSAGE_CHARACTERS:
        space = text.rfind(" ", start + PASSAGE_CHARACTERS // 2, start + PASSAGE_CHARACTERS)
        end = space if space > 0 else start + PASSAGE_CHARACTERS
        pieces.append(text[start:end].rstrip())
        start = end
        while text[start].isspace():
            start += 1
    return [*pieces, text[start:]] if text else []


@lru_cache(maxsize=50_000)
def _word_number(word: str) -> int:
    return _number(_stem(word.removesuffix("'s")))


def _number(term: str) -> int:
    return -1 - (crc32(term.encode()) & 0x7FFFFFFF)
