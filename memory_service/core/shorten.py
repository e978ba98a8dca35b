"""Tool results that are too large for the budget, cut to head and tail: on request only, and never silently.

What was cut stays cut as long as it is in the lane's window, so that the prompts that follow repeat the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from memory_service.core.counting import counted_text
from memory_service.core.messages import Block, Message, is_tool_result
from memory_service.core.tokens import Scale, TokenCounts

CountText = Callable[[str], TokenCounts]
# "seq.block.part" of a text in a tool result, and how many of its characters are kept.
Cuts = Mapping[str, int]

_LEAST_KEPT = 400
_SMALLER = 0.8  # the next size that is tried
_ALL = 2**31


@dataclass(frozen=True, slots=True)
class Shortened:
    """A tool result that a prompt does not show whole."""

    seq: int
    tool_use_id: str
    characters: int
    kept_characters: int


@dataclass(frozen=True, slots=True)
class _Text:
    key: str
    seq: int
    tool_use_id: str
    text: str


def shorten(messages: Sequence[Message], cuts: Cuts, count: CountText) -> list[Message]:
    """The messages with their cuts made, counted anew."""
    if not cuts:
        return list(messages)
    touched = {int(key.split(".", 1)[0]) for key in cuts}
    return [_shorten(message, cuts, count) if message.seq in touched else message for message in messages]


def explain(messages: Sequence[Message], cuts: Cuts) -> tuple[Shortened, ...]:
    """What was cut of these messages, which are whole."""
    if not cuts:
        return ()
    return tuple(
        Shortened(text.seq, text.tool_use_id, len(text.text), cuts[text.key])
        for text in _texts(messages)
        if text.key in cuts
    )


def offer_cuts(
    messages: Sequence[Message], earlier: Cuts, excess: float, after: int, scale: Scale, count: CountText
) -> Iterator[dict[str, int]]:
    """Cuts that free about `excess` tokens more than the earlier ones, or still more: the caller looks which are enough.

    `messages` are a turn, whole. The longest results after message `after` are cut, all to one length.
    """
    chosen = [text for text in _texts(messages) if text.seq > after]
    shown = {text.key: min(len(text.text), earlier.get(text.key, _ALL)) for text in chosen}
    density = {text.key: scale.tokens(count(text.text)) / max(1, len(text.text)) for text in chosen}
    size = max(shown.values(), default=0)
    while (size := int(size * _SMALLER)) >= _LEAST_KEPT:
        longer = [key for key, length in shown.items() if length > size + _LEAST_KEPT // 2]
        if sum(density[key] * (shown[key] - size) for key in longer) >= excess:
            yield {**earlier, **dict.fromkeys(longer, size)}


def _texts(messages: Sequence[Message]) -> Iterator[_Text]:
    """All text in tool results."""
    for message in messages:
        for at, block in enumerate(message.content):
            if is_tool_result(block):
                for part, text in enumerate(_parts(block)):
                    if text is not None:
                        yield _Text(f"{message.seq}.{at}.{part}", message.seq, block["tool_use_id"], text)


def _parts(block: Block) -> list[str | None]:
    content = block.get("content")
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, Sequence) else []
    return [str(p["text"]) if isinstance(p, Mapping) and p.get("type") == "text" else None for p in parts]


def _shorten(message: Message, cuts: Cuts, count: CountText) -> Message:
    content = tuple(
        _shorten_result(block, f"{message.seq}.{at}", cuts) if is_tool_result(block) else block
        for at, block in enumerate(message.content)
    )
    counted = count(counted_text(content))
    return replace(
        message,
        content=content,
        counts=replace(counted, messages=message.counts.messages, images=message.counts.images),
    )


def _shorten_result(block: Block, key: str, cuts: Cuts) -> Block:
    content = block.get("content")
    if isinstance(content, str):
        return {**block, "content": _cut(content, cuts.get(f"{key}.0", _ALL))}
    if not isinstance(content, Sequence):
        return block
    parts = [
        {**part, "text": _cut(str(part["text"]), kept)} if (kept := cuts.get(f"{key}.{at}")) is not None else part
        for at, part in enumerate(content)
    ]
    return {**block, "content": parts}


def _cut(text: str, kept: int) -> str:
    if len(text) <= kept:
        return text
    tail = kept // 3
    gap = f"[{len(text) - kept} of {len(text)} characters are left out here]"
    return f"{text[: kept - tail]}\n{gap}\n{text[len(text) - tail :]}"
