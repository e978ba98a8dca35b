"""Conversations with questions whose answers are known to stand in certain messages.

Read in place from `MEMORY_EVAL_DATA`; a corpus that is not there is empty.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Question:
    """`gold` are positions of messages, from 0. `answer` tells which passage of a long message matters."""

    text: str
    gold: frozenset[int]
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Messages, oldest first, and what is asked about them: one thread, or a thread each."""

    name: str
    roles: Sequence[str]
    texts: Sequence[str]
    questions: Sequence[Question]
    is_thread: bool = True


def data_dir() -> Path:
    return Path(os.environ.get("MEMORY_EVAL_DATA", _REPOSITORY.parent / "shared" / "data"))


def locomo() -> list[Corpus]:
    """Two people talk over months; a photo counts by its caption."""
    return [_locomo(entry) for entry in _json("locomo/locomo_dev6.json") or []]


def _locomo(entry: Mapping[str, Any]) -> Corpus:
    conversation = entry["conversation"]
    sessions = sorted(
        (key for key in conversation if re.fullmatch(r"session_\d+", key)), key=lambda key: int(key.rsplit("_", 1)[1])
    )
    turns = [turn for session in sessions for turn in conversation[session]]
    place = {turn["dia_id"]: at for at, turn in enumerate(turns)}
    return Corpus(
        entry["sample_id"],
        ["user" if turn["speaker"] == conversation["speaker_a"] else "assistant" for turn in turns],
        [turn["text"] + (f" [photo: {turn['blip_caption']}]" if turn.get("blip_caption") else "") for turn in turns],
        _asked(
            Question(qa["question"], frozenset(place[key] for key in _dia_ids(qa.get("evidence", [])) if key in place))
            for qa in entry["qa"]
        ),
    )


def _dia_ids(evidence: Iterable[str]) -> Iterator[str]:
    """`D:11:26` and `D30:05` are slips for `D11:26` and `D30:5`."""
    for part in re.split(r"[;,\s]+", " ".join(evidence)):
        if found := re.fullmatch(r"D:?(\d+):0*(\d+)", part):
            yield f"D{found[1]}:{found[2]}"


def beam(size: str = "100K") -> list[Corpus]:
    """A user and an assistant whose answers are long."""
    root = data_dir() / "beam" / size
    folders = sorted((path for path in root.glob("*") if path.is_dir()), key=lambda path: int(path.name))
    return [_beam(f"beam {size} {folder.name}", folder) for folder in folders]


def _beam(name: str, folder: Path) -> Corpus:
    batches = json.loads((folder / "chat.json").read_text())
    messages = [message for batch in batches for turn in batch["turns"] for message in turn]
    place = {message["id"]: at for at, message in enumerate(messages)}
    asked = [qa for group in json.loads((folder / "probing_questions.json").read_text()).values() for qa in group]
    return Corpus(
        name,
        [message["role"] for message in messages],
        [re.sub(r"\s*->->[\s\d,.]*$", "", message["content"]) for message in messages],
        _asked(
            Question(
                qa["question"],
                frozenset(place[key] for key in _chat_ids(qa.get("source_chat_ids")) if key in place),
                str(qa.get("answer") or qa.get("ideal_answer") or qa.get("ideal_response") or ""),
            )
            for qa in asked
        ),
    )


def _chat_ids(source: Any) -> Iterator[int]:
    if isinstance(source, Mapping):
        source = list(source.values())
    if isinstance(source, list):
        for part in source:
            yield from _chat_ids(part)
    elif isinstance(source, int):
        yield source


def madial() -> list[Corpus]:
    """Memories as messages; a dialogue so far, with the names of who speaks, asks for them, seldom by their words."""
    lines = _lines("madial/MADial-Bench-en-memory.json")
    memories = {int(key): value for line in lines for key, value in json.loads(line).items()}
    if not memories:
        return []
    place = {key: at for at, key in enumerate(memories)}
    dialogues = [json.loads(line) for line in _lines("madial/MADial-Bench-en-dialogue.json")]
    questions = _asked(
        Question(
            "\n".join(
                turn.strip().lstrip("<").replace(">:", ":", 1)
                for turn in entry["dialogue"][1 : min(entry["test-turn"])]
            ),
            frozenset(place[key] for key in entry["relevant-id"] if key in place),
        )
        for entry in dialogues
    )
    events = [memory["event"] for memory in memories.values()]
    return [Corpus("MADial", ["user"] * len(events), events, questions, is_thread=False)]


def parakqc(every: int = 1) -> list[Corpus]:
    """Korean: the first of ten paraphrases is the message, the other nine ask for it; or one of `every` such questions."""
    sentences = [line.split("\t")[2] for line in _lines("korean/paraKQC_dev700.txt") if line.count("\t") >= 2]
    messages = sentences[::10]
    questions = [Question(text, frozenset([at // 10])) for at, text in enumerate(sentences) if at % 10]
    found = Corpus("paraKQC", ["user"] * len(messages), messages, questions[::every], is_thread=False)
    return [found] if messages else []


def _asked(questions: Iterable[Question]) -> list[Question]:
    """Without gold there is nothing to find."""
    return [question for question in questions if question.gold]


def _json(name: str) -> Any:
    path = data_dir() / name
    return json.loads(path.read_text()) if path.is_file() else None


def _lines(name: str) -> list[str]:
    path = data_dir() / name
    return [line for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []
