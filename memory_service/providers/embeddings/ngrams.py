"""Hashed character n-grams: what a text in any other script than Latin looks like.

Scripts with letters (Hangul taken apart into its jamo, Cyrillic, Arabic, Devanagari, ...) give the trigrams of each word
and its edges; scripts without spaces (Han, kana, Thai, ...) give characters and pairs. A trigram counts for less the
further back in its word it stands, because that is where particles and endings are. Each n-gram adds the square
root of its weight to one dimension, with a sign, both chosen by its hash.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

NGRAM_DIMENSIONS = 384

# What a code point is to us.
_APART, _LATIN, _LETTER, _SPACELESS = range(4)
_SPACELESS_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3006),  # repetition and closing marks of Han
    (0x3040, 0x30FF),  # kana
    (0x3400, 0x9FFF),  # Han
)
_LATIN_RANGES = ((0x0030, 0x024F), (0x1E00, 0x1EFF))
_COMBINING_MARKS = (0x0300, 0x036F)  # what is left of them belongs to Latin letters
# Beyond the Basic Multilingual Plane: rare scripts, then symbols, then rare Han.
_FIRST_SYMBOL, _FIRST_RARE_HAN, _LAST_RARE_HAN = 0x1D000, 0x20000, 0x3FFFF
# A Han character says about as much as three letters, as a Hangul syllable does in jamo.
_LETTERS_PER_SPACELESS = 3

_DECAY = 0.8  # weight of a letter's trigram against that of the letter before it
_LEAST_WEIGHT = 0.2  # so that a sentence written without spaces is not lost
_POSITIONS = 64
_POSITION_WEIGHTS = np.maximum(np.cumprod(np.full(_POSITIONS, _DECAY)) / _DECAY, _LEAST_WEIGHT)

# Odd numbers that mix well (the first is 2^64 / golden ratio).
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], dtype=np.uint64)
_HASH_BITS = 40
_HASH_MASK = (1 << _HASH_BITS) - 1

Codes = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def ngrams(texts: Sequence[str]) -> tuple[Floats, Ints, Ints]:
    """For each normalised text (NFKC, lower case) its sum of n-grams, its letters in Latin script, and those in others."""
    codes, owner = _letters_of(texts)
    kind = _kinds()[codes]
    latin = np.bincount(owner[kind == _LATIN], minlength=len(texts))
    spaceless = np.bincount(owner[kind == _SPACELESS], minlength=len(texts))
    other = np.bincount(owner[kind == _LETTER], minlength=len(texts)) + _LETTERS_PER_SPACELESS * spaceless
    found = [_trigrams(codes, kind), _characters(codes, kind), _pairs(codes, kind)]
    place, hashes, weight = (np.concatenate(column) for column in zip(*found, strict=True))
    return _add_up(owner[place], hashes, weight, len(texts)), latin, other


def _letters_of(texts: Sequence[str]) -> tuple[Codes, Ints]:
    """The code points of all texts, Hangul as jamo, and whose each is. A line feed ends each text."""
    joined = "".join(f"{text}\n" for text in texts).encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(joined, dtype="<u4").astype(np.uint32)
    owner = np.repeat(np.arange(len(texts)), [len(text) + 1 for text in texts])
    syllable = codes - np.uint32(0xAC00)  # wraps around below the first syllable
    hangul = syllable < 11_172
    final = syllable % 28
    jamo = np.zeros((len(codes), 3), dtype=np.uint32)
    jamo[:, 0] = np.where(hangul, 0x1100 + syllable // 588, codes)
    jamo[:, 1] = np.where(hangul, 0x1161 + syllable % 588 // 28, 0)
    jamo[:, 2] = np.where(hangul & (final > 0), 0x11A7 + final, 0)
    letters = jamo.ravel()
    return letters[letters > 0], np.repeat(owner, 3)[letters > 0]


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    """What each code point is: letters and their marks by Unicode's category, scripts by their blocks."""
    kinds = np.full(0x110000, _APART, dtype=np.uint8)
    for code in range(0x10000):
        if unicodedata.category(chr(code))[0] in "LM":
            kinds[code] = _LETTER
    for first, last in _SPACELESS_RANGES:
        block = kinds[first : last + 1]
        block[block == _LETTER] = _SPACELESS
    for first, last in _LATIN_RANGES:
        block = kinds[first : last + 1]
        block[block == _LETTER] = _LATIN
    kinds[ord("0") : ord("9") + 1] = _LATIN
    kinds[_COMBINING_MARKS[0] : _COMBINING_MARKS[1] + 1] = _APART
    kinds[0x10000:_FIRST_SYMBOL] = _LETTER
    kinds[_FIRST_RARE_HAN : _LAST_RARE_HAN + 1] = _SPACELESS
    return kinds


def _trigrams(codes: Codes, kind: npt.NDArray[np.uint8]) -> tuple[Ints, Ints, Floats]:
    """Each letter with the one before and the one behind it, 0 at the edges of its word."""
    letter = kind == _LETTER
    padded = np.pad(np.where(letter, codes, 0).astype(np.uint64), 1)
    place = np.flatnonzero(letter)
    hashes = _hash(padded[place], padded[place + 1], padded[place + 2])
    starts = np.where(letter, 0, np.arange(len(codes)) + 1)
    position = place - np.maximum.accumulate(starts)[place]
    return place, hashes, _POSITION_WEIGHTS[np.minimum(position, _POSITIONS - 1)]


def _characters(codes: Codes, kind: npt.NDArray[np.uint8]) -> tuple[Ints, Ints, Floats]:
    place = np.flatnonzero(kind == _SPACELESS)
    return place, _hash(codes[place].astype(np.uint64)), np.ones(len(place))


def _pairs(codes: Codes, kind: npt.NDArray[np.uint8]) -> tuple[Ints, Ints, Floats]:
    spaceless = kind == _SPACELESS
    place = np.flatnonzero(spaceless[:-1] & spaceless[1:])
    wide = codes.astype(np.uint64)
    return place, _hash(wide[place], wide[place + 1]), np.ones(len(place))


def _hash(*columns: npt.NDArray[np.uint64]) -> Ints:
    """A number below 2^40 for each row, the same everywhere: multiply and shift, modulo 2^64."""
    hashes = np.full(len(columns[0]), len(columns), dtype=np.uint64)
    for factor, column in zip(_MIX, columns, strict=False):
        hashes = (hashes ^ column) * factor
        hashes ^= hashes >> np.uint64(29)
    hashes *= _MIX[3]
    return (hashes >> np.uint64(64 - _HASH_BITS)).astype(np.int64)


def _add_up(owner: Ints, hashes: Ints, weight: Floats, count: int) -> Floats:
    """Weights of the same n-gram of a text are added, then their roots, in the order of the hashes."""
    keys, which = np.unique((owner << _HASH_BITS) | hashes, return_inverse=True)
    amount = np.sqrt(np.bincount(which, weights=weight))
    sign = (keys & 1) * 2 - 1
    dimension = ((keys & _HASH_MASK) >> 1) % NGRAM_DIMENSIONS
    slot = (keys >> _HASH_BITS) * NGRAM_DIMENSIONS + dimension
    sums = np.bincount(slot, weights=amount * sign, minlength=count * NGRAM_DIMENSIONS)
    return sums.astype(np.float64).reshape(count, NGRAM_DIMENSIONS)
