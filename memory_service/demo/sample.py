"""Our own sample conversation: ten days of one person's plans, in English and Korean.

A line with `expects` asks for something told long before; each text in it stands in exactly one earlier
message.
"""

from __future__ import annotations

from importlib.resources import as_file, files

from memory_service.demo.conversation import Conversation, Line
from memory_service.demo.sources import load_conversation

__all__ = ["SAMPLE_SYSTEM", "Conversation", "Line", "load_sample"]

SAMPLE_SYSTEM = (
    "You are Mina's planning assistant. Answer briefly and concretely, in the language of the question, and"
    " rely on what she has told you before."
)


def load_sample() -> Conversation:
    with as_file(files("memory_service.demo") / "sample.ndjson") as path:
        played = load_conversation(path)
    return Conversation(title="Moving to Seoul (sample)", system=SAMPLE_SYSTEM, lines=played.lines)
