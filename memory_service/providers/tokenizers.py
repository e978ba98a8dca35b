"""o200k_base, from the vocabulary that ships with the package: nothing is fetched at run time."""

from __future__ import annotations

import base64
import lzma
import re
from contextlib import suppress
from functools import cached_property
from hashlib import blake2b, sha256
from importlib.resources import files

import tiktoken

from memory_service.core.tokens import TokenCounts

_VOCABULARY = "o200k_base.tiktoken.xz"
_VOCABULARY_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
# How o200k_base splits text before merging, as published with the vocabulary.
_WORD_END = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORD_START = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_PATTERN = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?{_WORD_START}*{_WORD_END}+{_CONTRACTION}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_WORD_START}+{_WORD_END}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
# Longer texts are counted piece by piece: the splitter overflows its stack on a very long run of spaces.
_PIECE_CHARACTERS = 20_000
_REMEMBERED = 10_000
# What is longer is remembered by a digest.
_KEY_CHARACTERS = 500
# No token holds both a line's end and punctuation behind it, so that counts on both sides of it add up. What a prompt
# recalls is quoted in such parts, and each of them is remembered by itself.
_SEAM = "\n<"
_MOST_PARTS = 200
_NOT_LATIN = re.compile(r"[^\u0000-\u024f\u1e00-\u1eff\u2000-\u206f\u20a0-\u20cf]+")


class O200kCounter:
    """A `TextCounter`. Loading takes about half a second and 60 MB, at first use.

    Counts are remembered, a few megabytes of them, because prompts repeat texts: instructions, tools, what was recalled.
    """

    def __init__(self) -> None:
        self._remembered: dict[str | bytes, TokenCounts] = {}

    def count(self, text: str) -> TokenCounts:
        key = text if len(text) <= _KEY_CHARACTERS else blake2b(text.encode(), digest_size=16).digest()
        known = self._remembered.get(key)
        if known is None:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            known = self._remembered[key] = self._added_up(text) or self._count(text)
        return known

    def _added_up(self, text: str) -> TokenCounts | None:
        first, *others = text.split(_SEAM, _MOST_PARTS)
        if not 0 < len(others) < _MOST_PARTS:
            return None
        *between, last = others
        return TokenCounts.total(map(self.count, (f"{first}\n", *[f"<{part}\n" for part in between], f"<{last}")))

    def _count(self, text: str) -> TokenCounts:
        total = self._length(text)
        other = 0 if text.isascii() else min(total, self._length(" ".join(_NOT_LATIN.findall(text))))
        return TokenCounts(latin=total - other, other=other, text_bytes=len(text.encode()))

    def load(self) -> None:
        """Load the vocabulary now instead of at first use."""
        _ = self._encoding

    def _length(self, text: str) -> int:
        encode = self._encoding.encode_ordinary
        return sum(len(encode(text[at : at + _PIECE_CHARACTERS])) for at in range(0, len(text), _PIECE_CHARACTERS))

    @cached_property
    def _encoding(self) -> tiktoken.Encoding:
        vocabulary = _unpacked((files("memory_service") / "assets" / _VOCABULARY).read_bytes())
        ranks = {}
        for line in vocabulary.splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
        return tiktoken.Encoding("o200k_base", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={})


def _unpacked(packed: bytes) -> bytes:
    with suppress(lzma.LZMAError):
        vocabulary = lzma.decompress(packed)
        if sha256(vocabulary).hexdigest() == _VOCABULARY_SHA256:
            return vocabulary
    raise RuntimeError("The o200k_base vocabulary of this installation is damaged; install the package again.")
