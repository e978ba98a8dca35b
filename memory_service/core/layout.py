"""All that a provider will see, block by block: stable things first, volatile things last.

    tools | assistant: instructions, documents | thread: instructions, documents | window: closed turns | open turn

In the open turn the volatile text (recalled messages, request context) stands before the user's own text, behind every
breakpoint of the turn's first request. The next turn's prompt drops it, so that what was cached stays a prefix of what
comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from memory_service.core.canonical import dumps
from memory_service.core.lane import Kept
from memory_service.core.messages import THINKING_TYPES, Block, Piece, Turn, is_tool_result
from memory_service.core.prompt_cache import Position
from memory_service.core.tokens import Scale, TokenCounts
from memory_service.core.volatile import Volatile

# Media are shared out as if their JSON were at most this long; their tokens do not grow with it.
_MEDIA_CHARACTERS = 6_400
_NOTHING = sha256().hexdigest()
# So many in a row as there are, they are one position.
_RUNS = ("tool_use", "tool_result")


@dataclass(frozen=True)
class StablePart:
    """What stands before every message. `shared` comes from the assistant, `own` from the thread.

    `instructions` are those texts of the two that are not documents. `tool_counts` and `system_counts` are what tools
    and texts cost, counted by the caller.
    """

    tools: tuple[Block, ...] = ()
    shared: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    instructions: tuple[str, ...] = ()
    tool_counts: TokenCounts = TokenCounts()
    system_counts: TokenCounts = TokenCounts()

    @cached_property
    def digest(self) -> str:
        return sha256(dumps([self.tools, self.shared, self.own]).encode()).hexdigest()

    @cached_property
    def parts(self) -> dict[str, str]:
        """Digests by which to tell what of it changed."""
        documents = [text for text in (*self.shared, *self.own) if text not in self.instructions]
        parts = {"tools": self.tools, "instructions": self.instructions, "documents": documents}
        return {name: sha256(dumps(part).encode()).hexdigest() for name, part in parts.items()}

    @cached_property
    def shared_digest(self) -> str | None:
        """Of what other threads may begin with too; None when there is nothing."""
        return sha256(dumps([self.tools, self.shared]).encode()).hexdigest() if self.tools or self.shared else None

    def needs(self, scale: Scale) -> tuple[int, int]:
        """Tokens of (system, tools); what a request costs by itself counts as system."""
        return scale.ceil(self.system_counts) + scale.per_request, scale.ceil(self.tool_counts)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a request is rendered from.

    `marks` are breakpoints, as ascending indexes into `pieces`; -1 is the end of the system part. `mark_shared` puts one
    at the end of what threads share.
    """

    stable: StablePart
    pieces: tuple[Piece, ...]
    marks: tuple[int, ...]
    mark_shared: bool


@dataclass(frozen=True, slots=True)
class Positions:
    """All places where a prefix can end, and where among them the parts of a layout end (-1: nothing is before it)."""

    all: tuple[Position, ...]
    of_pieces: tuple[int, ...]
    shared_end: int
    system_end: int

    def of_mark(self, mark: int) -> int:
        return self.of_pieces[mark] if mark >= 0 else self.system_end

    def digest_at(self, mark: int) -> str:
        """The digest of all bytes up to a mark."""
        at = self.of_mark(mark)
        return self.all[at].digest if at >= 0 else _NOTHING

    def tokens_at(self, mark: int) -> int:
        """The tokens up to a mark."""
        at = self.of_mark(mark)
        return self.all[at].tokens if at >= 0 else 0

    def extend(self, digest: str) -> bool:
        """Whether they begin with the bytes of this digest; most likely not much less than all of them do."""
        return digest == _NOTHING or any(position.digest == digest for position in reversed(self.all))


