"""Conversation text: the public LoCoMo conversations where they are present, else generated text of the same shape."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

from memory_service.demo.conversation import Conversation, Line
from memory_service.demo.sources import load_conversation

_REPOSITORY = Path(__file__).parents[1]
_COMMON = (
    "the of and to a in that it is was for on with as you at this but his they have had not are be from or".split()
)
_SYLLABLES = "ba ce di fo gu ha ke li mo nu pa re si to vu wa ye zi cho sha tri ple gran sto ver mel".split()
_VOCABULARY = 30_000
_COMMONEST = 50  # words more frequent than that are the common ones


def locomo_file() -> Path | None:
    """`MEMORY_EVAL_DATA` is the directory of the evaluation data."""
    data = Path(os.environ.get("MEMORY_EVAL_DATA", _REPOSITORY.parent / "shared" / "data"))
    path = data / "locomo" / "locomo_dev6.json"
    return path if path.is_file() else None


def locomo(*names: str) -> list[Conversation]:
    """The named conversations of LoCoMo, or all; none when the data is absent."""
    path = locomo_file()
    if path is None:
        return []
    wanted = names or [entry["sample_id"] for entry in json.loads(path.read_text())]
    return [load_conversation(path, pick=name) for name in wanted]


def generated_texts(seed: int, *, characters: int = 180) -> Iterator[str]:
    """Endless messages of about that many characters. Words follow Zipf's law, so that recall has rare and common ones."""
    words = random.Random(seed)
    while True:
        length, message = words.randint(characters * 2 // 3, characters * 4 // 3), ""
        while len(message) < length:
            message += f"{_word(words)} "
        yield message.strip().capitalize() + "."


def _word(words: random.Random) -> str:
    if words.random() < 0.45:
        return words.choice(_COMMON)
    rank = int(_COMMONEST * (_VOCABULARY / _COMMONEST) ** words.random())
    name = random.Random(rank)
    return "".join(name.choice(_SYLLABLES) for _ in range(name.randint(2, 4)))


def generated_conversation(messages: int) -> Conversation:
    texts = generated_texts(1)
    lines = [Line("user" if i % 2 == 0 else "assistant", next(texts)) for i in range(messages)]
    return Conversation("generated", None, lines)