def render_pieces(turns: Sequence[Turn], volatile: Volatile, kept: Sequence[Kept] = ()) -> tuple[Piece, ...]:
    """Mended turns, the last of them open, as content blocks.

    Thinking and volatile text stay only in the open turn, and in what is kept of closed ones as it was sent.
    """
    by_seq = {one.first_seq: one for one in kept}
    pieces: list[Piece] = []
    for turn in turns[:-1]:
        if by_seq and (one := by_seq.get(turn.first_seq)):
            pieces += _turn_pieces(turn, one.volatile, one.shows_thinking)
        else:
            pieces += [piece for message in turn.messages for piece in message.said]
    return (*pieces, *_turn_pieces(turns[-1], volatile, lambda _: True))


def _turn_pieces(turn: Turn, volatile: Volatile, shows_thinking: Callable[[int], bool]) -> list[Piece]:
    """With what was thought, but never by another model. The volatile text stands before the user's own, but behind tool
    results, which a provider wants first."""
    pieces = [
        piece
        for message in turn.messages
        for piece in message.pieces
        if piece.kind not in THINKING_TYPES or (shows_thinking(message.seq) and "foreign" not in piece.block)
    ]
    results = sum(map(is_tool_result, turn.messages[0].content))
    pieces[results:results] = _volatile_pieces(volatile, turn.first_seq)
    return pieces


def _volatile_pieces(volatile: Volatile, seq: int) -> list[Piece]:
    texts = (volatile.recalled_text, volatile.context_text)
    blocks = [{"type": "text", "text": text} for text in texts if text]
    return [Piece("user", seq, "text", block, dumps(block), volatile=True) for block in blocks]


def locate(
    stable: StablePart,
    pieces: Sequence[Piece],
    stable_tokens: tuple[int, int],
    message_tokens: Mapping[int, float],
    volatile_tokens: Mapping[int, float],
) -> Positions:
    """Where prefixes can end, with their digests and their tokens.

    A run of tool calls, and a run of tool results, is one position. `stable_tokens` are those of (system, tools),
    `message_tokens` those of each seq, `volatile_tokens` those of the volatile text before it. Inside these, tokens are
    shared out by the length of the text.
    """
    chain = sha256()
    positions: list[Position] = []
    before = 0.0
    system_tokens, tool_tokens = stable_tokens
    texts = [dumps(text) for text in (*stable.shared, *stable.own)]
    for section_tokens, parts in ((tool_tokens, [dumps(tool) for tool in stable.tools]), (system_tokens, texts)):
        share = section_tokens / max(1, sum(map(len, parts)))
        for part in parts:
            chain.update(part.encode())
            before += share * len(part)
            positions.append(Position(chain.hexdigest(), round(before)))
    before = float(system_tokens + tool_tokens)
    of_pieces: list[int] = []
    previous: tuple[str, str] | None = None
    for piece, tokens in zip(pieces, _share_out(pieces, message_tokens, volatile_tokens), strict=True):
        chain.update(f"{piece.role}:{piece.json}".encode())
        before += tokens
        run = (piece.role, piece.kind) if piece.kind in _RUNS else None
        if run and run == previous:
            positions.pop()
        previous = run
        positions.append(Position(chain.hexdigest(), round(before)))
        of_pieces.append(len(positions) - 1)
    shared_end = len(stable.tools) + len(stable.shared) - 1
    return Positions(tuple(positions), tuple(of_pieces), shared_end, shared_end + len(stable.own))


def _share_out(
    pieces: Sequence[Piece], message_tokens: Mapping[int, float], volatile_tokens: Mapping[int, float]
) -> list[float]:
    """Tokens of each piece. The volatile ones share theirs apart from the message they stand in."""
    sizes = [min(len(p.json), _MEDIA_CHARACTERS) if "source" in p.block else len(p.json) for p in pieces]
    keys = [(piece.volatile, piece.seq) for piece in pieces]
    totals: dict[tuple[bool, int], int] = {}
    for key, size in zip(keys, sizes, strict=True):
        totals[key] = totals.get(key, 0) + size
    return [
        (volatile_tokens if key[0] else message_tokens)[key[1]] * size / totals[key]
        for key, size in zip(keys, sizes, strict=True)
    ]
